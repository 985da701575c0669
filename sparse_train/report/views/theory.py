"""Figures of the measured gradients and steps, each from the rows of its runs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sparse_train.report.views import statistics, style
from sparse_train.report.views.labels import in_words
from sparse_train.report.views.style import BLACK, COLOURS, GREY, MARKERS


def bn_gradient(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Figure 2: mean |g_sparse| / mean |g_dense| over sparsity; mean and 95% band over seeds."""
    figure = style.sized(5.2, 4.1, title)
    axes = figure.subplots()
    groups = rows.groupby(["task.norm", "task.init"], sort=False) if len(rows) else ()
    for i, ((norm, init), group) in enumerate(groups):
        _band(axes, group, "sparsity", "ratio", i, f"{in_words(norm)}, {in_words(init)}")
    s = np.linspace(0, 0.96, 200)
    axes.plot(s, (1 - s) ** -0.5, color=BLACK, linewidth=1, linestyle="--", label="$1/\\sqrt{1-s}$", zorder=3)
    axes.set(xlabel="Sparsity s", ylabel="mean |gradient|, sparse over dense")
    style.legend(figure, axes, columns=2)
    return figure


def _band(axes: Axes, group: pd.DataFrame, x: str, y: str, place: int, text: str) -> None:
    over = pd.DataFrame([statistics.mean(values)._asdict() for _, values in group.groupby(x)[y]], sorted(set(group[x])))
    look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
    axes.plot(over.index, over["mean"], label=text, markersize=3.5, **look)
    axes.fill_between(over.index, over["low"], over["high"], color=look["color"], alpha=0.2, linewidth=0)


