"""Several runs from one command: in this process, side by side, or as SLURM's jobs; and one list of failures."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NoReturn

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sparse_train.config import run_id
from sparse_train.errors import first_line, require
from sparse_train.process.console import STDERR, say, speak_as
from sparse_train.process.workers import spread
from sparse_train.train import slurm


def install() -> None:
    """Have Hydra know our launchers, and take our sweeper wherever a configuration names its basic one."""
    known = Plugins.instance().class_name_to_class
    known[f"{basic_sweeper.__name__}.BasicSweeper"] = Multirun
    known |= {f"hydra_plugins.sparse_train.{launcher.__name__}": launcher for launcher in (Local, Slurm)}


class Multirun(Sweeper):
    """Wraps Hydra's basic sweeper, which by itself reports only the first failure."""

    def __init__(self, **options: Any):
        self.basic = basic_sweeper.BasicSweeper(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: Callable, config: DictConfig) -> None:
        self.job = Job(task_function)
        self.basic.setup(hydra_context=hydra_context, task_function=self.job, config=config)
        self.launcher, self.basic.launcher = self.basic.launcher, self
        self.job.aside = isinstance(self.launcher, Local)

    def sweep(self, arguments: list[str]) -> Sequence[Sequence[JobReturn]]:
        self.done: list[tuple[Sequence[str], Any]] = []  # overrides and accuracy of each run so far
        try:
            results = self.basic.sweep(arguments)
            self.summarize()
            return results
        except OSError as error:  # its runs say their own; this is of the sweep's directory
            _fail(f"error: runs_dir={self.basic.config.runs_dir}: cannot be written ({error.strerror})")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """The basic sweeper calls this: it launches the runs, and reports all failures together."""
        self.job.of = sum(map(len, self.basic.overrides))
        self.job.common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
        results = self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx)
        failed = [one for one in results if one.status == JobStatus.FAILED]
        self.done += [(one.overrides, one.return_value) for one in results if one.status == JobStatus.COMPLETED]
        if failed:
            self.summarize()
            lines = [f"  {_words(one.overrides, self.job.common)}: {reason(one._return_value)}" for one in failed]
            _fail("\n".join([f"error: {len(failed)} of {len(results)} runs failed:", *lines]))
        return results

    def summarize(self) -> None:
        """Say the accuracy of each setting, over its seeds."""
        if not self.done:
            return
        words = list(self.done[0][0])
        dataset = self.basic.hydra_context.config_loader.load_sweep_config(self.basic.config, words).dataset
        for line in table(self.done, "validation" if dataset.get("validation") else "test"):
            say(line)


def table(done: Sequence[tuple[Sequence[str], float | None]], images: str) -> list[str]:
    """Setting, number of seeds, mean accuracy and sample standard deviation, a line for each setting.

    Args:
        done: overrides and accuracy in percent of each run; runs without an accuracy are left out.
        images: that the accuracy is of.
    """
    scored = [(words, accuracy) for words, accuracy in done if accuracy is not None]
    if len(scored) < 2:
        return []
    common = set.intersection(*(set(words) for words, _ in scored))
    found: dict[str, list[float]] = {}
    for words, accuracy in scored:
        varied = [word for word in words if word not in common and not re.match(r"\+*seed=", word)]
        found.setdefault(" ".join(varied) or "all runs", []).append(accuracy)
    width = max(map(len, [*found, "setting"]))
    rows = [
        f"{setting:{width}}  {len(each):2}  {mean(each):6.2f}  {f'{stdev(each):5.2f}' if len(each) > 1 else '    -'}"
        for setting, each in found.items()
    ]
    return [f"{images} accuracy in percent", f"{'setting':{width}}   n    mean     sd", *rows]


def _fail(words: str) -> NoReturn:
    """End the sweep with these words and status 1."""
    print(words, file=STDERR)
    sys.exit(1)


@dataclass
class Job:
    """One run of a multirun, called where it trains: in this process, in a worker's, in a job of SLURM's.

    Attributes:
        run: trains, given the configuration; gives the accuracy.
        aside: whether others train beside it, whose lines mix.
        of: the number of runs.
        common: overrides that all runs have.
    """

    run: Callable[[DictConfig], float | None]
    aside: bool = False
    of: int = 1
    common: frozenset[str] | set[str] = frozenset()

    def __call__(self, cfg: DictConfig) -> float | None:
        hydra = HydraConfig.get()
        name = _id(cfg)
        words = _words(hydra.overrides.task, self.common)
        with speak_as(name if self.aside else ""):
            say(f"run {hydra.job.num + 1} of {self.of}: {words if self.aside else f'{name} {words}'}")
            try:
                return self.run(cfg)
            except Exception as error:
                trace = "" if isinstance(error, CompactHydraException) else traceback.format_exc()
                say(f"{trace}error: {reason(error)}")
                raise


