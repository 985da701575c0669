"""The figure of a study: what its settings did over their epochs, or the final values of methods."""

from collections import Counter

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparse_train.report.evidence.comparisons import unit
from sparse_train.report.figures import style
from sparse_train.report.figures.accuracy import over_seeds
from sparse_train.report.figures.kinds import Kind, Material
from sparse_train.report.figures.style import Look
from sparse_train.report.results import complete
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import label, name, option

COLUMNS = ("epoch", "train_loss", "test_acc", "itop_rate", "grad_norm", "clipped_share")


def _settings(on: Material) -> Figure:
    """The sweep file names `values`, a panel each, and `by`, the factors that tell settings apart, first the optimizer.

    The colour is the method's, as in every figure; dashes, markers and a number at its end tell the settings apart.
    """
    figure, [axes] = style.panels(1, len(on.spec["values"]), share_y=False, height=3.6)
    by = [factor for factor in on.spec["by"] if factor in on.rows]
    lines = list(on.rows.groupby(by, sort=False, dropna=False)) if by else []
    for one, value in zip(axes, on.spec["values"], strict=True):
        one.set(title=name(value), xlabel=name("epoch"))
        style.epochs(one)
        places: Counter[str] = Counter()
        ends = []
        for asked, group in lines:
            method, words = asked[0], _words(dict(zip(by, asked, strict=True)))
            rounds, place = divmod(places[method], len(style.DASHES))
            places[method] += 1
            shown = group.assign(**{value: unit(value) * group[value]})
            marker = style.MARKERS[rounds - 1] if rounds else ""
            look = Look(words, style.look(method)["color"], marker, style.DASHES[place])
            points = over_seeds(shown, "epoch", value)
            style.band(one, points, value, look)
            ends.append((points["x"].iloc[-1], points["mean"].iloc[-1], look.colour))
        _number(one, ends)
    handles, words = axes[0].get_legend_handles_labels()
    if handles:
        numbered = [f"{place}  {text}" for place, text in enumerate(words, 1)]
        figure.legend(handles, numbered, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _number(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
    """The numbers of the lines at their ends; lines that end at one height share a row of numbers."""
    low, high = axes.get_ylim()
    rows: list[tuple[float, list]] = []
    for x, y, colour, place in sorted([(*end, place) for place, end in enumerate(ends, 1)], key=lambda one: one[1]):
        if not rows or y - rows[-1][0] > 0.05 * (high - low):
            rows.append((y, []))
        shift = (4 + 7 * len(rows[-1][1]), 0)
        rows[-1][1].append(place)
        axes.annotate(str(place), (x, rows[-1][0]), shift, textcoords="offset points", va="center", color=colour)


def _words(asked: dict) -> str:
    """`SparseOpt, norm of dense gradients, learning rate 0.5`: what is asked for besides the recipe."""
    method, *rest = asked
    options = [option(factor, asked[factor]) for factor in rest if pd.notna(asked[factor])]
    return ", ".join([label(method, asked[method]), *options])


def _methods(on: Material) -> Figure:
    """Two panels per sparsity: every run and the means by optimizer; what SparseOpt gains, paired over n seeds."""
    value, done = on.spec["value"], complete(on.runs)
    names, sparsities = list(on.runs["dst"].unique()), sorted(on.runs["sparsity"].unique(), key=float)
    figure, [axes] = style.panels(1, 2 * len(sparsities), share_y=True, height=0.3 * len(names) + 0.6)
    for (means, gains), sparsity in zip(zip(axes[::2], axes[1::2], strict=True), sparsities, strict=True):
        means.set(title=label("sparsity", sparsity), xlabel=name(value))
        gains.set(title=f"{label('sparsity', sparsity)}, SparseOpt's gain", xlabel="minus baseline")
        gains.axvline(0, color=style.GREY, linewidth=0.8)
        means.set_yticks(range(len(names)), [label("dst", method) for method in names])
        for place, method in enumerate(names):
            here = done[(done["sparsity"] == sparsity) & (done["dst"] == method)]
            values = (
                here.set_index(["optimizer", "seed"])[value] * unit(value) if value in here else pd.Series(dtype=float)
            )
            for shift, optimizer in enumerate(on.runs["optimizer"].unique()):
                if len(own := values.loc[optimizer:optimizer].dropna()):
                    look, at = style.look(optimizer), place + 0.3 * shift - 0.15
                    means.plot(own, [at] * len(own), ".", color=look["color"], alpha=0.35, markersize=4)
                    means.plot(own.mean(), at, linestyle="", label=label("optimizer", optimizer), **look)
            pairs = values.unstack("optimizer") if len(values) else pd.DataFrame()
            if {"sparseopt", "sgd"} <= set(pairs):
                found = statistics.mean((pairs["sparseopt"] - pairs["sgd"]).dropna())
                if found.n:
                    reach = [[found.mean - found.low], [found.high - found.mean]] if found.n > 1 else None
                    gains.errorbar(found.mean, place, xerr=reach, fmt="o", color=style.BLACK)
                    gains.annotate(
                        f"n={found.n}", (1.0, place), xycoords=("axes fraction", "data"), ha="left", va="center"
                    )
    axes[0].invert_yaxis()
    style.legend(figure)
    return figure


KINDS = {
    "settings": Kind(
        _settings,
        "Some metrics over epochs, a line per setting: the mean over seeds, the band one standard deviation.",
        COLUMNS,
    ),
    "methods": Kind(
        _methods,
        "A row per DST method: runs and means by optimizer at each sparsity, and what SparseOpt gains, paired over"
        " seeds, with its 95% interval.",
        None,
    ),
}
