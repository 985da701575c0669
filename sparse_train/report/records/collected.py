"""The tidy tables that are committed under `results/records/`: how they are read, and what of them stays."""

import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sparse_train.errors import ConfigError
from sparse_train.report import sweeps
from sparse_train.report.records.collect import COMPLETE, passed_over
from sparse_train.report.records.results import unguarded
from sparse_train.report.sweeps import Sweep, scale_dir

# pandas reads numbers to the last bit from 3.1 on; before, only when told to.
EXACTLY = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}


def path(results_dir: Path, scale: str, name: str) -> Path:
    """Where an artifact's rows are committed."""
    return scale_dir(results_dir, scale) / "records" / f"{name}.csv"


def asked(rows: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """Those of the runs that the sweep asks for; a table may hold others."""
    return rows[rows["id"].isin([cell.id for cell in sweep.cells])]


def load(path: Path, factors: Iterable[str]) -> pd.DataFrame:
    """A collected table, its numbers to the last bit; factors are strings, as in a sweep.

    Raises:
        ConfigError: for a file that is not a table of records.
    """
    if not path.is_file():
        raise ConfigError("records", str(path), "is not a file")
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys([*factors, "id", "git", "code"], str), **EXACTLY)
    except (OSError, ValueError) as error:
        raise ConfigError("records", str(path), f"cannot be read ({type(error).__name__})") from error
    if "id" not in table:
        raise ConfigError("records", str(path), "is not a table of records: it has no column id")
    return unguarded(table)


def earlier(path: Path, factors: Iterable[str]) -> pd.DataFrame | None:
    """As `load`; None for a missing file, and for one that cannot be read, which is reported."""
    if not path.exists():
        return None
    try:
        return load(path, factors)
    except ConfigError as error:
        passed_over(path, error.right)
        return None


def kept(fresh: pd.DataFrame, path: Path, sweep: Sweep) -> pd.DataFrame:
    """`fresh` runs, with those that are missing taken from an earlier table.

    After a clone the committed rows are there and the runs are not; they count until the run is made again. So do rows
    of other tables beside it: the same id is the same run. Complete runs that the sweep does not ask for (any more)
    stay below the others. A table that cannot be read is moved aside.
    """
    before = _earlier_or_aside(path, sweep.factors)
    if fresh.empty:
        return fresh
    factors = {row["id"]: {f: row[f] for f in sweep.factors if f in row} for row in fresh.to_dict("records")}
    complete = {id_: {**row, **factors[id_]} for id_, row in elsewhere(path, sweep).items()}
    if before is not None:
        committed = before[before["status"] == COMPLETE].to_dict("records")
        complete |= {row["id"]: {**row, **factors.get(row["id"], {})} for row in committed}
    rows = [row if row["status"] == COMPLETE else complete.get(row["id"], row) for row in fresh.to_dict("records")]
    present = set(fresh["id"])
    others = [row for id_, row in complete.items() if id_ not in present]
    if others:
        words = f"{path}: {len(others)} complete runs that this sweep does not ask for stay; --replace takes them out"
        print(words, file=sys.stderr)
    return pd.DataFrame([*rows, *others])


def elsewhere(path: Path, sweep: Sweep) -> dict[str, dict]:
    """Runs of the sweep that other tables of its scale have as complete: id -> the row, without the other's factors."""
    found: dict[str, dict] = {}
    for other in sorted(path.parent.glob("*.csv")):
        if other != path and not other.name.endswith(".rows.csv"):
            rows = earlier(other, ())
            if rows is None or "status" not in rows:
                continue
            rows = asked(rows[rows["status"] == COMPLETE], sweep)
            if len(rows) and other.stem in sweeps.names():  # only then: composing a sweep takes a second
                rows = rows.drop(columns=sweeps.load(other.stem, sweep.scale).factors, errors="ignore")
            found |= {row["id"]: row for row in rows.to_dict("records") if row["id"] not in found}
    return found


def kept_rows(fresh: pd.DataFrame, path: Path, sweep: Sweep) -> pd.DataFrame:
    """The same for lines of history."""
    before = _earlier_or_aside(path, sweep.factors)
    if before is None:
        return fresh
    present = set(fresh["id"]) if len(fresh) else set()
    order = {cell.id: place for place, cell in enumerate(sweep.cells)}
    both = pd.concat([fresh, before[~before["id"].isin(present)]])
    return both.sort_values("id", key=lambda ids: ids.map(order), kind="stable").reset_index(drop=True)


def _earlier_or_aside(path: Path, factors: Iterable[str]) -> pd.DataFrame | None:
    before = earlier(path, factors)
    if before is None and path.exists():
        path.replace(path.with_name(f"{path.name}.unreadable"))
    return before
