"""The figure of a study: what its settings did over their epochs, or the final values of methods."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from sparse_train.report import paper
from sparse_train.report.evidence.comparisons import Study, in_a_sentence
from sparse_train.report.figures import forest, style
from sparse_train.report.figures.accuracy import keeping, over_seeds
from sparse_train.report.figures.kinds import Material, kind
from sparse_train.report.results import complete
from sparse_train.report.views import statistics
from sparse_train.report.views.columns import mean_std, unit
from sparse_train.report.views.labels import label, name, option

WIDTH = 44  # characters of a line of words beside a forest plot


@kind(("epoch", "train_loss", "train_acc", "test_acc", "itop_rate", "grad_norm", "clipped_share"))
def _settings(on: Material) -> Figure:
    """Some metrics over epochs, a line per setting: the mean over seeds, the band one standard deviation. Below,
    the differences that the study compares.

    The sweep file names `values`, a panel each, and `by`, the factors that tell settings apart, first the optimizer.

    The colour is the method's, as in every figure; dashes, markers and a number at its end tell the settings apart. Of
    runs whose epochs are not kept the last one is a point.
    """
    study = Study(on.sweep, on.runs)
    effects = forest.of_study(study)
    if not effects:
        figure = style.sized(4.1)
        _curves(figure, on, study)
        return figure
    if on.rows.empty:
        return _effects(on)
    below = forest.height(effects, WIDTH) + 0.35
    figure = style.sized(3.9 + below)
    above, rest = figure.subfigures(2, 1, height_ratios=[3.9, below])
    _curves(above, on, study)
    _forest(rest, effects, study)
    return figure


@kind(None)
def _effects(on: Material) -> Figure:
    """The differences that the study compares, paired over seeds, each with its 95% interval."""
    study = Study(on.sweep, on.runs)
    effects = forest.of_study(study)
    figure = style.sized((forest.height(effects, WIDTH) if effects else 1.5) + 0.35)
    _forest(figure, effects, study)
    return figure


def _forest(figure: FigureBase, effects: list[forest.Row], study: Study) -> None:
    axes = figure.subplots()
    if effects:
        forest.draw(axes, effects, WIDTH)
        axes.set_title(f"difference in {in_a_sentence(study.metric)}")
        style.legend(figure)


def _curves(figure: FigureBase, on: Material, study: Study) -> None:
    [axes] = figure.subplots(1, len(on.spec["values"]), squeeze=False).tolist()
    by = [factor for factor in on.spec["by"] if factor in on.runs]
    lines = list(on.runs.groupby(by, sort=False, dropna=False)) if len(on.rows) else []
    for one, value in zip(axes, on.spec["values"], strict=True):
        one.set(title=name(value), xlabel=name("epoch"))
        style.epochs(one)
        places: Counter[str] = Counter()
        ends, named = [], []
        for asked, group in lines:
            shown = _epochs(on.rows, complete(group), value)
            if shown.empty:
                continue
            method, words = asked[0], _words(dict(zip(by, asked, strict=True)))
            rounds, place = divmod(places[method], len(style.DASHES))
            places[method] += shown["epoch"].nunique() > 1
            shown = shown.assign(**{value: unit(value) * shown[value]})
            marker = style.MARKERS[rounds - 1] if rounds else ""
            look = replace(style.look(method), words=words, marker=marker, dash=style.DASHES[place])
            points = over_seeds(shown, "epoch", value)
            style.band(one, points, value, look)
            named.append(words)
            ends.append((points["x"].iloc[-1], points["mean"].iloc[-1], style.ink(look.colour)))
        if on.at_paper_scale and value == study.metric:
            _papers(one, [said for said in study.listed if len(study.runs(said, "a"))])
        _number(one, ends)
    entries = {text: handle for one in axes for handle, text in zip(*one.get_legend_handles_labels(), strict=True)}
    if entries:
        texts = [f"{named.index(text) + 1}  {text}" if text in named else text for text in entries]
        texts = ["\n    ".join(wrap(text, 54, break_on_hyphens=False)) for text in texts]
        figure.legend(entries.values(), texts, loc="outside lower center", ncols=2)


def _epochs(rows: pd.DataFrame, done: pd.DataFrame, value: str) -> pd.DataFrame:
    """`epoch` and `value` of complete runs; the last epoch alone where the others are not kept of any."""
    known = keeping(rows[rows["id"].isin(done["id"])], value)
    if known.empty and {"trained_epochs", value} <= set(done):
        known = done.rename(columns={"trained_epochs": "epoch"}).dropna(subset=[value]).astype({"epoch": float})
    return known


def _papers(axes: Axes, comparisons: Iterable[dict]) -> None:
    """A line for each of the paper's cells that runs are compared with."""
    cells = {tuple(one["paper"].items()): one["paper"] for one in comparisons if "paper" in one}
    for cell in cells.values():
        mean, std = paper.cell(cell, "comparisons.paper")
        method = label("optimizer", cell.get("optimizer", "sgd"))
        which = f", {label('sparsity', cell['sparsity'])}, {cell['table']}" if len(cells) > 1 else ""
        words = f"paper, {method}{which}: {mean_std(mean, std)}"
        axes.axhline(mean, color=style.GREY, linewidth=1, linestyle=(0, (6, 2)), label=words)


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


@kind(None)
def _methods(on: Material) -> Figure:
    """A row per DST method: runs and means by optimizer at each sparsity, and what SparseOpt gains, paired over
    seeds, with its 95% interval.
    """
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
                    colour = style.ink(look.colour)
                    means.plot(own, [at] * len(own), ".", color=colour, alpha=0.35, markersize=4)
                    means.plot(own.mean(), at, look.marker, color=colour, label=look.words)
            pairs = values.unstack("optimizer") if len(values) else pd.DataFrame()
            if {"sparseopt", "sgd"} <= set(pairs):
                found = statistics.mean((pairs["sparseopt"] - pairs["sgd"]).dropna())
                if found.n:
                    reach = [[found.mean - found.low], [found.high - found.mean]] if found.n > 1 else None
                    gains.errorbar(found.mean, place, xerr=reach, fmt="o", color=style.ink())
                    gains.annotate(
                        f"n={found.n}", (1.0, place), xycoords=("axes fraction", "data"), ha="left", va="center"
                    )
    axes[0].invert_yaxis()
    style.legend(figure)
    return figure
