"""The figure of a study: what its settings did over their epochs, or the final values of methods."""

from collections import Counter

import pandas as pd
from matplotlib.figure import Figure

from sparse_train.report.evidence.effects import complete, unit
from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import Kind, Material
from sparse_train.report.figures.series import over_seeds
from sparse_train.report.figures.style import Look
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import label, name, option

COLUMNS = ("epoch", "train_loss", "test_acc", "itop_rate", "grad_norm", "clipped_share")


def _settings(on: Material) -> Figure:
    """The sweep file names `values`, a panel each, and `by`, the factors that tell settings apart, first the optimizer.

    The colour is the method's, as in every figure; dashes and markers tell the settings of a method apart.
    """
    figure = style.sized(3.6 * len(on.spec["values"]), 3.6)
    [axes] = figure.subplots(1, len(on.spec["values"]), squeeze=False).tolist()
    by = [factor for factor in on.spec["by"] if factor in on.rows]
    lines = on.rows.groupby(by, sort=False, dropna=False) if by else []
    for one, value in zip(axes, on.spec["values"], strict=True):
        one.set(title=name(value), xlabel=name("epoch"))
        style.epochs(one)
        places: Counter[str] = Counter()
        for asked, group in lines:
            method, words = asked[0], _words(dict(zip(by, asked, strict=True)))
            rounds, place = divmod(places[method], len(style.DASHES))
            places[method] += 1
            shown = group.assign(**{value: unit(value) * group[value]})
            marker = style.MARKERS[rounds - 1] if rounds else ""
            look = Look(words, style.look(method)["color"], marker, style.DASHES[place])
            style.band(one, over_seeds(shown, "epoch", value), value, look)
    style.legend(figure, columns=2)
    return figure


def _words(asked: dict) -> str:
    """`SparseOpt, norm of dense gradients, learning rate 0.5`: what is asked for besides the recipe."""
    method, *rest = asked
    options = [option(factor, asked[factor]) for factor in rest if pd.notna(asked[factor])]
    return ", ".join([label(method, asked[method]), *options])


def _methods(on: Material) -> Figure:
    value, done = on.spec["value"], complete(on.runs)
    names, sparsities = list(on.runs["dst"].unique()), sorted(on.runs["sparsity"].unique(), key=float)
    figure, [axes] = style.panels(1, len(sparsities), share_y=True)
    for one, sparsity in zip(axes, sparsities, strict=True):
        one.set(title=label("sparsity", sparsity), xlabel=name(value))
        one.set_yticks(range(len(names)), [label("dst", method) for method in names])
        for shift, optimizer in enumerate(on.runs["optimizer"].unique()):
            chosen = done[(done["sparsity"] == sparsity) & (done["optimizer"] == optimizer)]
            for place, method in enumerate(names):
                group = chosen.loc[chosen["dst"] == method, value] if value in chosen else pd.Series(dtype=float)
                found = statistics.mean(unit(value) * group)
                if found.n:
                    reach = [[found.mean - found.low], [found.high - found.mean]] if found.n > 1 else None
                    text = label("optimizer", optimizer)
                    at = place + 0.24 * shift - 0.12
                    one.errorbar(found.mean, at, xerr=reach, linestyle="", label=text, **style.look(optimizer))
    axes[0].invert_yaxis()
    style.legend(figure, columns=2)
    return figure


KINDS = {
    "settings": Kind(
        _settings,
        "Some metrics over epochs, a line per setting: the mean over seeds, the band one standard deviation.",
        COLUMNS,
    ),
    "methods": Kind(
        _methods,
        "A row per DST method and a panel per sparsity: the mean of a metric by optimizer, with its 95% interval.",
        None,
    ),
}
