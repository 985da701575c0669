"""Training what a sweep misses: one run after another, side by side on this machine, or by SLURM."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sparse_train.config import run_id
from sparse_train.errors import ConfigError, first_line, require
from sparse_train.record import segments
from sparse_train.report.launch import queue
from sparse_train.report.launch.child import attend, option
from sparse_train.report.launch.overview import missing
from sparse_train.report.results import MISSING, Records
from sparse_train.report.sweeps import Cell, Sweep, configuration, covering, file_of, sweep_dir
from sparse_train.source import training_code


@dataclass(frozen=True)
class Placement:
    """The options of LAUNCHER, JOBS, GPUS and PACK.

    Attributes:
        name: "serial", one run after another in one process; "local", side by side; "slurm", as jobs of an array.
        jobs: runs side by side, `pack` on each GPU if not given; a run has one CPU thread, whatever their number.
        gpus: the GPUs they are pinned to, in turn.
        pack: so many runs on each GPU at a time.
    """

    name: str = "serial"
    jobs: int | None = None
    gpus: tuple[int, ...] = ()
    pack: int = 1

    def __post_init__(self):
        given = {"JOBS": self.jobs, "GPUS": ",".join(map(str, self.gpus)), "PACK": self.pack if self.pack > 1 else None}
        instead = {
            "serial": "runs go one after another; LAUNCHER=local runs them side by side",
            "slurm": "each run is a job of its own; for many in one job: "
            "`sbatch docs/packed.sbatch make reproduce-NAME LAUNCHER=local ...` (docs/on-your-cluster.md)",
        }
        for key, value in given.items():
            right = f"with LAUNCHER={self.name} {instead.get(self.name)}"
            require(not value or self.name == "local", key, value, right)

    def overrides(self) -> list[str]:
        """Arguments of the training command."""
        if self.name == "serial":
            return []
        if self.name == "slurm":
            return ["hydra/launcher=slurm"]
        jobs = self.jobs or self.pack * max(1, len(self.gpus))
        pinned = [f"gpus=[{','.join(map(str, self.gpus))}]"] if self.gpus else []
        return ["hydra/launcher=local", f"hydra.launcher.n_jobs={jobs}", "threads=1", *pinned]


def reproduce(
    sweep: Sweep, runs_dir: Path, records: Records, placement: Placement, extra: Sequence[str]
) -> tuple[list[str], Records]:
    """Train what is missing of each grid, as one Hydra multirun each; a failing run does not stop the others.

    SLURM's jobs are only put into its queue.

    Args:
        records: as they are before.
        extra: further overrides of the training runs.

    Returns:
        A line for each run that failed or diverged, with the reason, then how many have no record, since the multirun
        has said why it refused them; and the records as they are now.

    Raises:
        ConfigError: for jobs that SLURM does not take, and for an override that makes other runs of these.
        SystemExit: for a signal, once the child has saved.
    """
    jobs, submits = queue.jobs_dir(runs_dir, sweep.name), placement.name == "slurm"
    if submits and (queued := queue.states(jobs)):
        words = f"{sweep.name}: {queued.total()} jobs are in the queue already; `make cancel-{sweep.name}` ends them"
        return [words], records
    require_same_runs(sweep, sweep.cells, extra)
    for grid in sweep.grids:
        if not (todo := missing(grid, records)):
            continue
        training = multirun(sweep, todo, runs_dir, [*placement.overrides(), *extra])
        if submits:
            queue.submit(training, jobs)
            continue
        attend(training)
        records = records.again()
    owed = [] if submits else missing(sweep.cells, records)
    lines = [_without_result(cell, records) for cell in owed if records.status(cell) != MISSING]
    if absent := len(owed) - len(lines):
        lines.append(f"{sweep.name}: {absent} missing: refused, as said above, or not started")
    return lines, records


def _without_result(cell: Cell, records: Records) -> str:
    where, record = records.found.get(cell.id, (cell.id, {"status": records.status(cell)}))
    options = " ".join(f"{key}={value}" for key, value in cell.options.items())
    reason = f": {record['reason']}" if "reason" in record else ""
    return f"{where} {record['status']}{reason} ({options})"


def multirun(sweep: Sweep, cells: list[Cell], runs_dir: Path, options: Sequence[str]) -> list[str]:
    """The Hydra multirun of the smallest product that has these cells of one grid, with further overrides."""
    values = [f"{key}={','.join(values)}" for key, values in covering(cells).items()]
    place = ["--config-dir", str(sweep_dir(sweep.name)), "--config-name", sweep.name]
    return [sys.executable, "-m", "sparse_train", *place, option("runs_dir", runs_dir), *values, *options]


def require_same_runs(sweep: Sweep, cells: Sequence[Cell], extra: Sequence[str]) -> None:
    """Refuse an override that changes the ids of runs: they would be trained, and their results not found.

    Raises:
        ConfigError: names the first such override.
    """
    words = (word.lstrip("+").partition("=") for word in extra)
    given = {key: value for key, equals, value in words if equals and not key.startswith(("hydra", "~"))}
    right = f"changes the ids of these runs, so their results would not count: write it into {file_of(sweep.name)}"
    for cell in cells if given else ():
        for key, value in given.items():
            try:
                same = run_id(configuration(sweep.name, cell.options | {key: value})) == cell.id
            except (HydraException, OmegaConfBaseException) as error:
                raise ConfigError(key, value, first_line(error)) from error
            require(same, key, value, right)


def made_before(sweep: Sweep, records: Records) -> str | None:
    """A warning if an earlier version of our code made some of the complete runs; else None."""
    made = [segments.codes(found[1]) for cell in sweep.cells if (found := records.complete(cell)) is not None]
    others = [codes for codes in made if codes not in ([], [training_code()])]
    said = f"other code than this (hash {training_code()}) made {len(others)} of {len(made)} complete runs"
    advice = "to train one again, delete its directory, or give its own command resume=fresh"
    return f"{sweep.name}: {said}; {advice}" if others else None
