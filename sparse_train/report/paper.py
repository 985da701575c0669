"""The paper's own numbers, as transcribed in `results/paper/`."""

from collections.abc import Mapping
from functools import cache

import pandas as pd

from sparse_train.errors import require
from sparse_train.source import ROOT

PAPER = ROOT / "results" / "paper"
SEEDS = 3  # behind its means: our reading, it names no number
FACTORS = ("dst", "sparsity", "optimizer", "renorm", "epochs")


@cache
def table(name: str) -> pd.DataFrame:
    """One row per cell: the factors as strings, `mean` and `std` in percent (NaN where the paper gives none)."""
    return pd.read_csv(PAPER / f"{name}.csv", dtype=dict.fromkeys(FACTORS, str))


def of_run(name: str, run: pd.Series) -> tuple[float, float] | None:
    """(mean, std) of the cell that a run belongs to, or None."""
    return value(name, **{key: str(run[key]) for key in FACTORS if key in run})


def value(name: str, **factors: str) -> tuple[float, float] | None:
    """(mean, std) of the one cell with these factors, or None where the paper has none."""
    rows = table(name)
    for key, wanted in factors.items():
        if key in rows:
            rows = rows[rows[key] == wanted]
    if len(rows) != 1:
        return None
    return float(rows["mean"].iloc[0]), float(rows["std"].iloc[0]) if "std" in rows else float("nan")


def cell(asked: Mapping[str, object], where: str) -> tuple[float, float]:
    """(mean, std) of the cell that a file names, by its `table` and its factors.

    Raises:
        ConfigError: if the paper has no such cell.
    """
    factors = {key: str(value) for key, value in asked.items()}
    found = value(factors.pop("table"), **factors)
    require(found is not None, where, asked, "must be a cell of the paper's tables")
    return found


@cache
def curve(name: str, sparsity: str) -> pd.DataFrame:
    """`optimizer`, `epochs`, `epoch`, and `acc` in percent, of one panel of Figure 3 or 4."""
    rows = pd.read_csv(PAPER / "curves" / f"{name}_{round(100 * float(sparsity))}.csv")
    method = rows.pop("method").map({"sparseopt": "sparseopt", "baseline": "sgd"})
    return rows.assign(optimizer=method, epochs=rows.pop("total_epochs").astype(str), acc=100 * rows["acc"])
