"""The state and the cost of runs: a line and a grid or list for one sweep, a table for several.

The total of several counts each run once.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sparse_train.process.console import table
from sparse_train.report import cost
from sparse_train.report.launch import queue
from sparse_train.report.results import COMPLETE, MISSING, Records, Results
from sparse_train.report.sweeps import Cell, Sweep
from sparse_train.report.views.columns import HOLE

TOTAL = "each run once"
COMMITTED = "committed"
DONE = (COMPLETE, COMMITTED)


def states(sweep: Sweep, records: Records, results_dir: Path | None = None) -> dict[str, str]:
    """id -> the state of each run: of its record here, or `COMMITTED` where only the directory of results has it."""
    committed = {} if results_dir is None else Results(results_dir, sweep.scale).committed
    found = {cell.id: records.status(cell) for cell in sweep.cells}
    return {run: COMMITTED if state != COMPLETE and run in committed else state for run, state in found.items()}


def missing(cells: Sequence[Cell], records: Records) -> list[Cell]:
    """Those without a complete record."""
    return [cell for cell in cells if records.status(cell) != COMPLETE]


def status(sweep: Sweep, records: Records, runs_dir: Path, results_dir: Path | None = None) -> str:
    """`table1: 31/36 complete, 2 running, 3 missing; in the queue: 2 running, 3 pending`.

    Given the directory of results, a run counts too that is complete there: `fig2: 32/32 complete (32 only in committed
    records)`.
    """
    found = Counter(states(sweep, records, results_dir).values())
    done = f"{sum(found[state] for state in DONE)}/{found.total()} complete"
    done += f" ({found[COMMITTED]} only in committed records)" if found[COMMITTED] else ""
    words = [done, *(f"{number} {state}" for state, number in sorted(found.items()) if state not in DONE)]
    waiting = _waiting(queue.states(queue.jobs_dir(runs_dir, sweep.name)))
    return f"{sweep.name}: {', '.join(words)}" + (f"; in the queue: {waiting}" if waiting else "")


def _waiting(jobs: Counter[str]) -> str:
    """`2 running, 3 pending`, of SLURM's jobs by state."""
    return ", ".join(f"{number} {state.lower()}" for state, number in sorted(jobs.items(), reverse=True))


def grid(sweep: Sweep, records: Records, results_dir: Path) -> None:
    """Print how many seeds of each setting are complete, such as `2/3`, with a column for each value of one factor.

    That factor is the columns of the artifact's table, else the last one that varies. Nothing if none varies.
    """
    rows, column = axes(sweep)
    if column is None:
        return
    found = states(sweep, records, results_dir)
    values = list(dict.fromkeys(cell.factors.get(column, HOLE) for cell in sweep.cells))
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for cell in sweep.cells:
        setting = tuple(cell.factors.get(factor, HOLE) for factor in rows) or (sweep.name,)
        groups.setdefault(setting, {}).setdefault(cell.factors.get(column, HOLE), []).append(cell.id)

    def said(ids: Sequence[str]) -> str:
        counts = Counter(found[name] for name in ids)
        others = [f"{number} {state}" for state, number in sorted(counts.items()) if state not in (*DONE, MISSING)]
        return ", ".join([f"{sum(counts[state] for state in DONE)}/{len(ids)}", *others]) if ids else HOLE

    every = {value: [cell.id for cell in sweep.cells if cell.factors.get(column, HOLE) == value] for value in values}
    names = [_short(factor) for factor in rows] or ["artifact"]
    total = ["all", *[""] * (len(names) - 1), *(said(every[value]) for value in values)]
    head = [*names, *(f"{_short(column)}={value}" for value in values)]
    lines = [[*setting, *(said(cells.get(value, [])) for value in values)] for setting, cells in groups.items()]
    table(head, lines, total, words=range(len(names)))


def axes(sweep: Sweep) -> tuple[list[str], str | None]:
    """The factors of a grid's rows, and the one of its columns; of those that vary, seeds apart."""
    shown = sweep.artifact.get("table") or {}
    values = {factor: {cell.factors.get(factor) for cell in sweep.cells} for factor in sweep.factors}
    varying = [factor for factor in sweep.factors if factor != "seed" and len(values[factor]) > 1]
    if not varying:
        return [], None
    everywhere = [factor for factor in varying if all(factor in cell.factors for cell in sweep.cells)]
    column = shown["columns"] if shown.get("columns") in varying else (everywhere or varying)[-1]
    first = [factor for factor in shown.get("rows", []) if factor in varying and factor != column]
    return [*first, *(factor for factor in varying if factor not in (*first, column))], column


def _short(factor: str) -> str:
    return factor.rpartition(".")[2]


def listed(sweep: Sweep, records: Records) -> list[str]:
    """A line for each run that launching the sweep would train: its id, and what is its own among the options."""
    new = missing(sweep.cells, records)
    given = [set(cell.options.items()) for cell in new]
    common = set.intersection(*given) if len(given) > 1 else set()
    lines = []
    for cell in new:
        own = " ".join(f"{key}={value}" for key, value in cell.options.items() if (key, value) not in common)
        state = records.status(cell)
        lines.append(f"  {cell.id}  {own}{'' if state == MISSING else f'  ({state})'}")
    shared = [f"{key}={value}" for cell in new[:1] for key, value in cell.options.items() if (key, value) in common]
    return [f"{sweep.name}: {len(new)} runs to train{' '.join([', all with', *shared]) if shared else ''}", *lines]


def statuses(chosen: Sequence[Sweep], records: Records, runs_dir: Path, results_dir: Path) -> None:
    """Print how many runs of each sweep are in which state; `committed` are complete only in committed records."""
    each = {sweep.name: states(sweep, records, results_dir) for sweep in chosen}
    jobs = {name: queue.states(queue.jobs_dir(runs_dir, name)) for name in each}
    every = {run: state for found in each.values() for run, state in found.items()}
    others = sorted({*every.values()} - {*DONE})

    def row(name: str, found: dict[str, str], waiting: Counter[str]) -> list[str]:
        counts = Counter(found.values())
        numbers = [len(found), sum(counts[state] for state in DONE), *(counts[state] for state in (COMMITTED, *others))]
        return [name, *map(_number, numbers), _waiting(waiting)]

    head = ["artifact", "runs", "complete", "committed", *others, "in the queue"]
    rows = [row(name, found, jobs[name]) for name, found in each.items()]
    table(head, rows, row(TOTAL, every, sum(jobs.values(), Counter())))


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
    table(head, rows, [TOTAL, *_costs(every, missing(every, records), speeds, gpus), ""])


def _costs(cells: Sequence[Cell], new: Sequence[Cell], speeds: cost.Speeds, gpus: int) -> list[str]:
    every, rest = cost.of(list(cells), speeds), cost.of(list(new), speeds, gpus)
    hours = [rest.gpu_hours, rest.wall_clock / 3600, max(rest.seconds, default=0.0) / 3600]
    counts = [_number(len(cells)), _number(every.epochs), _hours(every.gpu_hours), _number(len(new))]
    return [*counts, *map(_hours, hours)]


def _number(count: int) -> str:
    return f"{count:,}" if count else HOLE


def _hours(hours: float) -> str:
    return cost.number(hours) if hours else HOLE
