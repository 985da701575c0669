"""How a sweep is getting on: cells done, running, failed, the pace, and the time that is left."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from sparse_train.process.console import PACE, span
from sparse_train.record.files import read_json_lines
from sparse_train.record.integrity import HISTORY
from sparse_train.report.launch import overview, queue
from sparse_train.report.results import INTERRUPTED, MALFORMED, MISSING, UNREADABLE, Records
from sparse_train.report.sweeps import Sweep

QUIET = 60.0  # seconds without a run that trains, or a job in the queue, after which no run is expected
OPEN = ("running", INTERRUPTED, MISSING, UNREADABLE)  # runs that may still get a result
CLEAR = "\x1b[H\x1b[2J"


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
        found = {sweep.name: progress(sweep, records) for sweep in chosen}
        seen |= {sweep.name for sweep in _running(chosen, found)}
        shown = [sweep for sweep in chosen if sweep.name in seen] if everything else chosen
        blocks = [block(overview.status(sweep, records, runs_dir), found[sweep.name]) for sweep in shown]
        clear = CLEAR if sys.stdout.isatty() and not once else ""
        print(clear + ("\n\n".join(blocks) or "nothing is training"), flush=True)
        waiting = not shown or any(found[sweep.name]["status"].isin(OPEN).any() for sweep in shown)
        if once or not waiting:
            return
        busy = any((runs["status"] == "running").any() for runs in found.values())
        busy = busy or any(queue.states(queue.jobs_dir(runs_dir, sweep.name)) for sweep in shown)
        quiet = 0.0 if busy else quiet + every
        if quiet > QUIET:
            print(f"nothing has trained for {QUIET:.0f} s: the watch ends", flush=True)
            return
        sleep(every)


def _running(sweeps: Sequence[Sweep], found: dict[str, pd.DataFrame]) -> list[Sweep]:
    """Those with a run that is training, and that no earlier one shows."""
    shown: set[str] = set()
    kept = []
    for sweep in sweeps:
        runs = found[sweep.name]
        if ids := {*runs["id"][runs["status"] == "running"]} - shown:
            kept.append(sweep)
            shown |= ids
    return kept


def progress(sweep: Sweep, records: Records) -> pd.DataFrame:
    """One row a run: id, status as in `results.Records`, name, reason, `epochs` done `of` how many, and `pace`.

    The pace is in seconds per epoch; none where no epoch is done. A measurement has no epochs.
    """
    rows = []
    for cell in sweep.cells:
        run_dir, record = records.found.get(cell.id, (None, {"status": records.status(cell)}))
        seconds = _seconds(run_dir) if run_dir is not None and cell.epochs else []
        pace = sum(seconds[-PACE:]) / len(seconds[-PACE:]) if seconds else float("nan")
        about = {"name": record.get("name", cell.id), "reason": record.get("reason", "")}
        done = {"epochs": len(seconds), "of": cell.epochs, "pace": pace}
        rows.append({"id": cell.id, "status": record["status"], **about, **done})
    return pd.DataFrame(rows, columns=["id", "status", "name", "reason", "epochs", "of", "pace"])


def _seconds(run_dir: Path) -> list[float]:
    try:
        return [float(row["seconds"]) for row in read_json_lines(run_dir / HISTORY)]
    except (OSError, *MALFORMED):
        return []


def block(counts: str, runs: pd.DataFrame) -> str:
    """The sweep's counts on a line, then its runs that are training, then those without a result."""
    running = runs[runs["status"] == "running"]
    pace = (running if len(running) else runs)["pace"].mean()
    words = [counts, *([] if pd.isna(pace) else [f"{pace:.1f} s per epoch"])]
    left = time_left(runs)
    words += [f"about {span(left)} left with {max(len(running), 1)} at a time"] if left else []
    made = [f"{time.strftime('%H:%M:%S')} {'; '.join(words)}"]
    for one in running.itertuples():
        own = f"  {one.pace:8.1f} s per epoch  {span(one.pace * (one.of - one.epochs))} left" if one.pace > 0 else ""
        made.append(f"  running  {f'epoch {one.epochs:>3}/{one.of:<3}' if one.of else ''}{own}  {one.name}")
    ended = runs[runs["status"].isin(["failed", "diverged"])]
    return "\n".join([*made, *(f"  {one.status:8} {one.name}: {one.reason}" for one in ended.itertuples())])


def time_left(runs: pd.DataFrame) -> float | None:
    """Seconds until the runs that train or wait are done, at their own pace or else the mean, as many at a time as now.

    None before the first epoch, and for measurements. Failed and diverged runs do not count.
    """
    if runs["pace"].isna().all():
        return None
    waiting = runs[runs["status"].isin(OPEN)]
    work = (waiting["of"] - waiting["epochs"]) * waiting["pace"].fillna(runs["pace"].mean())
    return max([work.sum() / max((runs["status"] == "running").sum(), 1), *work])
