"""The state of a sweep's runs, and launching the missing ones."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_train.record import segments
from sparse_train.report import cost
from sparse_train.report.launch import slurm
from sparse_train.report.launch.local import Launcher, launch, missing
from sparse_train.report.results import COMPLETE, MISSING, Records, Results
from sparse_train.report.sweeps import Cell, Sweep
from sparse_train.source import training_code


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


def plan(sweep: Sweep, records: Records, speeds: cost.Speeds, gpus: int) -> str:
    """The cost of the whole sweep, and of the runs that launching it would train."""
    source = speeds.source(sweep.cells)
    costs = f"{cost.of(sweep.cells, speeds)}; new: {cost.of(missing(sweep.cells, records), speeds, gpus)}"
    return f"{sweep.name}: {costs}" + (f" ({source})" if source else "")


def reproduce(
    sweep: Sweep, runs_dir: Path, records: Records, launcher: Launcher, extra: Sequence[str]
) -> tuple[list[str], Records]:
    """Launch what is missing.

    Args:
        records: as they are before.
        extra: further overrides of the training runs.

    Returns:
        Lines that say what has no result now: each run that failed or diverged, with the reason, then how many are
        missing; and the records as they are now.

    Raises:
        ConfigError: for jobs that SLURM does not take, and for an override that makes other runs of these.
    """
    if launcher.name == "slurm" and (queued := slurm.queue(slurm.jobs_dir(runs_dir, sweep.name))):
        words = f"{sweep.name}: {queued.total()} jobs are in the queue already; `make cancel-{sweep.name}` ends them"
        return [words], records
    records, reasons = launch(sweep, runs_dir, records, launcher, extra)
    owed = [] if launcher.name == "slurm" else missing(sweep.cells, records)
    told = [cell for cell in owed if cell.id in reasons or records.status(cell) != MISSING]
    lines = [_without_result(cell, records, reasons) for cell in told]
    if absent := len(owed) - len(told):
        lines.append(f"{sweep.name}: {absent} missing: not started, or stopped before they had a record")
    return lines, records


def made_before(sweep: Sweep, records: Records) -> str | None:
    """That other code of ours made some of the runs that are there, in words; None if this did, as far as is known."""
    made = [segments.codes(found[1]) for cell in sweep.cells if (found := records.complete(cell)) is not None]
    others = [codes for codes in made if codes not in ([], [training_code()])]
    said = f"other code than this (hash {training_code()}) made {len(others)} of {len(made)} complete runs"
    advice = "to train one again, delete its directory, or give its own command resume=fresh"
    return f"{sweep.name}: {said}; {advice}" if others else None


def _without_result(cell: Cell, records: Records, reasons: dict[str, str]) -> str:
    options = " ".join(f"{key}={value}" for key, value in cell.options.items())
    status = "failed" if cell.id in reasons else records.status(cell)
    where, record = records.found.get(cell.id, (cell.id, {"status": status}))
    reason = reasons.get(cell.id) or record.get("reason")
    return f"{where} {record['status']}{f': {reason}' if reason else ''} ({options})"
