"""Figures: one panel per value of a factor, one line per method, mean and spread over seeds."""

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from sparse_train.report.labels import label, name

# Okabe and Ito's colours: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")
matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e5e5e5",
        "svg.hashsalt": "sparse_train",
        "pdf.fonttype": 42,
    }
)


def curves(histories: pd.DataFrame, panels: str, series: str, value: str, title: str) -> Figure:
    """`value` over epochs: the mean over seeds, and a band of one standard deviation."""
    shown = list(histories[panels].unique())
    figure = Figure(figsize=(3.4 * len(shown), 3.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True):
        here = histories[histories[panels] == panel]
        for i, line in enumerate(here[series].unique()):
            over_seeds = here[here[series] == line].groupby("epoch")[value]
            mean, std = over_seeds.mean(), over_seeds.std().fillna(0)
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(mean.index, mean, STYLES[i % len(STYLES)], color=colour, label=label(series, line), linewidth=1.5)
            axes.fill_between(mean.index, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(max(axes.get_ylim()[0], 0), min(axes.get_ylim()[1], 100))
        axes.set(title=f"{name(panels)} {label(panels, panel)}", xlabel=name("epoch"))
    figure.axes[0].set_ylabel(name(value))
    figure.axes[-1].legend(frameon=False, loc="lower right")
    figure.suptitle(title)
    return figure
