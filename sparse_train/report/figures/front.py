"""The picture on the front page: SparseOpt against SGD in the frozen network, and their difference in every network."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from sparse_train.report import paper, sweeps
from sparse_train.report.evidence.comparisons import Study
from sparse_train.report.figures import forest, style
from sparse_train.report.figures.accuracy import over_seeds
from sparse_train.report.files import held, write_figure
from sparse_train.report.results import Results
from sparse_train.report.views.labels import label
from sparse_train.report.views.statistics import Estimate

STUDY = "gain"
COMPARED = {
    side: {"optimizer": optimizer, "dst": "rigl", "renorm": "none"}  # as Table 2 has them
    for side, optimizer in (("a", "sparseopt"), ("b", "sgd"))
}
CLAIM = "sparseopt-beats-baseline"
CELL = {"dst": "rigl", "sparsity": "0.97", "epochs": "100"}  # of the paper's Table 2
SCALES = {
    "paper": "The paper's protocol",
    "size16": "Reduced: 16x16 images, 100 epochs",
    "cpu": "Reduced: 16x16 images, 10 epochs",
}
WORDS, REACH = 30, 6.0  # characters a line; points


def write(results_dir: Path, stated: list[dict]) -> None:
    """Write `overview-light.svg` and `overview-dark.svg`, where the study has runs and the claim has numbers."""
    compared = effects(stated)
    runs, rows = measured(Results(results_dir))
    if not compared or rows.empty:
        return
    with held(results_dir):
        for theme in style.THEMES:
            clear = dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none")
            with style.context(theme, {"svg.hashsalt": "overview", **clear}):
                write_figure(results_dir / f"overview-{theme}.svg", drawn(runs, rows, compared))


def measured(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The study's complete runs of SGD and SparseOpt as the paper has them, and their epochs."""
    sweep = sweeps.load(STUDY, results.scale)
    study, rows = Study(sweep, results.runs(sweep)), results.rows(sweep)
    runs = pd.concat([study.runs(COMPARED, side) for side in COMPARED])
    return runs, rows[rows["id"].isin(runs["id"])] if len(rows) else rows


def effects(stated: list[dict]) -> list[forest.Row]:
    """Our measurements of the claim's headline, by scale."""
    claims = [one for one in stated if one["claim"] == CLAIM and one["headline"]]
    found = [(claim, one) for claim in claims for one in claim["ours"] if one["effect"]]
    rows = []
    for claim, one in sorted(found, key=lambda pair: [*SCALES].index(pair[1]["scale"])):
        mean, low, high = (*one["effect"], math.nan, math.nan)[:3]
        words = f"{one['under']}, n={one['n']}: {mean:+.2f}"
        estimate = Estimate(mean, low, high, math.nan, one["n"])
        rows.append(forest.Row(SCALES[one["scale"]], words, estimate, paper=claim["published"][0]))
    return rows


def drawn(runs: pd.DataFrame, rows: pd.DataFrame, compared: list[forest.Row]) -> Figure:
    """Two panels, in the theme's colours.

    Args:
        runs, rows: as `measured` gives them.
        compared: as `effects` gives them.
    """
    figure = style.sized(max(3.6, forest.height(compared, WORDS) + 0.4))
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    _learning(left.subplots(), runs, rows)
    axes = right.subplots()
    forest.draw(axes, compared, WORDS, REACH, numbers=False)
    axes.set(title="SparseOpt minus SGD", xlabel="percentage points")
    axes.set_xticks([-4, -2, 0, 2, 4])
    style.legend(right, 2)
    return figure


def _learning(axes: Axes, runs: pd.DataFrame, rows: pd.DataFrame) -> None:
    """The mean over seeds of each optimizer with a band of one standard deviation; the paper's result is dashed."""
    texts = []
    for optimizer, group in runs.groupby("optimizer"):
        points = over_seeds(rows[rows["id"].isin(group["id"])], "epoch", "test_acc")
        words, colour = label("task.optimizer", optimizer), style.ink(style.look(optimizer).colour)
        axes.plot(points["x"], points["mean"], color=colour, label=f"{words}, n={len(group)}")
        style.spread(axes, points, "test_acc", colour)
        mean, _ = paper.value("table2", optimizer=optimizer, **CELL)
        axes.axhline(mean, color=colour, linestyle="--", linewidth=1, label=f"the paper's {words}")
        texts += [(end, f"{end:.2f}", colour) for end in (float(points["mean"].iloc[-1]), mean)]
    axes.set(title="The paper's protocol, RigL at 97%, dense shortcuts", ylabel="Test accuracy (%)", xlabel="Epoch")
    axes.set(xlim=(0, 100), ylim=(20, None))
    low, high = axes.get_ylim()
    texts.sort()
    for (_, words, colour), y in zip(texts, spread_out([y for y, *_ in texts], (high - low) * 0.055), strict=True):
        axes.annotate(words, (100, y), (6, 0), textcoords="offset points", va="center", color=colour)
    style.legend(axes.figure, 2)


def spread_out(places: list[float], gap: float) -> list[float]:
    """Rising places at least `gap` apart, as close to their own as can be (least squares)."""
    shifts = gap * np.arange(len(places))
    return (isotonic_regression(places - shifts).x + shifts).tolist()
