"""What a kind of figure is: how it is drawn, from what, and what it shows."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from sparse_train.report.sweeps import PAPER, Sweep


@dataclass(frozen=True)
class Material:
    """What a figure is drawn from.

    Attributes:
        sweep: what was asked for, and how its file shows it.
        runs: one row per run, complete or not.
        rows: their histories or measured rows; empty where the kind needs none.
    """

    sweep: Sweep
    runs: pd.DataFrame
    rows: pd.DataFrame

    @property
    def spec(self) -> dict:
        """The sweep file's `figure`."""
        return self.sweep.artifact["figure"]

    @property
    def at_paper_scale(self) -> bool:
        return self.sweep.scale == PAPER

    @property
    def papers(self) -> str | None:
        """The paper's table or curves that stand beside ours: at its scale, where it has them."""
        return self.spec.get("paper") if self.at_paper_scale else None


@dataclass(frozen=True)
class Kind:
    """One kind of figure.

    Attributes:
        about: what it shows, one sentence.
        needs: the columns of the history that it needs: () all of them, None no history.
        panels: its numbers, where the page draws it too (`accuracy.Panel`).
    """

    draw: Callable[[Material], Figure]
    about: str
    needs: tuple[str, ...] | None
    panels: Callable[[Material], list] | None


KINDS: dict[str, Kind] = {}  # by the name that a sweep file calls it


def kind(needs: tuple[str, ...] | None = (), panels: Callable[[Material], list] | None = None) -> Callable:
    """Make a function a kind of figure of its name; the first paragraph of its docstring stands below the figure."""

    def register(draw: Callable[[Material], Figure]) -> Callable[[Material], Figure]:
        about = " ".join((draw.__doc__ or "").split("\n\n")[0].split())
        KINDS[draw.__name__.lstrip("_")] = Kind(draw, about, needs, panels)
        return draw

    return register
