"""Figures of the steps, lengths and angles of neurons, each from the rows of its runs."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import Kind, Material, groups
from sparse_train.report.figures.style import BLACK, COLOURS, GREY, MARKERS
from sparse_train.report.views.labels import label


def _equivalence(on: Material) -> Figure:
    figure = style.sized(8.6, 3.6)
    axes = figure.subplots(1, 2)
    for i, (variant, group) in enumerate(groups(on.rows, "task.variant", sort=False)):
        losses = (group["sparseopt"] - group["sgd"]).abs()  # of rows that are older than the gap
        gap = group.get("gap", losses).fillna(losses).clip(lower=1e-17).rolling(10, min_periods=1).max()
        colours = [*COLOURS, BLACK, GREY]
        look = {"color": colours[i % len(colours)], "linestyle": style.DASHES[i // len(colours)]}
        axes[1].plot(group["step"], gap, label=label("task.variant", variant), **look)
        if variant == "exact":
            axes[0].plot(group["step"], group["sparseopt"], color=COLOURS[0], label="SparseOpt from $w$")
            axes[0].plot(group["step"], group["sgd"], ":", color=BLACK, label="SGD from $w/\\sqrt{c}$")
    axes[0].set(title="all assumptions hold", xlabel="step", ylabel="train loss")
    axes[1].set(title="gap of the losses, by what differs", xlabel="step", yscale="log")
    style.legend(figure, columns=4)
    return figure


def _neuron_steps(on: Material) -> Figure:
    optimizers = list(on.runs["task.optimizer"].unique())
    figure, axes = style.panels(2, len(optimizers), share_y="row")
    for i, optimizer in enumerate(optimizers):
        here = on.rows[(on.rows["task.optimizer"] == optimizer) & (on.rows["c"] > 0)] if len(on.rows) else on.rows
        for line, value in zip(axes, ("length", "degrees_per_step"), strict=True):
            if len(here):
                points = line[i].scatter(here["c"], here[value], c=here["fan_in"], s=5, cmap="viridis", norm="log")
            line[i].set(xscale="log", yscale="log")
            line[i].set_xticks([0.6, 0.8, 1, 1.25], ["0.6", "0.8", "1", "1.25"])
            line[i].xaxis.set_minor_locator(NullLocator())
            line[i].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            line[i].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            line[i].yaxis.set_minor_locator(NullLocator())
        axes[0][i].set_title(label("task.optimizer", optimizer))
        axes[1][i].set_xlabel("$c_i$ (Eq. 12)")
    axes[0][0].set_ylabel("length $|w_i|$")
    axes[1][0].set_ylabel("degrees per step")
    if len(on.rows):
        look = {"ticks": LogLocator(subs=(1, 2, 5)), "format": StrMethodFormatter("{x:g}"), "label": "fan-in"}
        figure.colorbar(points, ax=[one for line in axes for one in line], **look).minorticks_off()
    return figure


def _equilibrium(on: Material) -> Figure:
    figure, [axes] = style.panels(1, 3, share_y=False)
    keys = ["task.lr", "task.weight_decay", "task.momentum"]
    for i, (setting, group) in enumerate(groups(on.rows, keys, sort=False)):
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
    style.legend(figure, columns=3)
    for j, optimizer in enumerate(on.runs["task.optimizer"].unique()):
        axes[0].plot([], [], MARKERS[j], color=GREY, markersize=3, label=label("task.optimizer", optimizer))
    axes[0].legend(loc="lower right")
    return figure


KINDS = {
    "equivalence": Kind(
        _equivalence, "Both losses where every assumption holds, and the gap between them where one ends."
    ),
    "neuron_steps": Kind(
        _neuron_steps, "Length and turning angle of each neuron's weight at the end of training, over its correction c."
    ),
    "equilibrium": Kind(
        _equilibrium,
        "Every neuron's length and angle over their closed forms, and how soon a longer neuron returns to its length.",
    ),
}
