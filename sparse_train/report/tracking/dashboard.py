"""The W&B workspace and reports: plain values made from the sweep files, then built with wandb-workspaces and saved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from sparse_train.errors import ConfigError
from sparse_train.report import paper, sweeps
from sparse_train.report.figures import style
from sparse_train.report.page.content import PROTOCOL
from sparse_train.report.results import Results, complete
from sparse_train.report.sweeps import PAPER, Cell, Sweep, is_group
from sparse_train.report.views import tables
from sparse_train.report.views.columns import mean_std
from sparse_train.report.views.labels import label, methods_of, name
from sparse_train.report.views.tables import aligned
from sparse_train.tracking import wandb_run
from sparse_train.tracking.wandb_run import BEST, LINK, metric, option_key

NAME = "sparse_train"
VIEW = "nw-sparsetrain-v"  # of the workspace, so that it is replaced when saved again
METHOD = (option_key("dst"), option_key("optimizer"))
FULL_SCALE = {"scale": [PAPER], option_key("dataset"): sorted(PROTOCOL)}  # digits run at no smaller scale
ABOUT_PAPER = "Numbers of [SparseOpt: Addressing Normalization-induced Gradient Skew in Sparse Training]({}):\n\n{}"
PER_PART = ("dead_neurons", "fan_in_spread", "c_spread")
PARTS = ("layer1", "layer3", "classifier")  # of the parameters
PAIRED = "Paired differences"
WORKSPACE = {
    "Accuracy": ("test_acc", "train_acc"),
    "Loss": ("test_loss", "train_loss"),
    "Sparsity": ("realised_sparsity", "itop_rate"),
    "Optimization": ("lr", "grad_norm", "clipped_share"),
    "Masks": ("masks/replaced", *(f"{key}/{part}" for key in PER_PART for part in PARTS)),
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


def sections() -> list[tuple[str, list[Panel]]]:
    """Sections of the workspace: everything that a training run measures, over epochs, and the best accuracies."""
    series = (*METHOD, "sparsity", "epochs")
    made = [
        (title, [Panel("line", name(key), "epoch", metric(key), series) for key in keys])
        for title, keys in WORKSPACE.items()
    ]
    return [*made, ("Best", [Panel("bar", "Best test accuracy (%)", None, f"{BEST}test_acc", series)])]


def baseline(results_dir: Path) -> str | None:
    """The id of the run that others are compared with: the first of Table 2's baseline that is complete."""
    done = complete(Results(results_dir).runs(sweeps.load("table2")))
    return next(iter(done.loc[done["optimizer"] == "sgd", "id"]), None)


def reports() -> list[list[Sweep]]:
    """For every table of the paper that is trained for, its sweep, then those of the figures drawn from its runs."""
    loaded = [sweeps.load(name) for name in sweeps.names()]
    made = [[sweep] for sweep in loaded if sweep.name.startswith("table") and sweep.cells]
    ids = [{cell.id for cell in table.cells} for [table] in made]
    for sweep in loaded:
        if (sweep.artifact.get("figure") or {}).get("kind") in PANELS and not sweep.artifact.get("table"):
            shared = [len(known & {cell.id for cell in sweep.cells}) for known in ids]
            if any(shared):
                made[shared.index(max(shared))].append(sweep)
    return made


def papers(table: Sweep) -> str:
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


def ours(table: Sweep) -> str:
    """Our committed runs: means, and differences of methods paired over seeds, with their intervals."""
    made = tables.Table(table, Results(sweeps.RESULTS).runs(table))
    return f"{made.explained}\n\n{tables.markdown(made)}"


# a figure's kind: kind of its panels, what runs along x, the factor with a panel for each value, the series
PANELS = {
    "curves": ("line", "epoch", "sparsity", (*METHOD, "epochs")),
    "final": ("scatter", "epochs", "sparsity", METHOD),
    "itop": ("scatter", "sparsity", "epochs", METHOD),
}


def panels_of(sweep: Sweep) -> list[Panel]:
    """One for every value of a factor, with exactly its runs: a figure's as it is drawn, a table's by its first row.

    The other rows and the columns of a table are bars.
    """
    if shown := sweep.artifact.get("table"):
        factor, *others = [*shown["rows"], *([shown["columns"]] if shown.get("columns") else [])]
        kind, x, series = "bar", None, tuple(config_key(other) for other in others)
    else:
        shown = sweep.artifact["figure"]
        kind, x, factor, series = PANELS[shown["kind"]]
    made = []
    for value in dict.fromkeys(cell.factors[factor] for cell in sweep.cells if factor in cell.factors):
        title = f"{value} epochs" if factor == "epochs" else f"{name(factor)} {label(factor, value)}"
        cells = [cell for cell in sweep.cells if cell.factors.get(factor) == value]
        ids = tuple(cell.id for cell in cells)
        made.append(Panel(kind, title, x, metric(shown["value"]), series, ids, _colours(cells, series)))
    return made


def config_key(factor: str) -> str:
    """The key of W&B's config that holds a factor of a sweep: for a group, the option that was taken."""
    return option_key(factor) if is_group(factor) else factor


