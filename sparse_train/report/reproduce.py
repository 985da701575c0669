"""Launch what is missing of a sweep, then draw it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sparse_train.report import cost
from sparse_train.report.collect import COMPLETE, Records
from sparse_train.report.sweeps import PAPER, SWEEPS, Sweep


def todo(sweep: Sweep, records: Records) -> list:
    """The cells without a complete record."""
    return [cell for cell in sweep.cells if records.status(cell) != COMPLETE]


def status(sweep: Sweep, records: Records) -> str:
    """`table1: 31/36 complete, 2 running, 3 missing`."""
    counts: dict[str, int] = {}
    for cell in sweep.cells:
        counts[records.status(cell)] = counts.get(records.status(cell), 0) + 1
    done = counts.pop(COMPLETE, 0)
    rest = "".join(f", {count} {word}" for word, count in sorted(counts.items()))
    return f"{sweep.name}: {done}/{len(sweep.cells)} complete{rest}"


def plan(sweep: Sweep, records: Records, before: set[str]) -> str:
    """What launching would do, after the runs whose ids are in `before`."""
    new = [cell for cell in todo(sweep, records) if cell.id not in before]
    return f"{sweep.name}: {cost.of(sweep.cells)}; new: {cost.of(new)}"


def launch(sweep: Sweep, records: Records, runs_dir: Path, extra: Sequence[str]) -> bool:
    """Run each grid that has something to train as a Hydra multirun; True if all went well.

    A failing run does not stop the others; complete runs of a grid return at once.
    """
    fine = True
    for grid in sweep.grids:
        if any(records.status(cell) != COMPLETE for cell in grid.cells):
            options = ["--config-dir", str(SWEEPS), "--config-name", sweep.name]
            command = [sys.executable, "-m", "sparse_train", *options, f"runs_dir={runs_dir}", *grid.overrides, *extra]
            fine &= subprocess.run(command, check=False).returncode == 0
    return fine


def place(runs_dir: Path, scale: str) -> Path:
    """Runs of a smaller scale have a directory of their own."""
    return runs_dir if scale == PAPER else runs_dir / scale