def gradient_skew(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Figure 1: a small layer, dense and sparse, and how its gradient is turned; then the same on a large one."""
    figure, [drawn, measured] = style.panels(2, 3, title, share_y=False)
    if "kept" in rows:
        by_weight = rows["kept"].notna()
        small = runs["id"].isin(rows.loc[by_weight, "id"])
        _small_layer(drawn, rows[by_weight], runs[small])
        runs, rows = runs[~small], rows[~by_weight]
    _amplification(measured[:2], rows)
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
    for one, key, words in zip(axes, ("dense", "raw"), ("(a) dense layer", "(b) sparse layer"), strict=False):
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
    axes[2].set_title("(c) gradients, turned from the dense one")
    axes[2].legend(loc="upper right", handlelength=1)


def _amplification(axes: list[Axes], rows: pd.DataFrame) -> None:
    for one, measured in zip(axes, ("raw", "fixed"), strict=True):
        for i, ((fan_ins, s), group) in enumerate(rows.groupby(["task.fan_ins", "task.sparsity"]) if len(rows) else ()):
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
    groups = list(runs.groupby(["task.fan_ins", "task.sparsity"])) if len(runs) else []
    for i, (_, group) in enumerate(groups):
        for offset, (key, text, colour) in enumerate(BARS):
            place, found = i + 0.2 * offset - 0.3, group[f"{key}_angle"]
            look = {"color": COLOURS[colour], "yerr": found.std(), "error_kw": {"linewidth": 1}}
            axes.bar(place, found.mean(), 0.18, label=text if i == 0 else None, **look)
    axes.set_xticks(range(len(groups)), [f"{fan_ins}\n{float(s):.0%}" for (fan_ins, s), _ in groups])
    axes.set(title="angle to the dense layer's gradient", ylabel="degrees, ± standard deviation", ylim=(0, 90))
    axes.legend(loc="upper left", ncols=2)


def layer_norm(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """The layer-norm counterpart of Figure 2, and the exponent of (1 - s_i) in a neuron's own amplification."""
    places = list(runs["task.place"].unique())
    figure, axes = style.panels(2, len(places), title, share_y="row")
    for i, place in enumerate(places):
        for j, (fan_ins, group) in enumerate(
            rows[rows["task.place"] == place].groupby("task.fan_ins") if len(rows) else ()
        ):
            _band(axes[0][i], group, "sparsity", "ratio", j, f"{fan_ins} fan-ins")
            if group["exponent"].notna().any():
                _band(axes[1][i], group.dropna(subset=["exponent"]), "sparsity", "exponent", j, f"{fan_ins} fan-ins")
        s = np.linspace(0, 0.96, 200)
        axes[0][i].plot(s, (1 - s) ** -0.5, color=BLACK, linestyle="--", linewidth=1, label="$1/\\sqrt{1-s}$")
        axes[0][i].set_title(in_words(place))
        axes[1][i].axhline(-0.5, color=BLACK, linestyle="--", linewidth=1)
        axes[1][i].axhline(0, color=GREY, linestyle=":", linewidth=1)
        axes[1][i].set(xlabel="Sparsity s", ylim=(-1, 0.3))
    axes[0][0].set_ylim(0, 8)
    axes[0][0].set_ylabel("mean |sparse| / mean |dense|")
    axes[1][0].set_ylabel("exponent of $1-s_i$")
    style.legend(figure, axes[0][0], columns=4)
    return figure


def equivalence(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Both losses where every assumption holds, and the gap between them where one ends."""
    figure = style.sized(8.6, 3.6, title)
    axes = figure.subplots(1, 2)
    for i, (variant, group) in enumerate(rows.groupby("task.variant", sort=False) if len(rows) else ()):
        losses = (group["sparseopt"] - group["sgd"]).abs()  # of rows that are older than the gap
        gap = group.get("gap", losses).fillna(losses).clip(lower=1e-17).rolling(10, min_periods=1).max()
        colours = [*COLOURS, BLACK, GREY]
        look = {"color": colours[i % len(colours)], "linestyle": style.DASHES[i // len(colours)]}
        axes[1].plot(group["step"], gap, label=in_words(variant), **look)
        if variant == "exact":
            axes[0].plot(group["step"], group["sparseopt"], color=COLOURS[0], label="SparseOpt from $w$")
            axes[0].plot(group["step"], group["sgd"], ":", color=BLACK, label="SGD from $w/\\sqrt{c}$")
    axes[0].set(title="all assumptions hold", xlabel="step", ylabel="train loss")
    axes[0].legend()
    axes[1].set(title="gap of the losses, by what differs", xlabel="step", yscale="log")
    axes[1].legend(ncols=2, loc="center right")
    return figure


def neuron_steps(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Length and turning angle of each neuron's weight at the end of training, over its correction c."""
    optimizers = list(runs["task.optimizer"].unique())
    figure, axes = style.panels(2, len(optimizers), title, share_y="row")
    for i, optimizer in enumerate(optimizers):
        here = rows[(rows["task.optimizer"] == optimizer) & (rows["c"] > 0)] if len(rows) else rows
        for line, value in zip(axes, ("length", "degrees_per_step"), strict=True):
            if len(here):
                points = line[i].scatter(here["c"], here[value], c=here["fan_in"], s=5, cmap="viridis", norm="log")
            line[i].set(xscale="log", yscale="log")
            line[i].set_xticks([0.6, 0.8, 1, 1.25], ["0.6", "0.8", "1", "1.25"])
            line[i].xaxis.set_minor_locator(NullLocator())
        axes[0][i].set_title(in_words(optimizer))
        axes[1][i].set_xlabel("$c_i$ (Eq. 12)")
    axes[0][0].set_ylabel("length $|w_i|$")
    axes[1][0].set_ylabel("degrees per step")
    if len(rows):
        figure.colorbar(points, ax=[one for line in axes for one in line], label="fan-in")
    return figure


def equilibrium(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Every neuron's length and angle over their closed forms, and how soon a neuron that is made longer comes back."""
    figure, [axes] = style.panels(1, 3, title, share_y=False)
    keys = ["task.lr", "task.weight_decay", "task.momentum"]
    for i, (setting, group) in enumerate(rows.groupby(keys, sort=False) if len(rows) else ()):
        rate, decay, momentum = map(float, setting)
        text = rf"$\eta$ = {rate:g}, $\lambda$ = {decay:g}, $\mu$ = {momentum:g}"
        for j, (_, here) in enumerate(group.groupby("task.optimizer", sort=False)):
            look = {"color": COLOURS[i], "marker": MARKERS[j], "linestyle": ""}
            for one, value in zip(axes, ("length", "degrees"), strict=False):
                one.plot(here[f"{value}_theory"], here[value], markersize=2.5, alpha=0.5, markeredgewidth=0, **look)
            left = here.dropna(subset=["time"]).groupby("time")["left"].mean()
            axes[2].plot(left.index, left, markersize=3, label=text if j == 0 else None, **look)
    titles = (
        ("length $|w_i|$", "", [0.1, 0.2, 0.5, 1, 2, 4]),
        ("angle of a step", " (degrees)", [0.1, 0.2, 0.5, 1, 2]),
    )
    for one, (what, unit, ticks) in zip(axes, titles, strict=False):
        one.axline((1, 1), slope=1, color=BLACK, linewidth=1)
        one.set(xscale="log", yscale="log", title=what, xlabel=f"in closed form{unit}", ylabel=f"measured{unit}")
        for axis in (one.xaxis, one.yaxis):
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_minor_locator(NullLocator())
        one.set(xlim=(ticks[0], ticks[-1]), ylim=(ticks[0], ticks[-1]))
    time = np.linspace(0, 1.5)
    axes[2].plot(time, np.exp(-time), color=BLACK, linewidth=1, label="$e^{-t/\\tau}$")
    axes[2].set(title="return of $|w_i|^4$ from 16-fold", xlabel="time $t/\\tau_i$", ylabel="excess that is left")
    axes[2].set_yscale("log")
    axes[2].yaxis.set_minor_locator(NullLocator())
    axes[2].set_yticks([0.2, 0.5, 1], ["0.2", "0.5", "1"])
    style.legend(figure, axes[2], columns=3)
    for j, optimizer in enumerate(runs["task.optimizer"].unique()):
        axes[0].plot([], [], MARKERS[j], color=GREY, markersize=3, label=in_words(optimizer))
    axes[0].legend(loc="lower right")
    return figure


def amplification(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Exponent of (1 - s_i) in each layer's amplification, and the gradient's turn at every mask update."""
    shown = list(runs["sparsity"].unique())
    figure, axes = style.panels(2, len(shown), title, share_y="row")
    for i, panel in enumerate(shown):
        here = rows[rows["sparsity"] == panel] if len(rows) else rows
        for j, (step, group) in enumerate(here[here["kind"] == "layer"].groupby("step") if len(rows) else ()):
            mean = group.groupby("layer", sort=False)["exponent"].mean()
            axes[0][i].plot(range(len(mean)), mean, MARKERS[j], color=COLOURS[j], label=f"step {step}")
        axes[0][i].axhline(-0.5, color=BLACK, linestyle="--", linewidth=1, label="Eq. 10")
        axes[0][i].set(title=f"Sparsity {float(panel):.0%}", xlabel="layer", ylim=(-1.5, 0.5))
        updates = here[here["kind"] == "update"] if len(rows) else here
        for j, key in enumerate(("angle_raw", "angle_corrected")):
            if len(updates):
                _band(axes[1][i], updates, "step", key, 2 + j, key.split("_")[1] + " gradient")
        axes[1][i].set(xlabel="step of the mask update")
    axes[0][0].set_ylabel("exponent of $1-s_i$")
    axes[1][0].set_ylabel("turn (degrees)")
    style.legend(figure, axes[0][0], columns=5)
    return figure


KINDS = {
    one.__name__: (one, ())
    for one in (bn_gradient, gradient_skew, layer_norm, equivalence, neuron_steps, equilibrium, amplification)
}
