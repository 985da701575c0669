"""One style for all figures."""

from textwrap import wrap

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision; markers and dashes tell the rest.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
GREY = "#8c8c8c"  # the paper's numbers
COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":")
OPTIMIZERS = {"sparseopt": 0, "sgd": 1, "sparseopt_ham": 2, "ham": 3}  # the same look in every figure
REFERENCES = {"dense": (BLACK, "-"), "static": (GREY, ":")}

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e8e8e8",
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.4,
        "lines.markersize": 4.5,
        "pdf.fonttype": 42,
        "savefig.dpi": 160,
    }
)


def panels(rows: int, columns: int, title: str, share_y: bool | str = True) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of panels and a title."""
    figure = sized(3.1 * columns + 0.4, 2.6 * rows + 0.55, title)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=share_y).tolist()


def sized(width: float, height: float, title: str) -> Figure:
    """An empty figure of that many inches, its title wrapped."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle("\n".join(wrap(title, round(12.5 * width))), fontsize=10)
    return figure


def band(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, dash: str, colour: str, text: str | None, marker: str = ""
) -> None:
    """The mean of `y` over `x` as a line, with a few markers if any, one standard deviation as a band.

    A line of a single point is a marker.
    """
    over_seeds = rows.groupby(x)[y]
    mean, std = over_seeds.mean(), over_seeds.std().fillna(0)
    few = max(1, len(mean) // 6)
    marker = marker or ("o" if len(mean) == 1 else "")
    axes.plot(mean.index, mean, dash, color=colour, label=text, marker=marker, markevery=few)
    spread(axes, mean, std, y, colour)


def spread(axes: Axes, mean: pd.Series, std: pd.Series, value: str, colour: str) -> None:
    """A band of one standard deviation; an accuracy is a percentage, so its band stays within 0 and 100."""
    low, high = mean - std, mean + std
    if value.endswith("_acc"):
        low, high = low.clip(0, 100), high.clip(0, 100)
    axes.fill_between(mean.index, low, high, color=colour, alpha=0.15, linewidth=0)


def widen(axes: Axes, span: float) -> None:
    """Let the vertical axis cover at least so much, so that noise does not fill a panel."""
    low, high = axes.get_ylim()
    if high - low < span:
        middle = (low + high) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)


def look(optimizer: str) -> dict:
    """Colour and marker of a method."""
    place = OPTIMIZERS.get(optimizer, 5)
    return {"color": COLOURS[place], "marker": MARKERS[place]}


def legend(figure: Figure, axes: Axes, columns: int = 6) -> None:
    """One legend below all panels, each entry once, in as many columns as have room."""
    handles = {}
    for one in figure.axes:
        for handle, text in zip(*one.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    if handles:
        widest = 0.55 + 0.06 * max(map(len, handles))  # inches of an entry
        fitting = max(1, int(figure.get_figwidth() / widest))
        ncols = min(len(handles), columns, fitting)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols)
    else:
        hole(axes)


def hole(axes: Axes) -> None:
    """Say in a panel that it has no runs."""
    axes.text(0.5, 0.5, "no complete run yet", transform=axes.transAxes, ha="center", color=GREY)
