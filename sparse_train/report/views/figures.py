"""The accuracy and exploration figures, in the paper's panels; the paper's own numbers in grey."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparse_train.report.records import paper
from sparse_train.report.views import style
from sparse_train.report.views.labels import label, name
from sparse_train.report.views.looks import Look, Looks

PANEL = "sparsity"
ITOP_SPAN = 2.0  # percentage points that an axis of ITOP rates covers at least; the paper's differences are 0.9 to 16


def panels_of(runs: pd.DataFrame) -> list[str]:
    """The sparsities, each of which has a panel."""
    return list(runs.loc[runs["dst"] != "dense", PANEL].unique())


def within(rows: pd.DataFrame, panel: str) -> pd.DataFrame:
    """The rows that stand in a panel: those of its sparsity, and dense networks, which have none."""
    return rows[(rows[PANEL] == panel) | (rows["dst"] == "dense")] if len(rows) else rows


def curves(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Accuracy over epochs, a panel per sparsity, the schedules overlaid (Figures 3, 4, 15, 16, 23, 24).

    The line is the mean over seeds, the band one standard deviation.
    """
    shown, looks = panels_of(runs), Looks(runs, spec.get("factors", ()), spec.get("methods"))
    figure, [axes] = style.panels(1, len(shown), title)
    schedules = list(runs["epochs"].unique()) if "epochs" in runs else [None]
    for one, panel in zip(axes, shown, strict=True):
        one.set(title=f"{name(PANEL)} {label(PANEL, panel)}", xlabel=name("epoch"))
        one.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if at_paper_scale and spec.get("paper"):
            _paper_curves(one, spec["paper"], panel)
        if rows.empty:
            continue
        for _, look, group in looks.lines(within(rows, panel)):
            for place, schedule in enumerate(schedules):
                line = group if schedule is None else group[group["epochs"] == schedule]
                if len(line):
                    text, marker = look.words if place == 0 else None, look.marker if looks.markers else ""
                    style.band(one, line, "epoch", spec["value"], style.DASHES[place % 4], look.colour, text, marker)
    axes[0].set_ylabel(name(spec["value"]))
    _name_schedules(axes[-1], schedules)
    style.legend(figure, axes[0])
    return figure


def _paper_curves(axes: Axes, source: str, panel: str) -> None:
    for place, (optimizer, dash) in enumerate((("sparseopt", "-"), ("sgd", "--"))):
        for i, (_, line) in enumerate(paper.curve(source, panel).query("optimizer == @optimizer").groupby("epochs")):
            text = f"paper, {label('optimizer', optimizer)}" if i == 0 else None
            axes.plot(line["epoch"], line["acc"], dash, color=style.GREY, linewidth=0.9, label=text, zorder=1 + place)


def _name_schedules(axes: Axes, schedules: list) -> None:
    """An entry of the figure's legend for every dash."""
    if len(schedules) > 1:
        for place, schedule in enumerate(schedules):
            axes.plot([], [], style.DASHES[place % 4], color=style.BLACK, label=f"{schedule} epochs")