def _colours(cells: list[Cell], series: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Each series' values -> its method's colour; half as strong for the shortest training, where lengths differ."""
    if option_key("optimizer") not in series:
        return {}
    lengths = sorted({cell.epochs for cell in cells}) if "epochs" in series else []
    found = {}
    for cell in cells:
        values = {config_key(factor): value for factor, value in cell.factors.items()}
        strength = 0.5 + 0.5 * lengths.index(cell.epochs) / (len(lengths) - 1) if len(lengths) > 1 else 1.0
        colour = to_rgb(style.look(cell.factors["optimizer"]).colour)
        found[tuple(values.get(key, "") for key in series)] = to_hex([1 - strength * (1 - part) for part in colour])
    return found


# --- built and saved ---


def save(project: str, entity: str | None) -> str:
    """Create the workspace and the reports, or replace those of an earlier call; returns a line with what was saved.

    A report is known by its title: others of the project stay as they are. wandb prints the addresses.

    Raises:
        ConfigError: where W&B or wandb-workspaces cannot be had.
    """
    try:
        wandb_run.authenticate()
        import wandb

        api = wandb.Api()
        entity = entity or api.default_entity
        workspace(project, entity).save()
        known = {one.display_name: one.id for one in api.reports(f"{entity}/{project}")}
        made = [report(members, project, entity) for members in reports()]
        for one in made:
            one.id = known.get(one.title, "")
            one.save()
    except Exception as error:  # whatever wandb raises
        raise ConfigError("wandb", project, wandb_run.words(error)) from error
    return f"{entity}/{project}: a workspace and {len(made)} reports"


def workspace(project: str, entity: str) -> Any:
    """Panels over epochs, runs grouped by method, sparsity and length; what else is logged comes after them.

    W&B shows means alone; the differences of methods, paired over seeds, are Table 2's of the committed records.
    """
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    shown = sections()[0][1][0]  # the panels of a workspace show the same runs
    paired = wr.MarkdownPanel(markdown=ours(sweeps.load("table2")), layout=wr.Layout(w=24, h=10))
    made = ws.Workspace(
        name=NAME,
        entity=entity,
        project=project,
        sections=[
            *(
                ws.Section(name=title, panels=[panel(one) for one in panels], is_open=True)
                for title, panels in sections()
            ),
            ws.Section(name=PAIRED, panels=[paired], is_open=True),
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch"),
        runset_settings=ws.RunsetSettings(
            filters=_filters(shown),
            baseline_run=baseline(sweeps.RESULTS),
            groupby=[expr.Config(key) for key in shown.series],
        ),
        auto_generate_panels=True,
    )
    made._internal_name = VIEW
    return made


def report(members: list[Sweep], project: str, entity: str) -> Any:
    """A table's numbers, the paper's and ours; then, of it and its figures, what each is, and a grid for each panel."""
    from wandb_workspaces.reports import v2 as wr

    table = members[0]
    blocks = [wr.TableOfContents(), wr.MarkdownBlock(text=f"{papers(table)}\n\n{ours(table)}")]
    for sweep in members:
        about = f"{sweep.artifact.get('about', '')}\n\n`{sweeps.command(sweep.name, PAPER)}`"
        blocks += [wr.H1(sweep.artifact["title"]), wr.CodeBlock(about, language="yaml")]
        blocks += [grid(one, project, entity) for one in panels_of(sweep)]
    return wr.Report(project=project, entity=entity, title=table.artifact["title"], blocks=blocks, width="fluid")


def grid(shown: Panel, project: str, entity: str) -> Any:
    """One panel with its runs, in its colours."""
    from wandb_workspaces.reports import v2 as wr

    colours = {
        wr.RunsetGroup(
            runset_name=shown.title,
            keys=tuple(
                wr.RunsetGroupKey(wr.Config(key), value) for key, value in zip(shown.series, values, strict=True)
            ),
        ): colour
        for values, colour in shown.colours.items()
    }
    runs = wr.Runset(
        project=project,
        entity=entity,
        name=shown.title,
        filters=_filters(shown),
        groupby=[f"config.{key}" for key in shown.series],
    )
    return wr.PanelGrid(panels=[panel(shown)], runsets=[runs], custom_run_colors=colours)


def _filters(shown: Panel) -> Any:
    from wandb_workspaces import expr

    if shown.runs:
        return expr.And(expr.Metric("ID").isin(list(shown.runs)))
    return expr.And(*(expr.Config(key).isin(values) for key, values in FULL_SCALE.items()))


def panel(shown: Panel) -> Any:
    """One panel: means over the runs of a series, with one standard deviation."""
    from wandb_workspaces.reports import v2 as wr

    layout = wr.Layout(w=24, h=10)
    if shown.kind == "scatter":
        x, y = wr.Config(shown.x), wr.SummaryMetric(shown.y)
        return wr.ScatterPlot(title=shown.title, x=x, y=y, layout=layout)
    spread = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "layout": layout}
    if shown.kind == "bar":
        return wr.BarPlot(title=shown.title, metrics=[shown.y], **spread)
    return wr.LinePlot(title=shown.title, x=shown.x, y=[shown.y], **spread)
