"""What is there of a sweep, what is missing, and launching that."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sparse_train import segments
from sparse_train.report import cost, slurm
from sparse_train.report.collect import COMPLETE, MISSING, Records
from sparse_train.report.launch import Launcher, launch, missing
from sparse_train.report.sweeps import Cell, Sweep
from sparse_train.source import training_code


def status(sweep: Sweep, records: Records, runs_dir: Path) -> str:
    """`table1: 31/36 complete, 2 running, 3 missing; in SLURM's queue: 2 running, 3 pending`."""
    counts = Counter(map(records.status, sweep.cells))
    done = counts.pop(COMPLETE, 0)
    rest = "".join(f", {count} {word}" for word, count in sorted(counts.items()))
    queued = slurm.queue(slurm.place(runs_dir, sweep.name))
    waiting = ", ".join(f"{count} {state.lower()}" for state, count in sorted(queued.items(), reverse=True))
    return f"{sweep.name}: {done}/{len(sweep.cells)} complete{rest}{f'; in the queue: {waiting}' * bool(waiting)}"


def plan(sweep: Sweep, records: Records, before: set[str], speeds: cost.Speeds, gpus: int) -> str:
    """What launching would do, after the runs whose ids are in `before`."""
    new = [cell for cell in missing(sweep.cells, records) if cell.id not in before]
    return f"{sweep.name}: {cost.of(sweep.cells, speeds)}; new: {cost.of(new, speeds, gpus)}"


def reproduce(
    sweep: Sweep, runs_dir: Path, records: Records, launcher: Launcher, extra: Sequence[str]
) -> tuple[list[str], Records]:
    """Launch what is missing.

    Args:
        records: as they are before.
        extra: further overrides of the training runs.

    Returns:
        A line for each run that has no result now, with the reason; and the records as they are now.

    Raises:
        ConfigError: for jobs that SLURM does not take.
    """
    if launcher.name == "slurm" and (queued := slurm.queue(slurm.place(runs_dir, sweep.name))):
        words = f"{sweep.name}: {queued.total()} jobs are in the queue already; `make cancel-{sweep.name}` ends them"
        return [words], records
    records = launch(sweep, runs_dir, records, launcher, extra)
    owed = [] if launcher.name == "slurm" else missing(sweep.cells, records)
    return [_without_result(cell, records) for cell in owed], records


def made_before(sweep: Sweep, records: Records) -> str | None:
    """That other code of ours made some of the runs that are there, in words; None if this did, as far as is known."""
    made = [segments.codes(found[1]) for cell in sweep.cells if (found := records.complete(cell)) is not None]
    others = [codes for codes in made if codes not in ([], [training_code()])]
    said = f"other code than this (hash {training_code()}) made {len(others)} of {len(made)} complete runs"
    advice = "to train one again, delete its directory, or give its own command resume=fresh"
    return f"{sweep.name}: {said}; {advice}" if others else None


def _without_result(cell: Cell, records: Records) -> str:
    options = " ".join(f"{key}={value}" for key, value in cell.options.items())
    if records.status(cell) == MISSING:
        return f"{cell.id} missing: {options}"
    where, record = records.found[cell.id]
    reason = f": {record['reason']}" if "reason" in record else ""
    return f"{where} {record['status']}{reason} ({options})"
