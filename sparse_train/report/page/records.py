"""The committed records of one artifact at one scale: its runs, a hole for each that is missing, and their history."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from sparse_train.config import SCIENCE, SCIENCE_OF
from sparse_train.report import sweeps
from sparse_train.report.results import COMPLETE, Results
from sparse_train.report.sweeps import PAPER, Cell, Sweep

FACETS = ("dataset", "dst", "sparsity", "optimizer")  # what the page filters by


@dataclass(frozen=True)
class Committed:
    """What is committed of the runs that the sweep asks for.

    Attributes:
        cells: those runs; with the references that have a record.
        factors: every key of the sweep's grids.
        runs: one row per cell: data set, factors, id, status, and metrics where the run is complete.
        results: where they are.
    """

    name: str
    scale: str
    cells: list[Cell]
    factors: list[str]
    runs: pd.DataFrame
    results: Results

    @property
    def place(self) -> Path:
        """The directory of the scale."""
        return self.results.place

    @property
    def complete(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == COMPLETE] if len(self.runs) else self.runs

    def history(self) -> pd.DataFrame:
        """One row per epoch of every complete run; empty where none is committed."""
        return self.results.rows(Sweep(self.name, self.scale, {}, [self.cells]))

    def facets(self) -> list[dict[str, str]]:
        """The distinct combinations of what the page filters by."""
        rows = [
            {key: row[key] for key in FACETS if isinstance(row.get(key), str)} for row in self.runs.to_dict("records")
        ]
        return [dict(pairs) for pairs in dict.fromkeys(tuple(row.items()) for row in rows)]


def scales_of(name: str, results_dir: Path) -> list[str]:
    """Where to look: the scale that the artifact is made for, and every one with records."""
    stated = sweeps.artifact(name).get("at", PAPER)
    here = [scale for scale in sweeps.every_scale() if Results(results_dir, scale).drawn(name)]
    return [scale for scale in sweeps.every_scale() if scale in (*here, stated)]


def committed(name: str, scale: str, results_dir: Path) -> Committed:
    """Read one artifact: the runs of its sweep, and those of the references that are there."""
    results, sweep = Results(results_dir, scale), sweeps.load(name, scale)
    offered, expected = sweeps.load(name, scale, references=True), {cell.id for cell in sweep.cells}
    cells = [cell for cell in offered.cells if cell.id in expected or cell.id in results.committed]
    runs = results.runs(replace(sweep, grids=[cells]))
    data = {cell.id: _data(cell) for cell in cells}
    return Committed(name, scale, cells, sweep.factors, runs.assign(dataset=runs["id"].map(data)), results)


def _data(cell: Cell) -> str:
    """The data set as it was used, whatever the scale."""
    return cell.dataset if "dataset" in SCIENCE_OF.get(cell.factors.get("task"), SCIENCE) else "synthetic"
