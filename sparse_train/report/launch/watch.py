"""How a sweep is getting on: cells done, running, failed, the pace, and the time that is left."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_train.process.console import PACE, span
from sparse_train.record.files import read_json_lines
from sparse_train.record.integrity import HISTORY
from sparse_train.report.launch import overview, slurm
from sparse_train.report.results import INTERRUPTED, MALFORMED, MISSING, UNREADABLE, Records
from sparse_train.report.sweeps import Cell, Sweep

QUIET = 60.0  # seconds without a run that trains, or a job in the queue, after which no run is expected
OPEN = ("running", INTERRUPTED, MISSING, UNREADABLE)  # runs that may still get a result
CLEAR = "\x1b[H\x1b[2J"


@dataclass(frozen=True)
class Progress:
    """One cell.

    Attributes:
        status: as in `results.Records`.
        epochs, of: done, and to do in all; both 0 for a measurement.
        pace: seconds per epoch; None where no epoch is done.
    """

    name: str
    status: str
    epochs: int
    of: int
    pace: float | None
    reason: str = ""


def watch(
    chosen: Sequence[Sweep],
    runs_dir: Path,
    more: Sequence[Path],
    every: float,
    once: bool,
    sleep: Callable = time.sleep,
) -> None:
    """Print a block for each sweep, again and again while one is trained; in place on a terminal.

    Between two runs none is training for a while. So it ends once every run has a result, has failed or has diverged;
    or when for a minute no run was training and no job was in the queue.

    Args:
        chosen: the sweeps; one of several is shown from the first look at which one of its runs trains.
        runs_dir, more: where runs are.
        every: seconds between two looks.
    """
    everything = len(chosen) > 1
    seen: set[str] = set()
    quiet = 0.0
    while True:
        records = Records([runs_dir, *more])
        found = {sweep.name: [progress(cell, records) for cell in sweep.cells] for sweep in chosen}
        seen |= {sweep.name for sweep in _running(chosen, found)}
        shown = [sweep for sweep in chosen if sweep.name in seen] if everything else chosen
        blocks = [block(overview.status(sweep, records, runs_dir), found[sweep.name]) for sweep in shown]
        clear = CLEAR if sys.stdout.isatty() and not once else ""
        print(clear + ("\n\n".join(blocks) or "nothing is training"), flush=True)
        waiting = not shown or any(one.status in OPEN for sweep in shown for one in found[sweep.name])
        if once or not waiting:
            return
        busy = any(one.status == "running" for cells in found.values() for one in cells)
        busy = busy or any(slurm.queue(slurm.jobs_dir(runs_dir, sweep.name)) for sweep in shown)
        quiet = 0.0 if busy else quiet + every
        if quiet > QUIET:
            print(f"nothing has trained for {QUIET:.0f} s: the watch ends", flush=True)
            return
        sleep(every)


def _running(sweeps: Sequence[Sweep], found: dict[str, list[Progress]]) -> list[Sweep]:
    """Those with a run that is training, and that no earlier one shows."""
    shown: set[str] = set()
    kept = []
    for sweep in sweeps:
        ids = {cell.id for cell, one in zip(sweep.cells, found[sweep.name], strict=True) if one.status == "running"}
        if ids - shown:
            kept.append(sweep)
            shown |= ids
    return kept


def progress(cell: Cell, records: Records) -> Progress:
    """How far one cell is, from its record and its history."""
    if cell.id not in records.found:
        return Progress(cell.id, records.status(cell), 0, cell.epochs, None)
    run_dir, record = records.found[cell.id]
    status, seconds = record["status"], _seconds(run_dir)
    pace = sum(seconds[-PACE:]) / len(seconds[-PACE:]) if seconds and cell.epochs else None
    done = len(seconds) if cell.epochs else 0
    return Progress(record.get("name", cell.id), status, done, cell.epochs, pace, record.get("reason", ""))


def _seconds(run_dir: Path) -> list[float]:
    try:
        return [float(row["seconds"]) for row in read_json_lines(run_dir / HISTORY)]
    except (OSError, *MALFORMED):
        return []


def block(counts: str, cells: Sequence[Progress]) -> str:
    """The sweep's counts on a line, then its runs that are training, then those without a result."""
    running = [one for one in cells if one.status == "running"]
    pace = _mean([one.pace for one in running or cells if one.pace is not None])
    words = [counts]
    words += [f"{pace:.1f} s per epoch"] if pace is not None else []
    left = time_left(cells)
    words += [f"about {span(left)} left with {max(len(running), 1)} at a time"] if left else []
    made = [f"{time.strftime('%H:%M:%S')} {'; '.join(words)}"]
    for one in running:
        own = f"  {one.pace:8.1f} s per epoch  {span(one.pace * (one.of - one.epochs))} left" if one.pace else ""
        made.append(f"  running  {f'epoch {one.epochs:>3}/{one.of:<3}' if one.of else ''}{own}  {one.name}")
    made += [f"  {one.status:8} {one.name}: {one.reason}" for one in cells if one.status in ("failed", "diverged")]
    return "\n".join(made)


def time_left(cells: Sequence[Progress]) -> float | None:
    """Seconds until the cells that run or wait are done, at their own pace or else the mean, as many at a time as now.

    None before the first epoch, and for measurements. Failed and diverged cells do not count.
    """
    mean = _mean([one.pace for one in cells if one.pace is not None])
    if mean is None:
        return None
    waiting = [one for one in cells if one.status in OPEN]
    work = [(one.of - one.epochs) * (mean if one.pace is None else one.pace) for one in waiting]
    at_a_time = max(sum(one.status == "running" for one in cells), 1)
    return max(sum(work) / at_a_time, max(work, default=0.0))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
