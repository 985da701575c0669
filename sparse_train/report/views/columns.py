"""What a table or list shows of runs that differ by their seed alone: an entry of `COLUMNS` for each kind of column.

A sweep file names a column by its kind and a metric, `median test_acc`; a metric alone takes the default, which
is the mean. Markdown, LaTeX, CSV and the page take words, numbers and texts from here.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd

HOLE = "·"  # shown where no run is complete
SHARES = ("itop_rate", "flops/", "neurons/growth_share", "neurons/layer_growth_share")  # shown in percent


def mean_std(mean: float, std: float | None = None) -> str:
    """`61.00 ± 1.00`; the mean alone where there is no deviation."""
    return f"{mean:.2f}" if std is None or pd.isna(std) else f"{mean:.2f} ± {std:.2f}"


class Column(NamedTuple):
    """A kind of column.

    Attributes:
        words: added to the head after the metric's name; empty for the default kinds.
        numbers: what it computes from the values of complete runs: a name in the CSV -> what pandas' `agg` takes.
        text: these numbers, in this order -> what a reader sees.
    """

    words: str
    numbers: Mapping[str, str | Callable[[pd.Series], float]]
    text: Callable[..., str]


COLUMNS = {
    "mean": Column("", {"mean": "mean", "std": "std"}, mean_std),
    "average": Column("", {"mean": "mean"}, "{:.4g}".format),  # what a summary has: of any magnitude
    "median": Column("median", {"median": "median"}, "{:.2f}".format),
    "min": Column("lowest seed", {"min": "min"}, "{:.2f}".format),
    "max": Column("highest seed", {"max": "max"}, "{:.2f}".format),
}


def split(column: str, usual: str = "mean") -> tuple[str, str]:
    """Kind and metric: `median test_acc`, or a metric alone, which may have spaces too."""
    kind, _, metric = column.partition(" ")
    return (kind, metric) if kind in COLUMNS and metric else (usual, column)


def unit(metric: str) -> float:
    """What takes a metric to the unit that is shown."""
    return 100.0 if metric.startswith(SHARES) else 1.0


def numbers(column: str, groups: pd.api.typing.DataFrameGroupBy) -> pd.DataFrame:
    """A row for each group of runs; the names of the numbers end in the metric: `median test_acc`."""
    kind, metric = split(column)
    return unit(metric) * groups[metric].agg(**{f"{key} {metric}": how for key, how in COLUMNS[kind].numbers.items()})


def text(column: str, done: pd.DataFrame, usual: str = "mean") -> str:
    """The text of a cell; empty if no complete run has the metric."""
    kind, metric = split(column, usual)
    values = unit(metric) * done[metric].dropna() if metric in done else pd.Series(dtype=float)
    if values.empty:
        return ""
    found = (how(values) if callable(how) else values.agg(how) for how in COLUMNS[kind].numbers.values())
    return COLUMNS[kind].text(*found)
