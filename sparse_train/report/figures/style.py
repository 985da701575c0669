"""One style for all figures."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from string import ascii_lowercase
from textwrap import wrap

import matplotlib.style
import pandas as pd
from matplotlib import cycler, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparse_train.report.views.columns import SHARES
from sparse_train.report.views.labels import label

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

WIDTH = 830 / 96  # inches: GitHub shows a picture of 830 pixels, 96 of which are an inch, so 9 pt are 9 pt there
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 192,
}
INK = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")


def _theme(ink: str, ground: str, grid: str, colours: Sequence[str]) -> dict[str, object]:
    grounds = dict.fromkeys(("axes.facecolor", "figure.facecolor"), ground)
    return {**dict.fromkeys(INK, ink), **grounds, "grid.color": grid, "axes.prop_cycle": cycler(color=colours)}


LIGHTER = ("#4aa3df", "#f0883e", "#2fc08f", "#e0a3c5", "#f0b429", "#9ad4f5")
THEMES = {  # of a reader's page, the dark ground being GitHub's
    "light": _theme(BLACK, "white", "#e8e8e8", COLOURS),
    "dark": _theme("#e6edf3", "#0d1117", "#30363d", LIGHTER),
}
THEMED = tuple(f"C{place}" for place in range(len(COLOURS)))  # `COLOURS` as matplotlib takes them from the theme


def context(theme: str = "light", more: Mapping[str, object] | None = None) -> AbstractContextManager:
    """Within it, figures are drawn and written in this style alone: a reader's matplotlibrc does not shape them.

    Args:
        theme: a key of `THEMES`.
        more: further settings of matplotlib.
    """
    return matplotlib.style.context(STYLE | THEMES[theme] | dict(more or {}), after_reset=True)


def ink(colour: str = BLACK) -> str:
    """A colour as the theme has it: black is that of its text."""
    if colour in COLOURS:
        return rcParams["axes.prop_cycle"].by_key()["color"][COLOURS.index(colour)]
    return rcParams["text.color"] if colour == BLACK else colour


def ground() -> str:
    """The colour inside hollow markers."""
    return rcParams["figure.facecolor"]


@dataclass(frozen=True)
class Look:
    """Of one line. A reference has no marker."""

    words: str
    colour: str
    marker: str
    dash: str = "-"


def look(optimizer: str, methods: Mapping[str, str] | None = None) -> Look:
    """That of a method, the same in every figure; `methods` are a sweep's words for optimizers."""
    place = OPTIMIZERS.get(optimizer, 5)
    return Look(label("optimizer", optimizer, methods), COLOURS[place], MARKERS[place])


def panels(rows: int, columns: int, share_y: bool | str = True, height: float = 2.3) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of panels, at most four across, each `height` inches high."""
    figure = sized(height * rows + 0.5)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=share_y).tolist()


def sized(height: float) -> Figure:
    """An empty figure, `height` inches high. It has no title: the caption is on its page and in the paper around it."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def empty() -> Figure:
    """A panel for what has no rows; `finish` writes so into it."""
    figure = sized(2.3)
    figure.subplots().set_axis_off()
    return figure


def finish(figure: Figure, note: str = "") -> None:
    """Letters before the titles of several panels, and a word in each that shows nothing.

    Args:
        note: stands above the panels, for it must not be lost with the caption: a reduced scale.
    """
    shown = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    for place, axes in enumerate(shown):
        if len(shown) > 1:
            axes.set_title(f"({ascii_lowercase[place]}) {axes.get_title()}".rstrip())
        if not axes.has_data():
            hole(axes, "no complete run yet")
    if note:
        figure.suptitle("\n".join(wrap(note, round(13.5 * figure.get_figwidth()))), fontsize=9)


def band(axes: Axes, points: pd.DataFrame, value: str, look: Look) -> None:
    """The mean as a line, with a few markers if any, one standard deviation as a band.

    A line of a single point is a marker.

    Args:
        points: `x`, `mean` and `std`.
    """
    marker = look.marker or ("o" if len(points) == 1 else "")
    shown = {"color": ink(look.colour), "label": look.words, "marker": marker, "markevery": max(1, len(points) // 6)}
    axes.plot(points["x"], points["mean"], look.dash, **shown)
    spread(axes, points, value, ink(look.colour))


def spread(axes: Axes, points: pd.DataFrame, value: str, colour: str) -> None:
    """A band of one standard deviation; that of an accuracy or a share stays within 0 and 100%."""
    std = points["std"].fillna(0)
    low, high = points["mean"] - std, points["mean"] + std
    if value.endswith("_acc") or value.startswith(SHARES):
        low, high = low.clip(0, 100), high.clip(0, 100)
    axes.fill_between(points["x"], low, high, color=colour, alpha=0.15, linewidth=0)


def widen(axes: Axes, span: float) -> None:
    """Let the vertical axis cover at least so much, so that noise does not fill a panel."""
    low, high = axes.get_ylim()
    if high - low < span:
        middle = (low + high) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)


def epochs(axes: Axes) -> None:
    """Whole numbers on the horizontal axis, also where a run has a single epoch."""
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def legend(figure: FigureBase, columns: int = 6, dashes: Mapping[str, str] | None = None) -> None:
    """One legend below all panels, each entry once, in as many columns as have room.

    Args:
        dashes: further entries, a dash by its words.
    """
    handles = {}
    for axes in figure.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    handles |= {text: Line2D([], [], color=ink(), linestyle=dash) for text, dash in (dashes or {}).items()}
    if handles:
        widest = 0.55 + 0.06 * max(map(len, handles))  # inches of an entry
        fitting = max(1, int(WIDTH / widest))
        ncols = min(len(handles), columns, fitting)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols)


def hole(axes: Axes, words: str) -> None:
    """Words in a panel without runs."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=GREY)
