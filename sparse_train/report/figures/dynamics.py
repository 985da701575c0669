"""Figures of Appendix A.1: the student-teacher problems, their invariants and sign flips."""

import numpy as np
from matplotlib.figure import Figure

from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import Kind, Material, groups, having
from sparse_train.report.figures.style import COLOURS
from sparse_train.report.views.labels import label

REACH = 2.5  # of the axes of Figure 6


def _balance(on: Material) -> Figure:
    figure = style.sized(9.4, 3.8)
    flat = figure.add_subplot(1, 3, 1)
    for i, (flow, group) in enumerate(groups(on.rows, "flow", sort=False)):
        for j, (_, line) in enumerate(group.groupby("a0")):
            look = {"color": COLOURS[i], "label": flow if j == 0 else None, "linestyle": ("-", "--")[i]}
            flat.plot(line["a"], line["rho"], **look)
            flat.plot(line["a"], -line["rho"], **{**look, "label": None})
    flat.set(xlabel="a", ylabel="$\\gamma$", title="$\\beta = 0$, through balanced $a_0^2 = \\gamma_0^2$")
    flat.legend(loc="upper center")
    angles = np.linspace(0, 2 * np.pi, 40)
    for i, flow in enumerate(("gradient flow", "HAM")):
        space = figure.add_subplot(1, 3, 2 + i, projection="3d")
        line = on.rows.query("flow == @flow and a0 == -1.0").dropna() if len(on.rows) else on.rows
        if len(line):
            a, rho = line["a"].to_numpy(), line["rho"].to_numpy()
            look = {"color": COLOURS[i], "alpha": 0.55, "linewidth": 0}
            space.plot_surface(
                np.outer(a, np.ones(40)), np.outer(rho, np.cos(angles)), np.outer(rho, np.sin(angles)), **look
            )
        ends = (-REACH, REACH)  # the same for both, so that their shapes compare
        space.set(xlabel="a", ylabel="$\\gamma$", zlabel="$\\beta$", xlim=ends, ylim=ends, zlim=ends)
        space.set_title(f"{flow}, $a_0 = -1$")
        space.set_box_aspect(None, zoom=0.75)  # leaves room for the name of the vertical axis
    return figure


def _students(on: Material) -> Figure:
    # Loss: the median over seeds and its quartiles; the others: the first seed. Each panel says which.
    laws = list(on.runs["task.law"].unique())
    two = "a1" in on.rows
    columns = [
        "loss, median over seeds",
        *(f"{words}, one seed" for words in (("a, redundant", "a, useful") if two else ("a", "$\\gamma$, $\\beta$"))),
        "drift of the invariant, one seed",
    ]
    figure, axes = style.panels(len(laws), len(columns), share_y=False)
    for line, law in zip(axes, laws, strict=True):
        here = having(on.rows, "task.law", law)
        for (optimizer, scaling), group in groups(here, ["task.optimizer", "task.scaling"], sort=False):
            if optimizer == "ham_flow":
                continue  # in the table; on the paper's steps it lies on HAM's line
            colour = COLOURS[("gd", "ham").index(optimizer)]
            dash = style.DASHES[("none", "d", "eq12").index(scaling)]
            text = f"{label('task.optimizer', optimizer)}, {label('task.scaling', scaling)}"
            t = group["iteration"]
            line[0].plot(t, group["loss_median"], dash, color=colour, label=text)
            line[0].fill_between(t, group["loss_low"], group["loss_high"], color=colour, alpha=0.08, linewidth=0)
            line[1].plot(t, group["a0"], dash, color=colour)
            if two:
                line[2].plot(t, group["a1"], dash, color=colour)
            else:
                line[2].plot(t, group["gamma0"], dash, color=colour)
                line[2].plot(t, group["beta0"], dash, color=colour, alpha=0.5)
            line[3].plot(t, group["drift"].clip(lower=1e-17), dash, color=colour)
        for one, words in zip(line, columns, strict=True):
            one.set(title=f"{words}\n$w_0 \\sim {float(law):.2g}\\,N(0,1)$", xlabel="iteration")
        line[0].set(yscale="log", ylim=(1e-8, 10))
        line[3].set(yscale="log", ylim=(1e-6, 10))
    style.legend(figure, columns=4)
    return figure


def _sign_flips(on: Material) -> Figure:
    flows, betas = ("gd", "ham_flow"), sorted(on.rows["beta0"].unique()) if len(on.rows) else [0.0]
    figure, axes = style.panels(len(betas), 2)
    for line, beta in zip(axes, betas, strict=True):
        for one, flow in zip(line, flows, strict=True):
            one.set(title=f"{label('task.optimizer', flow)}, $\\beta_0 = {beta:g}$", xlabel="$a_0$")
            one.grid(visible=False)
            if not len(on.rows):
                continue
            here = on.rows[(on.rows["task.optimizer"] == flow) & (on.rows["beta0"] == beta)]
            table = here.pivot(index="gamma0", columns="a0", values="flipped_share")
            forbidden = here.pivot(index="gamma0", columns="a0", values="forbidden")
            picture = one.imshow(table, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="cividis")
            for (y, x), no in np.ndenumerate(forbidden.to_numpy(dtype=bool)):
                one.text(x, y, "x" if no else "", ha="center", va="center", color="white")
            one.set_xticks(range(table.shape[1]), [f"{v:g}" for v in table.columns])
            one.set_yticks(range(table.shape[0]), [f"{v:g}" for v in table.index])
        line[0].set_ylabel("$\\gamma_0$")
    if len(on.rows):
        figure.colorbar(picture, ax=[one for line in axes for one in line], label="share that flips (x: forbidden)")
    return figure


KINDS = {
    "balance": Kind(_balance, "The balance equation in (a, gamma) at beta = 0, and as a surface over (gamma, beta)."),
    "students": Kind(
        _students, "Loss, parameters and invariant over iterations; rows are the laws of the initial weights."
    ),
    "sign_flips": Kind(
        _sign_flips, "Share of students whose a changes its sign, over initial values; forbidden cells are crossed."
    ),
}
