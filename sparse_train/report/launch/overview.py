"""Several sweeps in one table: their runs by state, or their cost. The total counts a run of two sweeps once."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path

from sparse_train.report import cost, screen
from sparse_train.report.launch.local import missing
from sparse_train.report.launch.reproduce import Counts, count
from sparse_train.report.results import Records
from sparse_train.report.sweeps import Cell, Sweep
from sparse_train.report.views.tables import HOLE

TOTAL = "each run once"


def statuses(chosen: Sequence[Sweep], records: Records, runs_dir: Path, results_dir: Path) -> None:
    """Print how many runs of each sweep are in which state."""
    found = [count(sweep, records, runs_dir, results_dir) for sweep in chosen]
    states = sorted({state for one in found for state in one.others})

    def row(name: str, one: Counts) -> list[str]:
        numbers = [len(one.states), one.complete, len(one.here), len(one.committed), *(one.others[s] for s in states)]
        return [name, *map(_number, numbers), one.waiting]

    head = ["artifact", "runs", "complete", "here", "committed", *states, "in the queue"]
    rows = [row(sweep.name, one) for sweep, one in zip(chosen, found, strict=True)]
    screen.table(head, rows, row(TOTAL, reduce(add, found)))


def costs(chosen: Sequence[Sweep], records: Records, speeds: cost.Speeds, gpus: int) -> None:
    """Print what each sweep costs: in all, and what is not trained yet, less the runs of sweeps above it."""
    hours = "hours" if gpus == 1 else f"hours on {gpus} GPUs"
    head = ["artifact", "runs", "epochs", "GPU-hours", "new runs", "GPU-hours", hours, "longest", "speed"]
    rows, seen = [], {}
    for sweep in chosen:
        new = [cell for cell in missing(sweep.cells, records) if cell.id not in seen]
        rows.append([sweep.name, *_costs(sweep.cells, new, speeds, gpus), speeds.source(sweep.cells)])
        seen |= {cell.id: cell for cell in sweep.cells}
    every = list(seen.values())
    screen.table(head, rows, [TOTAL, *_costs(every, missing(every, records), speeds, gpus), ""])


def _costs(cells: Sequence[Cell], new: Sequence[Cell], speeds: cost.Speeds, gpus: int) -> list[str]:
    every, rest = cost.of(list(cells), speeds), cost.of(list(new), speeds, gpus)
    hours = [rest.gpu_hours, rest.wall_clock / 3600, max(rest.seconds, default=0.0) / 3600]
    counts = [_number(len(cells)), _number(every.epochs), _hours(every.gpu_hours), _number(len(new))]
    return [*counts, *map(_hours, hours)]


def _number(count: int) -> str:
    return f"{count:,}" if count else HOLE


def _hours(hours: float) -> str:
    return cost.number(hours) if hours else HOLE
