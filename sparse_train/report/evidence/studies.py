"""The figure of a study: what its settings did over their epochs."""

import pandas as pd
from matplotlib.figure import Figure

from sparse_train.report.evidence.effects import unit
from sparse_train.report.views import style
from sparse_train.report.views.labels import label, name

COLUMNS = ("epoch", "train_loss", "test_acc", "itop_rate", "grad_norm", "clipped_share")


def settings(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Some metrics over epochs, a line per setting: the mean over seeds, the band one standard deviation.

    Args:
        spec: `values`, a panel each; `by`, the factors that tell settings apart, the first of which is the optimizer.
    """
    figure = style.sized(3.6 * len(spec["values"]), 3.6, title)
    [axes] = figure.subplots(1, len(spec["values"]), squeeze=False).tolist()
    by = [factor for factor in spec["by"] if factor in rows]
    lines = rows.groupby(by, sort=False, dropna=False) if by else []
    for one, value in zip(axes, spec["values"], strict=True):
        one.set(title=name(value), xlabel=name("epoch"))
        for place, (asked, group) in enumerate(lines):
            dash = style.DASHES[place // len(style.COLOURS)]
            colour = style.COLOURS[place % len(style.COLOURS)]
            shown = group.assign(**{value: unit(value) * group[value]})
            style.band(one, shown, "epoch", value, dash, colour, _words(dict(zip(by, asked, strict=True))))
    style.legend(figure, axes[0], columns=2)
    return figure


def _words(asked: dict) -> str:
    """`SparseOpt, over=dense lr=0.5`: what is asked for besides the recipe, by the last word of each key."""
    method, *rest = asked
    options = " ".join(f"{factor.rpartition('.')[2]}={asked[factor]}" for factor in rest if pd.notna(asked[factor]))
    return label(method, asked[method]) + (f", {options}" if options else "")


KINDS = {"settings": (settings, COLUMNS)}
