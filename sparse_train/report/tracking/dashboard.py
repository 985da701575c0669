"""What the W&B workspace and reports show, as plain values made from the sweep files; `wandb_views` builds them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.colors import to_hex, to_rgb

from sparse_train.report import paper, sweeps
from sparse_train.report.figures import style
from sparse_train.report.page.views import PROTOCOL
from sparse_train.report.results import Results, complete
from sparse_train.report.sweeps import PAPER, Cell, Sweep, is_group
from sparse_train.report.views.labels import label, methods_of, name
from sparse_train.report.views.tables import aligned, mean_std
from sparse_train.tracking.wandb_run import BEST, LINK, metric, option_key

NAME = "sparse_train"
METHOD = (option_key("dst"), option_key("optimizer"))
FULL_SCALE = {"scale": [PAPER], option_key("dataset"): sorted(PROTOCOL)}  # digits run at no smaller scale
ABOUT_PAPER = "Numbers of [SparseOpt: Addressing Normalization-induced Gradient Skew in Sparse Training]({}):\n\n{}"
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
        runs: the ids of the runs that are shown; empty: all that pass `FULL_SCALE`.
        colours: values of the `series` -> the method's colour in the figures, paler for shorter training.
    """

    kind: str
    title: str
    x: str | None
    y: str
    series: tuple[str, ...]
    runs: tuple[str, ...] = ()
    colours: dict[tuple[str, ...], str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Report:
    """One table of the paper with the figures that are drawn from its runs: headings with text and panels.

    Attributes:
        numbers: the paper's own, as Markdown.
    """

    name: str
    title: str
    numbers: str
    parts: list[tuple[str, str, list[Panel]]]


def workspace() -> list[tuple[str, list[Panel]]]:
    """Sections of the workspace: everything that a training run measures, over epochs, and the best accuracies."""
    series = (*METHOD, "sparsity", "epochs")
    sections = [
        (title, [Panel("line", name(key), "epoch", metric(key), series) for key in keys])
        for title, keys in WORKSPACE.items()
    ]
    return [*sections, ("Best", [Panel("bar", "Best test accuracy (%)", None, f"{BEST}test_acc", series)])]


def baseline(results_dir: Path) -> str | None:
    """The id of the run that others are compared with: the first of Table 2's baseline that is complete."""
    done = complete(Results(results_dir).runs(sweeps.load("table2")))
    return next(iter(done.loc[done["optimizer"] == "sgd", "id"]), None)


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
    parts = [(table.artifact["title"], _about(table), _bars(table))]
    parts += [(one.artifact["title"], _about(one), _panels(one)) for one in figures]
    return Report(table.name, table.artifact["title"], _numbers(table), parts)


def _numbers(table: Sweep) -> str:
    """The paper's means and standard deviations: a row for each method and sparsity, a column for each length."""
    known = paper.table(table.artifact["paper"])
    keys = [key for key in ("sparsity", "dst", "optimizer") if known[key].nunique() > 1]
    lengths, named = list(dict.fromkeys(known["epochs"])), methods_of(table)
    lines = [[*map(name, keys), *(f"{epochs} epochs" for epochs in lengths)]]
    for values, rows in known.groupby(keys, sort=False):
        words = {row.epochs: mean_std(row.mean, row.std) for row in rows.itertuples(index=False)}
        head = [label(key, value, named) for key, value in zip(keys, values, strict=True)]
        lines.append([*head, *(words.get(epochs, "") for epochs in lengths)])
    return ABOUT_PAPER.format(LINK, aligned(lines))


def _about(sweep: Sweep) -> str:
    return f"{sweep.artifact.get('about', '')}\n\n`{sweeps.command(sweep.name, PAPER)}`"


def _bars(table: Sweep) -> list[Panel]:
    """A panel for every value of the first row, as the table is read; the other rows and the columns are bars."""
    shown = table.artifact["table"]
    first, *others = [*shown["rows"], *([shown["columns"]] if shown.get("columns") else [])]
    series = tuple(config_key(factor) for factor in others)
    return [
        _panel("bar", _title(first, value), None, metric(shown["value"]), series, cells)
        for value, cells in _split(table.cells, first)
    ]


# a figure's kind: kind of its panels, what runs along x, the factor with a panel for each value, the series
PANELS = {
    "curves": ("line", "epoch", "sparsity", (*METHOD, "epochs")),
    "final": ("scatter", "epochs", "sparsity", METHOD),
    "itop": ("scatter", "sparsity", "epochs", METHOD),
}


def _panels(figure: Sweep) -> list[Panel]:
    shown = figure.artifact["figure"]
    kind, x, factor, series = PANELS[shown["kind"]]
    return [
        _panel(kind, _title(factor, value), x, metric(shown["value"]), series, cells)
        for value, cells in _split(figure.cells, factor)
    ]


def _title(factor: str, value: str) -> str:
    return f"{value} epochs" if factor == "epochs" else f"{name(factor)} {label(factor, value)}"


def config_key(factor: str) -> str:
    """The key of W&B's config that holds a factor of a sweep: for a group, the option that was taken."""
    return option_key(factor) if is_group(factor) else factor


def _split(cells: list[Cell], factor: str) -> Iterable[tuple[str, list[Cell]]]:
    for value in dict.fromkeys(cell.factors[factor] for cell in cells if factor in cell.factors):
        yield value, [cell for cell in cells if cell.factors.get(factor) == value]


def _panel(kind: str, title: str, x: str | None, y: str, series: tuple[str, ...], cells: list[Cell]) -> Panel:
    """A panel of exactly these runs, in the colours of their methods."""
    return Panel(kind, title, x, y, series, tuple(cell.id for cell in cells), _colours(cells, series))


def _colours(cells: list[Cell], series: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Each series' values -> its method's colour; half as strong for the shortest training, where lengths differ."""
    if option_key("optimizer") not in series:
        return {}
    lengths = sorted({cell.epochs for cell in cells}) if "epochs" in series else []
    found = {}
    for cell in cells:
        values = {config_key(factor): value for factor, value in cell.factors.items()}
        strength = 0.5 + 0.5 * lengths.index(cell.epochs) / (len(lengths) - 1) if len(lengths) > 1 else 1.0
        colour = to_rgb(style.look(cell.factors["optimizer"])["color"])
        found[tuple(values.get(key, "") for key in series)] = to_hex([1 - strength * (1 - part) for part in colour])
    return found
