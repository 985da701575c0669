"""What a kind of figure is: how it is drawn, from what, and what it shows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Material:
    """What a figure is drawn from.

    Attributes:
        runs: one row per run, complete or not.
        rows: their histories or measured rows; empty where the kind needs none.
        spec: the sweep file's `figure`, with the sweep's `factors` and its words for `methods`.
    """

    runs: pd.DataFrame
    rows: pd.DataFrame
    spec: dict
    at_paper_scale: bool = True

    @property
    def papers(self) -> bool:
        """Whether the paper's numbers stand beside ours: at its scale, where it has them."""
        return self.at_paper_scale and bool(self.spec.get("paper"))


@dataclass(frozen=True)
class Kind:
    """One kind of figure.

    Attributes:
        about: what it shows, one sentence.
        needs: the columns of the history that it needs: () all of them, None no history.
    """

    draw: Callable[[Material], Figure]
    about: str
    needs: tuple[str, ...] | None = ()


def groups(rows: pd.DataFrame, by: str | list[str], **options: bool) -> Iterable:
    """`rows.groupby(by)`; nothing where there are no rows, which then have no columns either."""
    return rows.groupby(by, **options) if len(rows) else ()


def having(rows: pd.DataFrame, key: str, value: object) -> pd.DataFrame:
    """The rows with this value of a key; likewise none of none."""
    return rows[rows[key] == value] if len(rows) else rows
