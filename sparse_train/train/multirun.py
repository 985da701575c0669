"""Several runs from one command: which one prints, how they stop, and one list of failures at the end."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from joblib.externals.loky.backend import resource_tracker as loky_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sparse_train.config import run_id
from sparse_train.errors import first_line
from sparse_train.process.console import say, speak_as

ENDS = {signal.SIGINT, signal.SIGTERM}
ASKED = "SPARSE_TRAIN_ENDS"  # in the environment of worker processes that begin when an end was asked for already
FAILED = "failed.json"  # in `hydra.sweep.dir`: overrides and reason of each run that failed


class StoppedError(Exception):
    """A run of a worker process that a signal stopped: it saved and ended, or did not start."""


def install() -> None:
    """Have Hydra take this sweeper wherever a configuration names its basic one."""
    Plugins.instance().class_name_to_class[f"{basic_sweeper.__name__}.BasicSweeper"] = Multirun


class Multirun(Sweeper):
    """Wraps Hydra's basic sweeper, which by itself reports only the first failure and lets joblib kill the workers."""

    def __init__(self, **options: Any):
        self.basic = basic_sweeper.BasicSweeper(**options)
        self.asked: list[int] = []

    def setup(self, *, hydra_context: HydraContext, task_function: Callable, config: DictConfig) -> None:
        self.job = Job(task_function, workers="joblib" in config.hydra.launcher._target_)
        self.basic.setup(hydra_context=hydra_context, task_function=self.job, config=config)
        self.launcher, self.basic.launcher = self.basic.launcher, self

    def sweep(self, arguments: list[str]) -> Sequence[Sequence[JobReturn]]:
        try:
            with _passing_on(self.asked) if self.job.workers else nullcontext():
                return self.basic.sweep(arguments)
        except OSError as error:  # its runs say their own; this is of the sweep's directory
            _fail(f"error: runs_dir={self.basic.config.runs_dir}: cannot be written ({error.strerror})")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """The basic sweeper calls this: it launches the runs, writes down all failures, then reports them together."""
        self.job.of = sum(map(len, self.basic.overrides))
        self.job.common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
        try:
            results = self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx) if not self.asked else []
        except TerminatedWorkerError:
            _fail("error: a worker process was killed; the same command resumes")
        failed = [one for one in results if one.status == JobStatus.FAILED and not _stopped(one)]
        if failed:
            said = [{"overrides": list(one.overrides), "reason": reason(one._return_value)} for one in failed]
            Path(self.basic.config.hydra.sweep.dir, FAILED).write_text(json.dumps(said))
            lines = [f"  {_words(one['overrides'], self.job.common)}: {one['reason']}" for one in said]
            _fail("\n".join([f"error: {len(said)} of {len(results)} runs failed:", *lines]))
        if any(map(_stopped, results)) and not self.asked:
            _fail("error: a single worker process was told to stop; the same command resumes")
        return [one for one in results if not _stopped(one)]


def _fail(words: str) -> NoReturn:
    """End the sweep with these words and status 1; after a signal, `_passing_on` sets the signal's status."""
    print(words, file=sys.stderr)
    sys.exit(1)


def _stopped(result: JobReturn) -> bool:
    return isinstance(result._return_value, StoppedError)


@dataclass
class Job:
    """One run of a multirun, called where it trains: in this process, in a worker's, in a job of SLURM's.

    Attributes:
        run: trains, given the configuration.
        workers: whether it is called in worker processes side by side, whose lines mix.
        of: the number of runs.
        common: overrides that all runs have.
    """

    run: Callable[[DictConfig], None]
    workers: bool
    of: int = 1
    common: frozenset[str] | set[str] = frozenset()

    def __call__(self, cfg: DictConfig) -> None:
        hydra = HydraConfig.get()
        name = _id(cfg)
        words = _words(hydra.overrides.task, self.common)
        with speak_as(name if self.workers else ""), _stopping() if self.workers else nullcontext():
            say(f"run {hydra.job.num + 1} of {self.of}: {words if self.workers else f'{name} {words}'}")
            try:
                self.run(cfg)
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


# --- how runs side by side stop ---


class _Worker:
    """Signals of this worker: whether an end was asked for (here or before it began), and whether it is training."""

    asked = ASKED in os.environ
    busy = False


@contextmanager
def _stopping() -> Iterator[None]:
    """A run in a worker process: a signal that asks for an end ends it by an exception that joblib can hand back.

    A worker that died of the signal would break joblib's pool, and the other workers would end before they have saved.

    Raises:
        StoppedError: once it has saved, and at once for every run after that.
    """
    for number in ENDS:
        if signal.getsignal(number) is not _end:
            signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
    if _Worker.asked:
        raise StoppedError
    _Worker.busy = True
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        _Worker.asked = True
        raise StoppedError from None
    finally:
        _Worker.busy = False


def _end(number: int, frame: FrameType | None) -> None:
    first, _Worker.asked = not _Worker.asked, True
    if first and _Worker.busy:
        sys.exit(128 + number)


@contextmanager
def _passing_on(asked: list[int]) -> Iterator[None]:
    """Pass signals that ask for an end on to joblib's workers while they train, and wait until they have saved.

    Workers start with these signals blocked, so that no signal kills a worker before it can answer. The main thread
    therefore blocks them, and another thread receives them.

    Args:
        asked: gets the signals that came.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        os.environ[ASKED] = "yes"
        for worker in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)

    over = threading.Event()
    threading.Thread(target=_receive, args=(over,), daemon=True).start()
    for tracker in (resource_tracker, loky_tracker):
        tracker.ensure_running()  # which unblocks them
    before = {number: signal.signal(number, pass_on) for number in ENDS}
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        yield
    finally:
        over.set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.environ.pop(ASKED, None)
        if asked:
            sys.exit(128 + asked[0])


def _receive(over: threading.Event) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
    over.wait()
