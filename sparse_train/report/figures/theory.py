"""Figures of the measured gradients, each from the rows of its runs."""

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import Kind, Material, groups, having
from sparse_train.report.figures.style import BLACK, COLOURS, GREY, MARKERS
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import label


def _bn_gradient(on: Material) -> Figure:
    figure = style.sized(5.2, 4.1)
    axes = figure.subplots()
    by_sparsity(axes, on.rows)
    style.legend(figure, columns=2)
    return figure


def by_sparsity(axes: Axes, rows: pd.DataFrame) -> None:
    """A line for each normalization and initialization, and Eq. 10 in the colour of text."""
    for i, ((norm, init), group) in enumerate(groups(rows, ["task.norm", "task.init"], sort=False)):
        _band(axes, group, "sparsity", "ratio", i, f"{label('task.norm', norm)}, {label('task.init', init)}")
    _eq10(axes, zorder=3)
    axes.set(xlabel="Sparsity s", ylabel="mean |gradient|, sparse over dense")


def _eq10(axes: Axes, **look: float) -> None:
    """The amplification that Eq. 10 says, in the colour of text."""
    s = np.linspace(0, 0.96, 200)
    dashed = {"color": rcParams["text.color"], "linewidth": 1, "linestyle": "--"}
    axes.plot(s, (1 - s) ** -0.5, label="$1/\\sqrt{1-s}$", **dashed, **look)


def _band(axes: Axes, group: pd.DataFrame, x: str, y: str, place: int, text: str) -> None:
    over = pd.DataFrame([statistics.mean(values)._asdict() for _, values in group.groupby(x)[y]], sorted(set(group[x])))
    look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
    axes.plot(over.index, over["mean"], label=text, markersize=3.5, **look)
    axes.fill_between(over.index, over["low"], over["high"], color=look["color"], alpha=0.2, linewidth=0)


def _gradient_skew(on: Material) -> Figure:
    figure, [drawn, measured] = style.panels(2, 3, share_y=False)
    runs, rows = on.runs, on.rows
    if "kept" in rows:
        by_weight = rows["kept"].notna()
        small = runs["id"].isin(rows.loc[by_weight, "id"])
        _small_layer(drawn, rows[by_weight], runs[small])
        runs, rows = runs[~small], rows[~by_weight]
    _amplified(measured[:2], rows)
    _angles(measured[2], runs.dropna(subset=["raw_angle"]) if len(rows) else runs.iloc[:0])
    handles, texts = measured[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=3)
    return figure


ARROWS = (
    ("raw", "sparse layer", 0),
    ("fixed", "skew of Eq. 10 alone", 1),
    ("raw_corrected", "sparse layer, corrected", 2),
    ("fixed_corrected", "skew alone, corrected", 3),
)


def _small_layer(axes: list[Axes], rows: pd.DataFrame, runs: pd.DataFrame) -> None:
    """The paper's (a), (b) and (c): dense gradient, the masked layer's gradient, and the angle between the two."""
    if rows.empty:
        return
    grids = {key: rows.pivot(index="neuron", columns="input", values=key) for key in ("kept", "dense", "raw")}
    largest = max(grids["dense"].abs().max().max(), grids["raw"].abs().max().max())
    for one, key, words in zip(axes, ("dense", "raw"), ("dense layer", "sparse layer"), strict=False):
        shown = grids[key] if key == "dense" else grids[key].where(grids["kept"] == 1)
        image = one.imshow(shown, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
        one.set(title=f"{words}: $\\partial L / \\partial w_{{ij}}$", xlabel="input $j$")
        one.grid(False)
    density = grids["kept"].mean(axis=1)
    axes[0].set_ylabel("neuron $i$")
    axes[0].set_yticks(density.index)
    axes[1].set_yticks(density.index, [f"{d:.2f}" for d in density])
    axes[1].set_ylabel("density $d_i=1-s_i$")
    axes[1].figure.colorbar(image, ax=axes[1])
    ends = [(1.0, 0.0, "dense layer, kept weights", BLACK)]
    for key, words, colour in ARROWS:
        degrees, length = (float(runs[f"{key}_{what}"].iloc[0]) for what in ("angle", "length"))
        x, y = length * np.cos(np.radians(degrees)), length * np.sin(np.radians(degrees))
        ends.append((x, y, f"{words}, {degrees:.0f}°", COLOURS[colour]))
    for x, y, text, colour in ends:
        arrow = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.012}
        axes[2].quiver(0, 0, x, y, color=colour, label=text, **arrow)
    far = 1.1 * max(max(x, y) for x, y, *_ in ends)
    axes[2].set(xlim=(-0.05 * far, far), ylim=(-0.1 * far, 2.0 * far), xlabel="length over the dense gradient's")
    axes[2].set_title("turn from the dense gradient")
    axes[2].legend(loc="upper right", handlelength=1)


