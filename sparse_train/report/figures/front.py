"""The picture on the front page: the amplification as measured, and our effects beside the paper's."""

from pathlib import Path
from textwrap import wrap

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparse_train.report import sweeps
from sparse_train.report.evidence.statements import Statement
from sparse_train.report.figures import style, theory
from sparse_train.report.files import held, write_figure
from sparse_train.report.results import Results
from sparse_train.report.sweeps import PAPER

AMPLIFICATION = "fig2"
INKS = {"light": ("#1f2328", "#e8e8e8"), "dark": ("#e6edf3", "#30363d")}  # of text and of the grid


def write(results_dir: Path, stated: list[Statement]) -> None:
    """Write `overview-light.svg` and `overview-dark.svg`, where Figure 2 is measured and statements have numbers."""
    compared = [one for one in stated if one.effect and len(one.published) == 1]
    rows = Results(results_dir).rows(sweeps.load(AMPLIFICATION))
    if not compared or rows.empty:
        return
    with held(results_dir):
        for theme, (ink, grid) in INKS.items():
            lines = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
            clear = dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none")
            colours = {**dict.fromkeys(lines, ink), **clear, "grid.color": grid}
            with style.context({"svg.hashsalt": AMPLIFICATION, **colours}):
                write_figure(results_dir / f"overview-{theme}.svg", drawn(rows, compared))


def drawn(rows: pd.DataFrame, compared: list[Statement]) -> Figure:
    """Two panels, in matplotlib's present colours.

    Args:
        rows: the measured ones of Figure 2.
        compared: statements with an effect of ours and one number of the paper's.
    """
    figure = style.sized(0.8 + 0.45 * max(len(compared), 6))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.05])
    theory.by_sparsity(left, rows)
    left.legend(loc="upper left")
    left.set_title("Masking amplifies gradients before BN")
    _effects(right, compared)
    return figure


def _effects(axes: Axes, compared: list[Statement]) -> None:
    ink = matplotlib.rcParams["text.color"]
    for place, one in enumerate(compared):
        mean, *ends = one.effect
        reach = [[mean - ends[0]], [ends[1] - mean]] if ends else None
        paper, ours = ("paper", "ours") if not place else (None, None)
        axes.plot(*one.published, place, "o", color=style.BLUE, markerfacecolor="none", label=paper)
        axes.errorbar(mean, place, xerr=reach, fmt="o", color=style.BLUE, label=ours)
    axes.axvline(0, color=ink, linewidth=0.8)
    axes.set_yticks(range(len(compared)), ["\n".join(wrap(_words(one), 38)) for one in compared], fontsize=9)
    axes.set(
        title="Effects on test accuracy",
        xlabel="percentage points; bars are 95% intervals",
        ylim=(len(compared) - 0.5, -0.9),
    )
    axes.legend(loc="upper left", ncols=2)


def _words(one: Statement) -> str:
    size = "" if one.scale == PAPER else f", reduced scale {one.scale}"
    return f"{one.says} (n={one.n}{size})"
