"""Figures of the theory: gradients of masked neurons, their steps and lengths, and the student-teacher problems.

Each is drawn from the rows of its runs.
"""

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import Material, kind
from sparse_train.report.figures.style import GREY, MARKERS
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import label

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = COLOURS = style.THEMED

# --- gradients ---


@kind()
def _bn_gradient(on: Material) -> Figure:
    """Mean |g_sparse| over mean |g_dense|, by sparsity; the mean and 95% band over seeds.

    Lines that lie on each other stay visible: every other one is wide and pale, with large hollow markers.
    """
    figure = style.sized(3.6)
    axes = figure.subplots()
    for i, ((norm, init), group) in enumerate(on.rows.groupby(["task.norm", "task.init"], sort=False)):
        look = {} if i % 2 else {"markersize": 8, "markerfacecolor": "none", "linewidth": 3, "alpha": 0.7}
        _band(axes, group, "sparsity", "ratio", i, f"{label('task.norm', norm)}, {label('task.init', init)}", **look)
    _eq10(axes, zorder=3)
    axes.set(xlabel="Sparsity s", ylabel="mean |gradient|, sparse over dense")
    axes.legend(loc="upper left")
    return figure


@kind()
def _dead_neuron(on: Material) -> Figure:
    """The dense gradient of a neuron before batch normalization as its weights vanish, over eps.

    A line for each eps, and the closed form in the colour of text.
    """
    figure = style.sized(3.6)
    axes = figure.subplots()
    edge = on.rows.loc[on.rows["length"] > 0, "length"].min() / 10  # where t = 0 stands
    for i, (eps, group) in enumerate(on.rows.groupby("task.eps", sort=False)):
        group = group.assign(length=group["length"].where(group["length"] > 0, edge))
        _band(axes, group, "length", "ratio", i, f"measured, $\\epsilon = 10^{{{np.log10(float(eps)):.0f}}}$")
        closed = group.groupby("length")["theory"].mean()
        axes.plot(closed.index, closed, color=style.ink(), linewidth=1, linestyle="--", zorder=3)
    axes.plot([], [], "--", color=style.ink(), linewidth=1, label="$\\sqrt{(v+\\epsilon)/(t^2v+\\epsilon)}$")
    axes.set(xscale="log", yscale="log", xlabel="factor t of the neuron's weights")
    powers = range(int(np.floor(np.log10(edge))) + 1, 1)
    axes.set_xticks([edge, *(10.0**power for power in powers)], ["0", *(f"$10^{{{power}}}$" for power in powers)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("its dense gradient, times that at t = 1")
    axes.legend(loc="lower left")
    return figure


def _eq10(axes: Axes, **look: float) -> None:
    """The amplification of Eq. 10, in the colour of text."""
    s = np.linspace(0, 0.96, 200)
    dashed = {"color": style.ink(), "linewidth": 1, "linestyle": "--"}
    axes.plot(s, (1 - s) ** -0.5, label="Eq. 10, $1/\\sqrt{1-s}$", **dashed, **look)


def _band(axes: Axes, group: pd.DataFrame, x: str, y: str, place: int, text: str, **more: object) -> None:
    """The mean over seeds as a line, its 95% interval as a band."""
    over = pd.DataFrame([statistics.mean(values)._asdict() for _, values in group.groupby(x)[y]], sorted(set(group[x])))
    look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
    axes.plot(over.index, over["mean"], label=text, **{"markersize": 3.5, **look, **more})
    axes.fill_between(over.index, over["low"], over["high"], color=look["color"], alpha=0.2, linewidth=0)


# How a gradient is turned: key, words, colour; the same in the arrows and in the bars. What is corrected is paler.
TURNS = (
    ("raw", "sparse layer", BLUE),
    ("raw_corrected", "sparse layer, corrected", SKY),
    ("fixed", "skew of Eq. 10 alone", ORANGE),
    ("fixed_corrected", "skew alone, corrected", YELLOW),
)
SIGNED = "PRGn"  # colours of a gradient's sign, of which no line has one


@kind()
def _gradient_skew(on: Material) -> Figure:
    """A small layer, dense and sparse, and how its gradient is turned; then the same on a large one."""
    figure, [drawn, measured] = style.panels(2, 3, share_y=False, height=2.6)
    runs, rows = on.runs, on.rows
    if "kept" in rows:
        by_weight = rows["kept"].notna()
        small = runs["id"].isin(rows.loc[by_weight, "id"])
        _small_layer(drawn, rows[by_weight], runs[small])
        runs, rows = runs[~small], rows[~by_weight]
    _amplified(measured[:2], rows)
    _angles(measured[2], runs.dropna(subset=["raw_angle"]) if len(rows) else runs.iloc[:0])
    handles, texts = measured[0].get_legend_handles_labels()
    bars, turns = measured[2].get_legend_handles_labels()
    figure.legend([*bars, *handles], [*turns, *texts], loc="outside lower center", ncols=3)
    return figure


def _small_layer(axes: list[Axes], rows: pd.DataFrame, runs: pd.DataFrame) -> None:
    """The paper's (a), (b) and (c): dense gradient, the masked layer's gradient, and the angle between the two."""
    if rows.empty:
        return
    grids = {key: rows.pivot(index="neuron", columns="input", values=key) for key in ("kept", "dense", "raw")}
    largest = max(grids["dense"].abs().max().max(), grids["raw"].abs().max().max())
    for one, key, words in zip(axes, ("dense", "raw"), ("dense layer", "sparse layer"), strict=False):
        shown = grids[key] if key == "dense" else grids[key].where(grids["kept"] == 1)
        image = one.imshow(shown, cmap=SIGNED, vmin=-largest, vmax=largest, aspect="auto")
        one.set(
            title=f"{words}: $\\partial L / \\partial w_{{ij}}$",
            xlabel="input $j$" + (", grey: masked" if key == "raw" else ""),
        )
        one.grid(False)
        one.set_facecolor(rcParams["grid.color"])  # of masked weights
    density = grids["kept"].mean(axis=1)
    axes[0].set_ylabel("neuron $i$")
    axes[0].set_yticks(density.index)
    axes[1].set_yticks(density.index, [f"{d:.2f}" for d in density])
    axes[1].set_ylabel("density $d_i=1-s_i$")
    axes[1].figure.colorbar(image, ax=axes[1])
    found = {key: [float(runs[f"{key}_{what}"].iloc[0]) for what in ("angle", "length")] for key, *_ in TURNS}
    for key, _, colour in (("dense", "", style.ink()), *TURNS):
        degrees, length = found.get(key, (0, 1))
        x, y = length * np.cos(np.radians(degrees)), length * np.sin(np.radians(degrees))
        axes[2].quiver(0, 0, x, y, color=colour, angles="xy", scale_units="xy", scale=1, width=0.012)
        words = f"{degrees:.0f}°" if degrees else "dense layer"
        shift = (3, {"raw_corrected": 3, "fixed": -5}.get(key, 0))  # two arrows end close to each other
        axes[2].annotate(words, (x, y), shift, textcoords="offset points", color=colour, va="center")
    axes[2].set(xlim=(-0.1, 2.2), ylim=(-0.2, 1.6), xlabel="length over the dense gradient's", aspect="equal")
    axes[2].set_title("turn from the dense gradient")


def _amplified(axes: list[Axes], rows: pd.DataFrame) -> None:
    """Every neuron's; markers and shades of grey tell the layers apart, since colours tell the gradients apart."""
    for one, measured in zip(axes, ("raw", "fixed"), strict=True):
        for i, ((fan_ins, s), group) in enumerate(rows.groupby(["task.fan_ins", "task.sparsity"])):
            look = {"color": (GREY, style.ink())[i % 2], "markerfacecolor": ("none", None)[i // 2 % 2]}
            text = f"{fan_ins} fan-ins, layer at {float(s):.0%}"
            ratio = group[measured] / group["ideal"]
            one.plot(group["density"], ratio, MARKERS[i], label=text, markersize=3, markeredgewidth=0.7, **look)
        density = np.linspace(0.02, 1, 200)
        one.plot(density, density**-0.5, color=PINK, linewidth=2, linestyle="--", label="Eq. 10, $(1-s_i)^{-1/2}$")
        what = "as it is" if measured == "raw" else "$dL/d\\hat x$ fixed"
        one.set(title=f"amplification, {what}", xlabel="density $1-s_i$ of the neuron", xscale="log", yscale="log")
    axes[0].set_ylabel("|sparse gradient| / |dense gradient|")


def _angles(axes: Axes, runs: pd.DataFrame) -> None:
    settings = list(runs.groupby(["task.fan_ins", "task.sparsity"]))
    for i, (_, group) in enumerate(settings):
        for offset, (key, text, colour) in enumerate(TURNS):
            place, found = i + 0.2 * offset - 0.3, group[f"{key}_angle"]
            look = {"color": colour, "yerr": found.std(), "error_kw": {"linewidth": 1, "ecolor": style.ink()}}
            axes.bar(place, found.mean(), 0.18, label=text if i == 0 else None, **look)
    axes.set_xticks(range(len(settings)), [f"{fan_ins[:4]}.\n{float(s):.0%}" for (fan_ins, s), _ in settings])
    axes.set(title="angle to the dense gradient", ylabel="degrees, ± standard deviation")
    axes.set_yticks(range(0, 91, 15))


@kind()
def _layer_norm(on: Material) -> Figure:
    """The layer-norm counterpart of Figure 2, and the exponent of (1 - s_i) in a neuron's own amplification."""
    places = list(on.runs["task.place"].unique())
    figure, axes = style.panels(2, len(places), share_y="row")
    for i, place in enumerate(places):
        for j, (fan_ins, group) in enumerate(on.rows[on.rows["task.place"] == place].groupby("task.fan_ins")):
            _band(axes[0][i], group, "sparsity", "ratio", j, f"{fan_ins} fan-ins")
            if group["exponent"].notna().any():
                _band(axes[1][i], group.dropna(subset=["exponent"]), "sparsity", "exponent", j, f"{fan_ins} fan-ins")
        _eq10(axes[0][i])
        axes[0][i].set_title(label("task.place", place))
        axes[1][i].axhline(-0.5, color=style.ink(), linestyle="--", linewidth=1, label="Eq. 10, $1/\\sqrt{1-s}$")
        axes[1][i].axhline(0, color=GREY, linestyle=":", label="no amplification")
        axes[1][i].set(
            title=label("task.place", place), xlabel="Sparsity s", ylim=(-1, 0.3), xlim=axes[0][i].get_xlim()
        )
        axes[1][i].set_xticks(axes[0][i].get_xticks()[1:-1])
    axes[0][0].set(ylim=(0, 8), ylabel="mean |sparse| / mean |dense|")
    axes[1][0].set_ylabel("exponent of $1-s_i$")
    style.legend(figure)
    return figure


@kind()
def _amplification(on: Material) -> Figure:
    """Exponent of (1 - s_i) in each layer's amplification, and the gradient's turn at every mask update."""
    shown = list(on.runs["sparsity"].unique())
    figure, axes = style.panels(2, len(shown), share_y="row")
    for i, panel in enumerate(shown):
        here, beyond = on.rows[on.rows["sparsity"] == panel], []
        for j, (step, group) in enumerate(here[here["kind"] == "layer"].groupby("step")):
            over = group.groupby("layer", sort=False)["exponent"].agg(["mean", "std"])
            look = {"color": COLOURS[j], "marker": MARKERS[j], "linestyle": "", "elinewidth": 0.8}
            beyond += [(x, y, COLOURS[j]) for x, y in enumerate(over["mean"])]
            axes[0][i].errorbar(np.arange(len(over)) + 0.3 * j, over["mean"], over["std"], label=f"step {step}", **look)
        axes[0][i].axhline(-0.5, color=style.ink(), linestyle="--", linewidth=1, label="Eq. 10")
        axes[0][i].set(title=label("sparsity", panel), xlabel="layer", ylim=(-2, 1.5))
        for x, y, colour in [one for one in beyond if abs(one[1]) > 1.5]:
            axes[0][i].annotate(f"{y:.1f} ↑", (x, 1.4), color=colour, ha="left", va="top")
        updates = here[here["kind"] == "update"]
        for j, key in enumerate(("angle_raw", "angle_corrected")):
            if len(updates):
                _band(axes[1][i], updates, "step", key, 2 + j, key.split("_")[1] + " gradient")
        axes[1][i].set(title=label("sparsity", panel), xlabel="step of the mask update")
    axes[0][0].set_ylabel("exponent of $1-s_i$, ± std")
    axes[1][0].set_ylabel("turn (degrees)")
    style.legend(figure)
    return figure


# --- steps and lengths ---


PARTED = 1e-6  # a gap beyond rounding: float64 losses that are the same differ by less, after 300 steps too
WHEN = {BLUE: "never part", GREEN: "part at a mask update", ORANGE: "part in the first steps"}
LONG_DASHES = (*style.DASHES, (0, (8, 2)))


@kind()
def _equivalence(on: Material) -> Figure:
    """Both losses where every assumption holds, and the gap between them where one ends.

    A colour for when two trainings part, a dash for what differs between them.
    """
    figure, [axes] = style.panels(1, 2, share_y=False, height=3.5)
    drawn: dict[str, list[Line2D]] = {colour: [] for colour in WHEN}
    for variant, group in on.rows.groupby("task.variant", sort=False):
        losses = (group["sparseopt"] - group["sgd"]).abs()  # of rows that are older than the gap
        gap = group.get("gap", losses).fillna(losses).clip(lower=1e-17).rolling(10, min_periods=1).max()
        apart = group["step"][gap > PARTED]
        colour = BLUE if apart.empty else ORANGE if apart.min() < 10 else GREEN
        look = {"color": colour, "linestyle": LONG_DASHES[len(drawn[colour]) % len(LONG_DASHES)]}
        drawn[colour] += axes[1].plot(group["step"], gap, label=label("task.variant", variant), **look)
        if variant == "exact":
            axes[0].plot(group["step"], group["sparseopt"], color=GREY, linewidth=3.5, label="SparseOpt from $w$")
            axes[0].plot(group["step"], group["sgd"], ":", color=style.ink(), label="SGD from $w/\\sqrt{c}$")
    axes[0].set(title="both losses, all assumptions hold", xlabel="step", ylabel="train loss")
    axes[0].legend()
    axes[1].set(title="gap of the losses, by what differs", xlabel="step", ylabel="|difference of the losses|")
    axes[1].set_yscale("log")
    longest, empty = max(map(len, drawn.values())), Line2D([], [], linestyle="")
    entries = []  # a column for each colour, under its meaning
    for colour, lines in drawn.items():
        entries += [(empty, WHEN[colour]), *((line, line.get_label()) for line in lines)]
        entries += [(empty, "")] * (longest - len(lines))
    figure.legend(*zip(*entries, strict=True), loc="outside lower center", ncols=len(WHEN), handlelength=3.5)
    return figure


@kind()
def _neuron_steps(on: Material) -> Figure:
    """Length and turning angle of each neuron's weight at the end of training, over its correction c.

    Every neuron, and the median with quartiles in eight bins of c that hold as many neurons each.
    """
    optimizers = list(on.runs["task.optimizer"].unique())
    figure, axes = style.panels(2, len(optimizers), share_y="row")
    for i, optimizer in enumerate(optimizers):
        here = on.rows[(on.rows["task.optimizer"] == optimizer) & (on.rows["c"] > 0)]
        for line, value in zip(axes, ("length", "degrees_per_step"), strict=True):
            if len(here):
                line[i].plot(here["c"], here[value], ".", color=GREY, markersize=3, alpha=0.35, label="a neuron")
                bins = here.groupby(pd.qcut(here["c"], 8, duplicates="drop"), observed=True)
                middle, ends = bins["c"].median(), bins[value].quantile([0.25, 0.5, 0.75]).unstack()
                line[i].fill_between(middle, ends[0.25], ends[0.75], color=BLUE, alpha=0.25, linewidth=0)
                line[i].plot(middle, ends[0.5], "o-", color=BLUE, label="median and quartiles, by $c_i$")
            line[i].set(xscale="log", yscale="log", title=label("task.optimizer", optimizer))
            line[i].set_xticks([0.6, 0.8, 1, 1.25], ["0.6", "0.8", "1", "1.25"])
            line[i].xaxis.set_minor_locator(NullLocator())
            line[i].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            line[i].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            line[i].yaxis.set_minor_locator(NullLocator())
        axes[1][i].set_xlabel("$c_i$ (Eq. 12)")
    axes[0][0].set_ylabel("length $|w_i|$")
    axes[1][0].set_ylabel("degrees per step")
    style.legend(figure)
    return figure


@kind()
def _equilibrium(on: Material) -> Figure:
    """Every neuron's length and angle over their closed forms, and how soon a longer neuron returns to its length."""
    figure, [axes] = style.panels(1, 3, share_y=False, height=2.9)
    keys = ["task.lr", "task.weight_decay", "task.momentum"]
    for i, (setting, group) in enumerate(on.rows.groupby(keys, sort=False)):
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
        one.axline((1, 1), slope=1, color=style.ink(), linewidth=1)
        one.set(xscale="log", yscale="log", title=what, xlabel=f"in closed form{unit}", ylabel=f"measured{unit}")
        for axis in (one.xaxis, one.yaxis):
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_minor_locator(NullLocator())
        one.set(xlim=(ticks[0], ticks[-1]), ylim=(ticks[0], ticks[-1]))
    time = np.linspace(0, 1.5)
    axes[2].plot(time, np.exp(-time), color=style.ink(), linewidth=1, label="$e^{-t/\\tau}$")
    axes[2].set(title="return of $|w_i|^4$ from 16-fold", xlabel="time $t/\\tau_i$", ylabel="excess that is left")
    axes[2].set_yscale("log")
    axes[2].yaxis.set_minor_locator(NullLocator())
    axes[2].set_yticks([0.2, 0.5, 1], ["0.2", "0.5", "1"])
    for j, optimizer in enumerate(on.runs["task.optimizer"].unique()):
        axes[2].plot([], [], MARKERS[j], color=GREY, label=label("task.optimizer", optimizer))
    style.legend(figure, columns=3)
    return figure


# --- Appendix A.1: the student-teacher problems, their invariants and sign flips ---

REACH = 2.5  # of the axes of Figure 6


@kind()
def _balance(on: Material) -> Figure:
    """The balance equation in (a, gamma) at beta = 0, and as a surface over (gamma, beta)."""
    figure = style.sized(3.1)
    figure.set_layout_engine("none")  # which leaves surfaces little room
    flat = figure.add_axes((0.06, 0.15, 0.27, 0.74))
    for i, (flow, group) in enumerate(on.rows.groupby("flow", sort=False)):
        for j, (_, line) in enumerate(group.groupby("a0")):
            look = {"color": COLOURS[i], "label": flow if j == 0 else None, "linestyle": ("-", "--")[i]}
            flat.plot(line["a"], line["rho"], **look)
            flat.plot(line["a"], -line["rho"], **{**look, "label": None})
    flat.set(xlabel="a", ylabel="$\\gamma$", title="$\\beta = 0$, through $a_0^2 = \\gamma_0^2$")
    flat.set_ylim(-3.2, 3.6)
    flat.legend(loc="upper center", ncols=2, handlelength=1.5)
    angles = np.linspace(0, 2 * np.pi, 40)
    for i, flow in enumerate(("gradient flow", "HAM")):
        space = figure.add_axes((0.335 + 0.325 * i, -0.02, 0.3, 0.98), projection="3d")
        line = on.rows.query("flow == @flow and a0 == -1.0").dropna()
        if len(line):
            a, rho = line["a"].to_numpy(), line["rho"].to_numpy()
            look = {"color": COLOURS[i], "alpha": 0.7, "linewidth": 0}
            space.plot_surface(
                np.outer(a, np.ones(40)), np.outer(rho, np.cos(angles)), np.outer(rho, np.sin(angles)), **look
            )
        ends = (-REACH, REACH)  # the same for both, so that their shapes compare
        space.set(xlabel="a", ylabel="$\\gamma$", zlabel="$\\beta$", xlim=ends, ylim=ends, zlim=ends)
        space.set_facecolor("none")  # which would cover the labels of its neighbour
        space.set_title(f"{flow}, $a_0 = -1$", y=0.98)
        space.set_box_aspect((1, 1, 0.9), zoom=1.05)
        for axis in (space.xaxis, space.yaxis, space.zaxis):
            axis.set_pane_color((0, 0, 0, 0))
            axis.set_ticks([-2, 0, 2])
            axis.labelpad = -6
            axis.set_tick_params(pad=-2)
    return figure


@kind()
def _students(on: Material) -> Figure:
    """Loss, parameters and invariant over iterations; rows are the laws of the initial weights.

    Loss: the median over seeds and its quartiles; the others: the first seed. The vertical axes name them.
    """
    laws = list(on.runs["task.law"].unique())
    two = "a1" in on.rows
    columns = [
        ("loss, median over seeds", ("loss_median",)),
        ("a, redundant, one seed" if two else "a, one seed", ("a0",)),
        ("a, useful, one seed", ("a1",)) if two else ("$\\gamma$, pale: $\\beta$, one seed", ("gamma0", "beta0")),
        ("invariant's drift, one seed", ("drift",)),
    ]
    figure, axes = style.panels(len(laws), len(columns), share_y=False)
    for line, law in zip(axes, laws, strict=True):
        here = on.rows[on.rows["task.law"] == law]
        for (optimizer, scaling), group in here.groupby(["task.optimizer", "task.scaling"], sort=False):
            if optimizer == "ham_flow":
                continue  # in the table; on the paper's steps it lies on HAM's line
            look = {"color": COLOURS[("gd", "ham").index(optimizer)]}
            look["linestyle"] = style.DASHES[("none", "d", "eq12").index(scaling)]
            text = f"{label('task.optimizer', optimizer)}, {label('task.scaling', scaling)}"
            group = group[group["iteration"] > 0]  # time is logarithmic
            line[0].fill_between(
                group["iteration"], group["loss_low"], group["loss_high"], color=look["color"], alpha=0.08, linewidth=0
            )
            for one, (_, keys) in zip(line, columns, strict=True):
                for key, alpha in zip(keys, (1, 0.4), strict=False):
                    one.plot(group["iteration"], group[key], alpha=alpha, label=None if alpha < 1 else text, **look)
        for one, (words, _) in zip(line, columns, strict=True):
            one.set(title=f"$w_0 \\sim {float(law):.2g}\\,N(0,1)$", xlabel="iteration", ylabel=words, xscale="log")
        line[0].set(yscale="log", ylim=(1e-8, 10))
        line[3].set_ylim(bottom=0)
    style.legend(figure, columns=4)
    return figure


@kind()
def _sign_flips(on: Material) -> Figure:
    """Share of students whose a changes its sign, over initial values; forbidden cells are crossed."""
    flows, betas = ("gd", "ham_flow"), sorted(on.rows["beta0"].unique())
    figure, axes = style.panels(len(betas), 2, height=2.8)
    for line, beta in zip(axes, betas, strict=True):
        for one, flow in zip(line, flows, strict=True):
            one.set(title=f"{label('task.optimizer', flow)}, $\\beta_0 = {beta:g}$", xlabel="$a_0$")
            one.grid(visible=False)
            here = on.rows[(on.rows["task.optimizer"] == flow) & (on.rows["beta0"] == beta)]
            table = here.pivot(index="gamma0", columns="a0", values="flipped_share")
            forbidden = here.pivot(index="gamma0", columns="a0", values="forbidden")
            picture = one.imshow(table, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="cividis")
            for (y, x), no in np.ndenumerate(forbidden.to_numpy(dtype=bool)):
                one.text(x, y, "x" if no else "", ha="center", va="center", color="white")
            one.set_xticks(range(table.shape[1]), [f"{v:g}" for v in table.columns])
            one.set_yticks(range(table.shape[0]), [f"{v:g}" for v in table.index])
        line[0].set_ylabel("$\\gamma_0$")
    figure.colorbar(picture, ax=[one for line in axes for one in line], label="share that flips (x: forbidden)")
    return figure