def _amplified(axes: list[Axes], rows: pd.DataFrame) -> None:
    for one, measured in zip(axes, ("raw", "fixed"), strict=True):
        for i, ((fan_ins, s), group) in enumerate(groups(rows, ["task.fan_ins", "task.sparsity"])):
            ratio = group[measured] / group["ideal"]
            text = f"{fan_ins} fan-ins, layer at {float(s):.0%}"
            one.plot(group["density"], ratio, MARKERS[i], color=COLOURS[i], label=text, markersize=2.5, alpha=0.7)
        density = np.linspace(0.02, 1, 200)
        one.plot(density, density**-0.5, color=BLACK, linestyle="--", linewidth=1, label="$(1-s_i)^{-1/2}$")
        what = "as it is" if measured == "raw" else "with $dL/d\\hat x$ held fixed"
        one.set(title=f"amplification, {what}", xlabel="density $1-s_i$ of the neuron", xscale="log", yscale="log")
    axes[0].set_ylabel("|sparse gradient| / |dense gradient|")


BARS = (
    ("raw", "raw", 0),
    ("raw_corrected", "corrected", 2),
    ("fixed", "raw, fixed", 1),
    ("fixed_corrected", "corrected, fixed", 3),
)


def _angles(axes: Axes, runs: pd.DataFrame) -> None:
    settings = list(groups(runs, ["task.fan_ins", "task.sparsity"]))
    for i, (_, group) in enumerate(settings):
        for offset, (key, text, colour) in enumerate(BARS):
            place, found = i + 0.2 * offset - 0.3, group[f"{key}_angle"]
            look = {"color": COLOURS[colour], "yerr": found.std(), "error_kw": {"linewidth": 1}}
            axes.bar(place, found.mean(), 0.18, label=text if i == 0 else None, **look)
    axes.set_xticks(range(len(settings)), [f"{fan_ins}\n{float(s):.0%}" for (fan_ins, s), _ in settings])
    axes.set(title="angle to the dense layer's gradient", ylabel="degrees, ± standard deviation", ylim=(0, 125))
    axes.set_yticks(range(0, 91, 15))
    axes.legend(loc="upper left", ncols=2)  # above the largest angle that there is


def _layer_norm(on: Material) -> Figure:
    places = list(on.runs["task.place"].unique())
    figure, axes = style.panels(2, len(places), share_y="row")
    for i, place in enumerate(places):
        for j, (fan_ins, group) in enumerate(groups(having(on.rows, "task.place", place), "task.fan_ins")):
            _band(axes[0][i], group, "sparsity", "ratio", j, f"{fan_ins} fan-ins")
            if group["exponent"].notna().any():
                _band(axes[1][i], group.dropna(subset=["exponent"]), "sparsity", "exponent", j, f"{fan_ins} fan-ins")
        _eq10(axes[0][i])
        axes[0][i].set_title(label("task.place", place))
        axes[1][i].axhline(-0.5, color=BLACK, linestyle="--", linewidth=1)
        axes[1][i].axhline(0, color=GREY, linestyle=":", linewidth=1)
        axes[1][i].set(xlabel="Sparsity s", ylim=(-1, 0.3))
    axes[0][0].set_ylim(0, 8)
    axes[0][0].set_ylabel("mean |sparse| / mean |dense|")
    axes[1][0].set_ylabel("exponent of $1-s_i$")
    style.legend(figure, columns=4)
    return figure


def _amplification(on: Material) -> Figure:
    shown = list(on.runs["sparsity"].unique())
    figure, axes = style.panels(2, len(shown), share_y="row")
    for i, panel in enumerate(shown):
        here = having(on.rows, "sparsity", panel)
        for j, (step, group) in enumerate(groups(having(here, "kind", "layer"), "step")):
            mean = group.groupby("layer", sort=False)["exponent"].mean()
            axes[0][i].plot(range(len(mean)), mean, MARKERS[j], color=COLOURS[j], label=f"step {step}")
        axes[0][i].axhline(-0.5, color=BLACK, linestyle="--", linewidth=1, label="Eq. 10")
        axes[0][i].set(title=f"Sparsity {float(panel):.0%}", xlabel="layer", ylim=(-1.5, 0.5))
        updates = having(here, "kind", "update")
        for j, key in enumerate(("angle_raw", "angle_corrected")):
            if len(updates):
                _band(axes[1][i], updates, "step", key, 2 + j, key.split("_")[1] + " gradient")
        axes[1][i].set(xlabel="step of the mask update")
    axes[0][0].set_ylabel("exponent of $1-s_i$")
    axes[1][0].set_ylabel("turn (degrees)")
    style.legend(figure, columns=5)
    return figure


KINDS = {
    "bn_gradient": Kind(
        _bn_gradient, "Mean |g_sparse| over mean |g_dense|, by sparsity; the mean and 95% band over seeds."
    ),
    "gradient_skew": Kind(
        _gradient_skew, "A small layer, dense and sparse, and how its gradient is turned; then the same on a large one."
    ),
    "layer_norm": Kind(
        _layer_norm,
        "The layer-norm counterpart of Figure 2, and the exponent of (1 - s_i) in a neuron's own amplification.",
    ),
    "amplification": Kind(
        _amplification,
        "Exponent of (1 - s_i) in each layer's amplification, and the gradient's turn at every mask update.",
    ),
}
