"""The accuracy and exploration figures, in the paper's panels; the paper's own numbers are thin and hollow."""

from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from sparse_train.report.figures import series, style
from sparse_train.report.figures.kinds import Kind, Material
from sparse_train.report.figures.series import PANEL, Panel
from sparse_train.report.figures.style import Look

APART = {"sparseopt": -2 / 72, "sgd": 2 / 72}  # inches, so that equal rates do not hide each other


def _curves(on: Material) -> Figure:
    panels = series.curves(on)
    figure, [axes] = style.panels(1, len(panels))
    dashes = {line.schedule: line.look.dash for panel in panels for line in panel.lines if not line.paper}
    for one, panel in zip(axes, panels, strict=True):
        _prepare(one, panel)
        style.epochs(one)
        for line in panel.lines:
            if line.paper:
                one.plot(line.points["x"], line.points["mean"], markevery=0.25, **_papers(line.look))
            else:
                style.band(one, line.points, panel.value, line.look)
    axes[0].set_ylabel(panels[0].y)
    style.legend(figure, dashes=dashes if len(dashes) > 1 else None)
    return figure


def _final(on: Material) -> Figure:
    panels = series.final(on)
    figure, [axes] = style.panels(1, len(panels))
    for one, panel in zip(axes, panels, strict=True):
        _prepare(one, panel)
        for line in panel.lines:
            x, mean, std = (line.points[key] for key in ("x", "mean", "std"))
            if line.paper:
                one.errorbar(x, mean, std.fillna(0), **_papers(line.look))
            else:
                one.plot(x, mean, **_ours(line.look))
                style.spread(one, line.points, panel.value, line.look.colour)
                one.set_xticks(list(x))
    axes[0].set_ylabel(panels[0].y)
    style.legend(figure)
    return figure


def _itop(on: Material) -> Figure:
    panels = series.itop(on)
    figure, axes = style.panels(2, len(panels) // 2)
    sparsities = [100 * float(sparsity) for sparsity in on.runs[PANEL].unique()]
    for one, panel in zip([one for row in axes for one in row], panels, strict=True):
        _prepare(one, panel)
        for line in panel.lines:
            look = _papers(line.look) if line.paper else _ours(line.look)
            aside = ScaledTranslation(APART[line.facets["optimizer"]], 0, figure.dpi_scale_trans)
            x, mean, std = line.points["x"], line.points["mean"], 0 if line.paper else line.points["std"].fillna(0)
            one.errorbar(x, mean, None if line.paper else std, transform=one.transData + aside, **look)
            # the axes do not count what is drawn aside
            one.update_datalim([*zip(x, mean - std, strict=True), *zip(x, mean + std, strict=True)])
        one.set_xticks(sparsities)
        one.update_datalim([(x, 0.0) for x in sparsities], updatey=False)  # also where nothing is drawn yet
        one.autoscale_view(scaley=bool(panel.lines))
    for row in axes:
        row[0].set_ylabel(panels[0].y)
    for one in axes[0]:
        one.set_xlabel("")
    style.widen(axes[0][0], panels[0].span)  # the panels share their vertical axis
    style.legend(figure)
    return figure


def _prepare(axes: Axes, panel: Panel) -> None:
    axes.set(title="\n".join(wrap(panel.title, 42)), xlabel=panel.x)
    if panel.lines and all(line.paper for line in panel.lines):
        style.hole(axes, "no complete run of ours yet")


def _ours(look: Look) -> dict:
    return {"marker": look.marker, "color": look.colour, "label": look.words, "linestyle": look.dash}


def _papers(look: Look) -> dict:
    return _ours(look) | {"markerfacecolor": "white", "linewidth": 0.8, "zorder": 1}


KINDS = {
    "curves": Kind(
        _curves,
        "Accuracy over epochs, a panel per sparsity, the schedules overlaid.",
        ("epoch", "train_acc", "test_acc"),
    ),
    "final": Kind(_final, "Final accuracy over the length of training, each point a run of its own.", None),
    "itop": Kind(_itop, "ITOP rate over sparsity; rows of panels: growth by original or corrected gradients.", None),
}