def reason(error: Exception) -> str:
    """One line for what ended a run."""
    said = first_line(error)
    expected = isinstance(error, CompactHydraException)
    return said.removeprefix("error: ") if expected else f"{type(error).__name__}: {said}"


def _words(overrides: Sequence[str], common: set[str] | frozenset[str]) -> str:
    """Those that tell the run from the others."""
    return " ".join(word for word in overrides if word not in common)


def _id(cfg: DictConfig) -> str:
    try:
        return run_id(cfg)
    except (OmegaConfBaseException, ValueError, AttributeError):  # which the run itself says well
        return "?"


# --- where they run ---


@dataclass
class Remote:
    """Calls the job in another process, which begins without Hydra's state."""

    context: HydraContext
    config: DictConfig
    job: Job
    state: Any

    def __call__(self, overrides: Sequence[str], number: int) -> float | str | None:
        """Compose and train one run; gives its accuracy, or in words why it failed."""
        setup_globals()
        Singleton.set_state(self.state)
        cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg.hydra.job) as job:
            job.id, job.num = str(number), number
        places = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
        done = run_job(task_function=self.job, config=cfg, hydra_context=self.context, **places)
        return reason(done._return_value) if done.status == JobStatus.FAILED else done.return_value

    def checkpoint(self, *arguments: Any) -> Any:
        """submitit's question what to put back into the queue, at SLURM's signal: the same, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


class Aside(Launcher):
    """Launches runs in other processes; a subclass says how in `calls`, which gives what `Remote` does."""

    def setup(self, *, hydra_context: HydraContext, task_function: Callable, config: DictConfig) -> None:
        self.context, self.job, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        remote = Remote(self.context, self.config, self.job, Singleton.get_state())
        told = [list(overrides) for overrides in job_overrides]
        found = self.calls(remote, [(one, number) for number, one in enumerate(told, initial_job_idx)])
        return [
            JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=CompactHydraException(said))
            if isinstance(said, str)
            else JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=said)
            for overrides, said in zip(told, found, strict=False)
        ]

    def calls(self, remote: Remote, arguments: list[tuple]) -> Sequence[float | str | None]:
        raise NotImplementedError


class Local(Aside):
    """`hydra/launcher=local`: so many runs side by side on this machine, a process for each.

    Args:
        n_jobs: how many.
    """

    def __init__(self, n_jobs: int = 1):
        require(type(n_jobs) is int and n_jobs > 0, "hydra.launcher.n_jobs", n_jobs, "must be at least 1: processes")
        self.n_jobs = n_jobs

    def calls(self, remote: Remote, arguments: list[tuple]) -> Sequence[float | str | None]:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # however many run, so that results do not depend on it
        return spread(remote, arguments, self.n_jobs)


class Slurm(Aside):
    """`hydra/launcher=slurm`: the runs of a grid as one job array, by submitit.

    Args:
        wait: for the end of the jobs; otherwise only until they are in the queue.
        max_num_timeout: how often a run may return to the queue because its time was up.
        options: submitit's for SLURM; null for the cluster's default.
    """

    def __init__(self, wait: bool = True, max_num_timeout: int = 0, **options: Any):
        self.wait, self.max_num_timeout, self.options = wait, max_num_timeout, options

    def calls(self, remote: Remote, arguments: list[tuple]) -> Sequence[float | str | None]:
        import submitit

        folder = Path(self.config.hydra.sweep.dir, ".submitit", "%j")
        given = {key: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for key, v in self.options.items()}
        said = (re.fullmatch(r"\+*hydra\.launcher\.(\w+).*", word) for word in self.config.hydra.overrides.hydra)
        typed = {found[1] for found in said if found}
        if "additional_parameters" in typed:
            typed |= {*given["additional_parameters"]}
        with slurm.submitting(typed):
            executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout)
            try:
                executor.update_parameters(**slurm.parameters(given, typed))
                jobs = executor.map_array(remote, *zip(*arguments, strict=True))
            except (AssertionError, NameError) as error:  # submitit's, of a type and of a name
                _fail(f"error: hydra.launcher: {first_line(error)}; {slurm.FURTHER}")
            except submitit.core.utils.FailedJobError as error:
                _fail(f"error: launcher=slurm: SLURM accepted no job: {' '.join(str(error).split())}")
        return [job.results()[0] for job in jobs] if self.wait else []
