"""The state and the cost of runs: a line for one sweep, a table for several, whose total counts each run once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

from sparse_train.report import cost, screen
from sparse_train.report.launch import slurm
from sparse_train.report.results import COMPLETE, Records, Results
from sparse_train.report.sweeps import Cell, Sweep
from sparse_train.report.views.tables import HOLE

TOTAL = "each run once"


@dataclass(frozen=True)
class Counts:
    """The runs of one sweep, or of several, by their state.

    Attributes:
        states: id -> state of the record here.
        here, committed: ids of complete runs.
        queued: state in SLURM's queue -> jobs.
    """

    states: dict[str, str]
    here: set[str]
    committed: set[str]
    queued: Counter[str]

    def __add__(self, other: "Counts") -> "Counts":
        """Of both; a run that is in both counts once."""
        states, queued = self.states | other.states, self.queued + other.queued
        return Counts(states, self.here | other.here, self.committed | other.committed, queued)

    @property
    def complete(self) -> int:
        return len(self.here | self.committed)

    @property
    def others(self) -> Counter[str]:
        """State -> runs that are complete neither here nor in committed records."""
        return Counter(state for name, state in self.states.items() if name not in self.here | self.committed)

    @property
    def waiting(self) -> str:
        """`2 running, 3 pending`."""
        return ", ".join(f"{number} {state.lower()}" for state, number in sorted(self.queued.items(), reverse=True))


def count(sweep: Sweep, records: Records, runs_dir: Path, results_dir: Path | None = None) -> Counts:
    """How many runs are in which state; see `status`."""
    states = {cell.id: records.status(cell) for cell in sweep.cells}
    here = {name for name, state in states.items() if state == COMPLETE}
    committed = set() if results_dir is None else Results(results_dir, sweep.scale).complete(sweep)
    return Counts(states, here, committed, slurm.queue(slurm.jobs_dir(runs_dir, sweep.name)))


def missing(cells: Sequence[Cell], records: Records) -> list[Cell]:
    """Those without a complete record."""
    return [cell for cell in cells if records.status(cell) != COMPLETE]


def status(sweep: Sweep, records: Records, runs_dir: Path, results_dir: Path | None = None) -> str:
    """`table1: 31/36 complete, 2 running, 3 missing; in SLURM's queue: 2 running, 3 pending`.

    Given the directory of results, a run counts too that committed records have as complete: `fig2: 32/32 complete
    (0 here, 32 in committed records)`.
    """
    found = count(sweep, records, runs_dir, results_dir)
    done = f"{found.complete}/{len(found.states)} complete"
    done += f" ({len(found.here)} here, {len(found.committed)} in committed records)" if found.committed else ""
    words = [done, *(f"{number} {state}" for state, number in sorted(found.others.items()))]
    return f"{sweep.name}: {', '.join(words)}" + (f"; in the queue: {found.waiting}" if found.queued else "")


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


def plan(sweep: Sweep, records: Records, speeds: cost.Speeds, gpus: int) -> str:
    """The cost of the whole sweep, and of the runs that launching it would train."""
    source = speeds.source(sweep.cells)
    costs = f"{cost.of(sweep.cells, speeds)}; new: {cost.of(missing(sweep.cells, records), speeds, gpus)}"
    return f"{sweep.name}: {costs}" + (f" ({source})" if source else "")


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
