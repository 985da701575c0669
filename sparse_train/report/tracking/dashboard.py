"""What the W&B workspace and reports show, as plain values made from the sweep files; `wandb_views` builds them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from sparse_train.report import sweeps
from sparse_train.report.sweeps import PAPER, Cell, Sweep, is_group
from sparse_train.report.views.labels import label, name
from sparse_train.tracking.wandb_run import BEST, metric, option_key

NAME = "sparse_train"
METHOD = (option_key("dst"), option_key("optimizer"))
WORKSPACE = {
    "Accuracy": ("test_acc", "train_acc"),
    "Loss": ("test_loss", "train_loss"),
    "Sparsity": ("realised_sparsity", "itop_rate"),
    "Optimization": ("lr", "grad_norm", "clipped_share"),
    "Steps over weights": ("step_ratio/layer3", "step_ratio/classifier", "step_ratio/affine"),
    "Speed": ("images_per_second", "seconds"),
}


@dataclass(frozen=True)
class Panel:
    """One panel, and the runs it shows.

    Attributes:
        kind: "line" over epochs; "scatter" over a key of the configuration; "bar", one for each group of runs.
        x: the history's or configuration's key; None for bars.
        y: the metric: of the history for lines, of the summary for the others.
        series: keys of the configuration; runs that agree in them are one series, a mean with its spread.
        filters: key of the configuration -> values of the runs that are shown.
    """

    kind: str
    title: str
    x: str | None
    y: str
    series: tuple[str, ...]
    filters: dict[str, list] = field(hash=False)


@dataclass(frozen=True)
class Report:
    """One table of the paper with the figures that are drawn from its runs: headings with text and panels."""

    name: str
    title: str
    parts: list[tuple[str, str, list[Panel]]]


def workspace() -> list[tuple[str, list[Panel]]]:
    """Sections of the workspace: everything that a training run measures, over epochs, and the best accuracies."""
    series, paper = (*METHOD, "sparsity", "epochs"), {"scale": [PAPER]}
    sections = [
        (title, [Panel("line", name(key), "epoch", metric(key), series, paper) for key in keys])
        for title, keys in WORKSPACE.items()
    ]
    best = Panel("bar", "Best test accuracy (%)", None, f"{BEST}test_acc", series, paper)
    return [*sections, ("Best", [best])]


def reports() -> list[Report]:
    """One for every table of the paper that is trained for."""
    loaded = [sweeps.load(name) for name in sweeps.names()]
    tables = [sweep for sweep in loaded if sweep.name.startswith("table") and sweep.cells]
    figures: dict[str, list[Sweep]] = {table.name: [] for table in tables}
    for sweep in loaded:
        if (sweep.artifact.get("figure") or {}).get("kind") in PANELS and not sweep.artifact.get("table"):
            ids = {cell.id for cell in sweep.cells}
            home = max(tables, key=lambda table: len(ids & {cell.id for cell in table.cells}))
            figures[home.name] += [sweep] if ids & {cell.id for cell in home.cells} else []
    return [_report(table, figures[table.name]) for table in tables]


def _report(table: Sweep, figures: list[Sweep]) -> Report:
    parts = [(table.artifact["title"], _about(table.name), _bars(table))]
    parts += [(one.artifact["title"], _about(one.name), PANELS[one.artifact["figure"]["kind"]](one)) for one in figures]
    return Report(table.name, table.artifact["title"], parts)


def _about(name: str) -> str:
    return "\n".join(line for line in sweeps.header(name) if line)


def _bars(table: Sweep) -> list[Panel]:
    """A panel for every value of the first row, as the table is read; the other rows and the columns are bars."""
    shown = table.artifact["table"]
    first, *others = [*shown["rows"], *([shown["columns"]] if shown.get("columns") else [])]
    series = tuple(config_key(factor) for factor in others)
    return [
        Panel("bar", f"{name(first)} {label(first, value)}", None, shown["value"], series, _filters(cells))
        for value, cells in _split(table.cells, first)
    ]


def _curves(figure: Sweep) -> list[Panel]:
    """Over epochs, a panel per sparsity; optimizers and schedules are series."""
    value, series = figure.artifact["figure"]["value"], (*METHOD, "epochs")
    return [
        Panel("line", f"{name('sparsity')} {label('sparsity', s)}", "epoch", value, series, _filters(cells))
        for s, cells in _split(figure.cells, "sparsity")
    ]


def _final(figure: Sweep) -> list[Panel]:
    """The last epoch's value over the length of training, a panel per sparsity."""
    value = figure.artifact["figure"]["value"]
    return [
        Panel("scatter", f"{name('sparsity')} {label('sparsity', s)}", "epochs", value, METHOD, _filters(cells))
        for s, cells in _split(figure.cells, "sparsity")
    ]


def _itop(figure: Sweep) -> list[Panel]:
    """Over sparsity, a panel per length of training."""
    value = metric(figure.artifact["figure"]["value"])
    return [
        Panel("scatter", f"{epochs} epochs", "sparsity", value, METHOD, _filters(cells))
        for epochs, cells in _split(figure.cells, "epochs")
    ]


PANELS = {"curves": _curves, "final": _final, "itop": _itop}


def config_key(factor: str) -> str:
    """The key of W&B's config that holds a factor of a sweep: for a group, the option that was taken."""
    return option_key(factor) if is_group(factor) else factor


def _split(cells: list[Cell], factor: str) -> Iterable[tuple[str, list[Cell]]]:
    for value in dict.fromkeys(cell.factors[factor] for cell in cells if factor in cell.factors):
        yield value, [cell for cell in cells if cell.factors.get(factor) == value]


def _filters(cells: list[Cell]) -> dict[str, list[Any]]:
    """The values of every factor among these runs, but for those within a group; at the paper's scale."""
    found: dict[str, dict] = {}
    for cell in cells:
        for factor, value in cell.options.items():
            if "." not in factor:
                found.setdefault(config_key(factor), {})[yaml.safe_load(value)] = None
    return {"scale": [PAPER], **{key: list(values) for key, values in found.items()}}