def final(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """Final accuracy over the length of training, each point a run of its own (Figures 11 to 14, 17 to 22, 25, 26)."""
    shown, looks = panels_of(runs), Looks(runs, spec.get("factors", ()), spec.get("methods"))
    figure, [axes] = style.panels(1, len(shown), title)
    for one, panel in zip(axes, shown, strict=True):
        one.set(title=f"{name(PANEL)} {label(PANEL, panel)}", xlabel=name("epochs"))
        for (dst, optimizer), look, group in looks.lines(within(runs, panel)):
            if at_paper_scale and spec.get("paper") and dst not in style.REFERENCES:
                _paper_points(one, spec["paper"], panel, dst, optimizer, look)
            _points(one, group, "epochs" if at_paper_scale else "trained_epochs", spec["value"], look)
    axes[0].set_ylabel(name(spec["value"]))
    style.legend(figure, axes[0])
    return figure


def _points(axes: Axes, runs: pd.DataFrame, x: str, value: str, look: Look) -> None:
    if value not in runs or x not in runs or runs[value].dropna().empty:
        return
    over_seeds = runs.dropna(subset=[value]).astype({x: float}).groupby(x)[value]
    mean, std = over_seeds.mean(), over_seeds.std().fillna(0)
    axes.plot(mean.index, mean, marker=look.marker, color=look.colour, label=look.words, linestyle=look.dash)
    style.spread(axes, mean, std, value, look.colour)
    axes.set_xticks(list(mean.index))


def _paper_points(axes: Axes, source: str, panel: str, dst: str, optimizer: str, ours: Look) -> None:
    rows = paper.table(source).query("sparsity == @panel and dst == @dst and optimizer == @optimizer")
    look = {"marker": ours.marker, "color": style.GREY, "markerfacecolor": "none", "linewidth": 0.8}
    look["label"] = f"paper, {ours.words}"
    dash = style.DASHES[style.OPTIMIZERS[optimizer]]
    axes.errorbar(rows["epochs"].astype(float), rows["mean"], rows["std"].fillna(0), linestyle=dash, zorder=1, **look)


def itop(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, title: str, at_paper_scale: bool) -> Figure:
    """ITOP rate over sparsity; rows of panels: growth by original or corrected gradients (Figures 5 and 10).

    The baseline has no correction, so both rows show the same baseline.
    """
    schedules = list(runs["epochs"].unique())
    figure, axes = style.panels(2, len(schedules), title, share_y=True)
    for growth, line in zip(("rigl", "rigl_corrected"), axes, strict=True):
        for one, schedule in zip(line, schedules, strict=True):
            words = "original" if growth == "rigl" else "corrected"
            one.set(title=f"{schedule} epochs, growth by {words} gradients")
            for dst, optimizer in ((growth, "sparseopt"), ("rigl", "sgd")):
                here = runs.query("dst == @dst and optimizer == @optimizer and epochs == @schedule")
                if at_paper_scale and spec.get("paper"):
                    _paper_itop(one, spec["paper"], dst, optimizer, schedule)
                if spec["value"] in here and not here[spec["value"]].dropna().empty:
                    here = here.dropna(subset=[spec["value"]]).astype({PANEL: float})
                    over_seeds = 100 * here.groupby(PANEL)[spec["value"]].agg(["mean", "std"]).fillna(0)
                    look = style.look(optimizer)
                    one.errorbar(
                        100 * over_seeds.index,
                        over_seeds["mean"],
                        over_seeds["std"],
                        label=label("optimizer", optimizer),
                        **look,
                    )
            sparsities = [100 * float(s) for s in runs[PANEL].unique()]
            one.set_xticks(sparsities)
            one.update_datalim([(x, 0.0) for x in sparsities], updatey=False)  # also where nothing is drawn yet
            one.autoscale_view(scaley=False)
        line[0].set_ylabel(name("itop_rate"))
    if any(one.lines for one in figure.axes):
        for one in (one for one in figure.axes if not one.lines):
            style.hole(one)
    style.widen(axes[0][0], ITOP_SPAN)  # the panels share their vertical axis
    for one in axes[-1]:
        one.set_xlabel(f"{name(PANEL)} (%)")
    style.legend(figure, axes[0][0])
    return figure


def _paper_itop(axes: Axes, source: str, dst: str, optimizer: str, schedule: str) -> None:
    rows = paper.table(source).query("dst == @dst and optimizer == @optimizer and epochs == @schedule")
    if len(rows):
        look = {**style.look(optimizer), "color": style.GREY, "markerfacecolor": "none", "linewidth": 0.8}
        x = 100 * rows[PANEL].astype(float)
        axes.plot(x, rows["mean"], linestyle="--", label=f"paper, {label('optimizer', optimizer)}", zorder=1, **look)


KINDS = {
    "curves": (curves, ("epoch", "train_acc", "test_acc")),
    "final": (final, None),
    "itop": (itop, None),
}
