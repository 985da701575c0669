"""Make a committed run again, and compare: what a sceptic does first."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sparse_train.errors import require
from sparse_train.report.launch.child import attend
from sparse_train.report.launch.reproduce import multirun, require_same_runs
from sparse_train.report.results import COMPLETE, MADE, TIMES, Records, Results, complete
from sparse_train.report.sweeps import Sweep

# With these the same, so is every bit.
PLACE = ("device", "instructions", "cudnn", "processes", "torch", "threads", "compile", "execution", "environment")
OTHERS = ("git", "status", "scale", *PLACE, *TIMES, *MADE)


def rerun(sweep: Sweep, results_dir: Path, run: str | None, extra: Sequence[str]) -> tuple[bool, str]:
    """Train one committed run anew, in a directory of its own that is removed again.

    Where hardware, libraries, threads and processes are those of the committed run, all its metrics must come out the
    same to the bit; elsewhere its accuracy must lie within twice the standard deviation over the committed seeds. An
    older record does not name the CPU's instructions. That excuses no difference, and is named.

    Args:
        run: its id; None for the first complete one of the artifact.
        extra: further overrides, such as `data_dir=/data`.

    Returns:
        Whether it does, and what was found.

    Raises:
        ConfigError: for an artifact or id without a committed complete run, and an override that makes it another run.
    """
    results = Results(results_dir, sweep.scale)
    rows = complete(results.runs(sweep))
    require(len(rows), "artifact", sweep.name, f"there are no committed runs of it in {results.path}")
    chosen = rows if run is None else rows[rows["id"] == run]
    require(len(chosen), "run", run, f"must be the id of a complete run in {results.path}")
    before, compiled = chosen.iloc[0], chosen.iloc[0].get("compile")
    as_before = [f"threads={int(before['threads'])}"]  # with compile, what changes only the last bits
    as_before += [] if pd.isna(compiled) else [f"compile={str(compiled).lower()}"]
    as_before += [] if pd.isna(executed := before.get("execution")) else [f"execution={executed.split()[0]}"]
    cell = next(cell for cell in sweep.cells if cell.id == before["id"])
    require_same_runs(sweep, [cell], extra)
    with tempfile.TemporaryDirectory() as runs_dir:
        training = multirun(sweep, [cell], Path(runs_dir), [*as_before, *extra])
        attend(training, stdout=sys.stderr)
        after = (
            Results(Path(runs_dir), sweep.scale, Records([Path(runs_dir)]))
            .runs(sweep)
            .set_index("id", drop=False)
            .loc[cell.id]
        )
    if after["status"] != COMPLETE:
        return False, f"{sweep.name} {cell.id}: {after['status']}, while the committed run is complete"
    fine, told = verdict(before, after, spread_over_seeds(before, rows, sweep) if "test_acc" in before else None)
    return fine, f"{sweep.name} {cell.id}: {told}"


def verdict(before: pd.Series, after: pd.Series, spread: float | None) -> tuple[bool, str]:
    """Whether a run's row is as it was before, and why not.

    Args:
        spread: the standard deviation of the accuracy over seeds; None for a measurement, which has no accuracy.
    """
    changed = [key for key in before.index if key in after and key not in OTHERS and not _same(before[key], after[key])]
    told = ", ".join(f"{key} {before[key]} committed, {after[key]} now" for key in changed) or "the same to the bit"
    elsewhere = [key for key in PLACE if not _same(before.get(key), after.get(key))]
    unnamed = "instructions" in elsewhere and pd.isna(before.get("instructions"))
    if unnamed:
        elsewhere.remove("instructions")
    if elsewhere:
        told += "; made with " + ", ".join(f"{key} {before.get(key)}, not {after.get(key)}" for key in elsewhere)
    if changed and unnamed:
        told += "; the committed record does not name its CPU's instructions, which may be others"
    if elsewhere and changed and spread is not None:
        fine = abs(after["test_acc"] - before["test_acc"]) <= 2 * spread
        within = "within" if fine else "not within"
        return bool(fine), f"{told}; test accuracy {within} twice the seeds' standard deviation, {spread:.2f}"
    return not changed, told


def _same(a, b) -> bool:
    return bool(a == b) or (pd.isna(a) and pd.isna(b))


def spread_over_seeds(row: pd.Series, rows: pd.DataFrame, sweep: Sweep) -> float:
    """The standard deviation of the accuracy over the seeds of this setting; not a number with one seed."""
    others = [key for key in sweep.factors if key != "seed" and key in rows]
    alike = rows[(rows[others].fillna("") == row[others].fillna("")).all(axis=1)]
    return float(alike["test_acc"].std())
