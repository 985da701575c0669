"""The picture on the front page: learning curves at the paper's protocol, and our effects beside the paper's."""

import math
from collections.abc import Iterable
from pathlib import Path
from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from sparse_train.report import paper, sweeps
from sparse_train.report.figures import forest, style
from sparse_train.report.figures.accuracy import over_seeds
from sparse_train.report.files import held, write_figure
from sparse_train.report.results import Results, complete
from sparse_train.report.sweeps import PAPER
from sparse_train.report.views.columns import mean_std
from sparse_train.report.views.labels import label, option
from sparse_train.report.views.statistics import Estimate

# Studies that train a cell of Table 2 -> what is dense in their runs that do not name it.
STUDIES = {"protocol": None, "calibration": None, "gain": "[*.shortcut.*]"}
CELL = {"dst": "rigl", "sparsity": "0.97", "epochs": "100"}
READINGS = ("topology.exclude", "nesterov")  # what tells networks that the paper may have trained
REACH = 5.0  # points, of the effects
WORDS = 33  # characters a line


def write(results_dir: Path, stated: list[dict]) -> None:
    """Write `overview-light.svg` and `overview-dark.svg`, where the cell is trained and claims have numbers of both."""
    compared = effects(stated)
    runs, rows = measured(Results(results_dir))
    if not compared or runs.empty:
        return
    with held(results_dir):
        for theme in style.THEMES:
            clear = dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none")
            with style.context(theme, {"svg.hashsalt": "overview", **clear}):
                write_figure(results_dir / f"overview-{theme}.svg", drawn(runs, rows, compared))


def measured(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cell's complete runs without a bound on gradients, each once, and the epochs that are kept of them."""
    every = [sweeps.load(name, results.scale) for name in STUDIES]
    found = [complete(results.runs(sweep)) for sweep in every]
    for runs, dense in zip(found, STUDIES.values(), strict=True):
        for key in (*CELL, *READINGS, "renorm"):
            runs[key] = runs.get(key)
        runs["topology.exclude"] = runs["topology.exclude"].where(runs["topology.exclude"].notna(), dense)
    runs = pd.concat(found, ignore_index=True)
    wanted = runs["renorm"].isna() | (runs["renorm"] == "none")
    for key in (key for key in runs if key.startswith("optimizer.precondition")):  # other readings of SparseOpt
        wanted &= runs[key].isna()
    for key, value in CELL.items():
        wanted &= runs[key].astype(str) == value
    runs = runs[wanted].drop_duplicates("id")
    rows = pd.concat([results.rows(sweep) for sweep in every], ignore_index=True)
    return runs, rows[rows["id"].isin(runs["id"])].drop_duplicates(["id", "epoch"]) if len(rows) else rows


def effects(stated: list[dict]) -> list[forest.Row]:
    """Those of ours beside which a claim has one number of the paper's, by scale."""
    found = [(claim, one) for claim in stated if len(claim["published"]) == 1 for one in claim["ours"] if one["effect"]]
    rows = []
    for claim, one in sorted(found, key=lambda pair: sweeps.every_scale().index(pair[1]["scale"])):
        scale, about = one["scale"], ", ".join(filter(None, [one["under"], f"n={one['n']}"]))
        group = f"Reduced scale {scale}: {sweeps.scales()[scale]['note']}" if scale != PAPER else "The paper's protocol"
        mean, low, high = (*one["effect"], math.nan, math.nan)[:3]
        estimate = Estimate(mean, low, high, math.nan, one["n"])
        rows.append(forest.Row(group, f"{claim['says']} ({about})", estimate, paper=claim["published"][0]))
    return rows


def drawn(runs: pd.DataFrame, rows: pd.DataFrame, compared: list[forest.Row]) -> Figure:
    """Two panels, in the theme's colours.

    Args:
        runs, rows: as `measured` gives them.
        compared: as `effects` gives them.
    """
    figure = style.sized(max(3.6, forest.height(compared, WORDS) + 0.4))
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
    _learning(left.subplots(), runs, rows)
    axes = right.subplots()
    forest.draw(axes, compared, WORDS, REACH, numbers=False)
    axes.set(title="Effects on test accuracy", xlabel="percentage points")
    axes.set_xticks([-4, -2, 0, 2, 4])
    style.legend(right, 2)
    return figure


def _learning(axes: Axes, runs: pd.DataFrame, rows: pd.DataFrame) -> None:
    """A line for each reading and optimizer, the last epoch alone of runs whose epochs are not kept."""
    ends, looks, entries = [], {}, {}
    for (optimizer, *asked), group in runs.groupby(["optimizer", *READINGS], sort=False, dropna=False):
        kept = rows[rows["id"].isin(group["id"])] if len(rows) else rows
        points = over_seeds(kept if len(kept) else group.assign(epoch=group["trained_epochs"]), "epoch", "test_acc")
        words = _reading(asked)
        marker = looks.setdefault(words, style.MARKERS[len(looks) % len(style.MARKERS)])
        colour = style.ink(style.look(optimizer).colour)
        axes.plot(points["x"], points["mean"], color=colour)
        style.spread(axes, points, "test_acc", colour)
        x, y = float(points["x"].iloc[-1]), float(points["mean"].iloc[-1])
        axes.plot(x, y, marker, color=colour, markersize=6, clip_on=False, zorder=3)
        ends.append((x, y, colour))
        entries[label("task.optimizer", optimizer)] = Line2D([], [], color=colour)
    for optimizer in ("sgd", "sparseopt"):
        mean, std = paper.value("table2", optimizer=optimizer, **CELL)
        words, colour = label("task.optimizer", optimizer), style.ink(style.look(optimizer).colour)
        line = axes.axhline(mean, color=colour, linestyle="--", linewidth=1)
        entries[f"the paper's {words}, {mean_std(mean, std)}"] = line
    axes.set(title="The paper's protocol, RigL at 97% sparsity", ylabel="Test accuracy (%)")
    axes.set_xlabel("Epoch (a point without a line: the last)")
    axes.set(xlim=(0, 100), ylim=(20, None))
    low, high = axes.get_ylim()
    gap = (high - low) * 0.055
    ends.sort(key=lambda end: end[1])
    for (x, y, colour), place in zip(ends, spread_out([end[1] for end in ends], gap), strict=True):
        axes.annotate(f"{y:.2f}", (x, place), (8, 0), textcoords="offset points", va="center", color=colour)
    for words, marker in looks.items():
        text = "\n".join(wrap(words, 50))
        entries[text] = Line2D([], [], color=style.ink(), marker=marker, linestyle="")
    axes.figure.legend(entries.values(), entries.keys(), loc="outside lower center")


def _reading(asked: Iterable) -> str:
    """What is dense, and what else a reading has; a missing key means every layer sparse."""
    words = [option(key, value) for key, value in zip(READINGS, asked, strict=True) if not pd.isna(value)]
    return ", ".join(words) or "every layer sparse"


def spread_out(places: list[float], gap: float) -> list[float]:
    """Rising places at least `gap` apart, as close to their own as can be (least squares)."""
    shifts = gap * np.arange(len(places))
    return (isotonic_regression(places - shifts).x + shifts).tolist()
