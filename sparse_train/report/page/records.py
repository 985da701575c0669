"""The committed records of one artifact at one scale: its runs, a hole for each that is missing, and their history."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparse_train.config import SCIENCE, SCIENCE_OF
from sparse_train.report import sweeps
from sparse_train.report.records import collected
from sparse_train.report.records.collect import COMPLETE, MISSING
from sparse_train.report.sweeps import PAPER, Cell

FACETS = ("dataset", "dst", "sparsity", "optimizer")  # what the page filters by


@dataclass(frozen=True)
class Committed:
    """What `records/<name>.csv` holds of the runs that the sweep asks for.

    Attributes:
        cells: those runs; with the references that have a record.
        factors: every key of the sweep's grids.
        runs: one row per cell: data set, factors, id, status, and metrics where the run is complete.
        place: the directory of the scale.
    """

    name: str
    scale: str
    cells: list[Cell]
    factors: list[str]
    runs: pd.DataFrame
    place: Path

    @property
    def complete(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == COMPLETE] if len(self.runs) else self.runs

    def history(self) -> pd.DataFrame:
        """One row per epoch of every complete run; empty where none is committed."""
        rows = collected.earlier(self.place / "records" / f"{self.name}.rows.csv", self.factors)
        if rows is None or self.complete.empty:
            return pd.DataFrame()
        return rows[rows["id"].isin(self.complete["id"])]

    def facets(self) -> list[dict[str, str]]:
        """The distinct combinations of what the page filters by."""
        rows = [
            {key: row[key] for key in FACETS if isinstance(row.get(key), str)} for row in self.runs.to_dict("records")
        ]
        return [dict(pairs) for pairs in dict.fromkeys(tuple(row.items()) for row in rows)]


def scales_of(name: str, results_dir: Path) -> list[str]:
    """Where to look: the scale that the artifact is made for, and every one with records."""
    stated = sweeps.artifact(name).get("at", PAPER)
    here = [scale for scale in sweeps.every_scale() if collected.path(results_dir, scale, name).exists()]
    return [scale for scale in sweeps.every_scale() if scale in (*here, stated)]


def committed(name: str, scale: str, results_dir: Path) -> Committed:
    """Read one artifact; a table that is not one of records counts as none."""
    sweep = sweeps.load(name, scale)
    cells, factors = sweep.cells, sweep.factors
    held = collected.earlier(collected.path(results_dir, scale, name), factors)
    known = {}
    if held is not None:
        known = {row["id"]: row for row in held.to_dict("records")}
        expected = {cell.id for cell in cells}
        if set(known) - expected:
            offered = sweeps.load(name, scale, references=True).cells
            cells = [cell for cell in offered if cell.id in expected or cell.id in known]
    rows = [
        {**_factors(cell), "id": cell.id, "status": MISSING, **_metrics(known.get(cell.id, {}), factors)}
        for cell in cells
    ]
    return Committed(name, scale, cells, factors, pd.DataFrame(rows), sweeps.scale_dir(results_dir, scale))


def _factors(cell: Cell) -> dict[str, str]:
    """The data set as it was used, whatever the scale; the other factors as the sweep file has them."""
    uses_data = "dataset" in SCIENCE_OF.get(cell.factors.get("task"), SCIENCE)
    return {**cell.factors, "dataset": cell.dataset if uses_data else "synthetic"}


def _metrics(row: dict, factors: list[str]) -> dict:
    return {key: value for key, value in row.items() if key not in (*factors, "dataset", "id")}
