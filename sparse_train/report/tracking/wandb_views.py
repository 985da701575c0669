"""The workspace and the reports of `dashboard`, built with wandb-workspaces and saved to a W&B project."""

from typing import Any

from sparse_train.errors import ConfigError
from sparse_train.report import sweeps
from sparse_train.report.tracking import dashboard
from sparse_train.report.tracking.dashboard import Panel, Report
from sparse_train.tracking import wandb_run

VIEW = "nw-sparsetrain-v"  # of the workspace, so that it is replaced when saved again


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
        made = [report(defined, project, entity) for defined in dashboard.reports()]
        for one in made:
            one.id = known.get(one.title, "")
            one.save()
    except Exception as error:  # whatever wandb raises
        raise ConfigError("wandb", project, wandb_run.words(error)) from error
    return f"{entity}/{project}: a workspace and {len(made)} reports"


def workspace(project: str, entity: str) -> Any:
    """Panels over epochs, runs grouped by method, sparsity and length; what else is logged comes after them."""
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws

    sections = dashboard.workspace()
    shown = sections[0][1][0]  # the panels of a workspace show the same runs
    made = ws.Workspace(
        name=dashboard.NAME,
        entity=entity,
        project=project,
        sections=[
            ws.Section(name=title, panels=[panel(one) for one in panels], is_open=True) for title, panels in sections
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch"),
        runset_settings=ws.RunsetSettings(
            filters=_filters(shown),
            baseline_run=dashboard.baseline(sweeps.RESULTS),
            groupby=[expr.Config(key) for key in shown.series],
        ),
        auto_generate_panels=True,
    )
    made._internal_name = VIEW
    return made


def report(defined: Report, project: str, entity: str) -> Any:
    """The paper's numbers, headings, the head of each sweep file, and a grid for every panel, since it chooses runs."""
    from wandb_workspaces.reports import v2 as wr

    blocks = [wr.TableOfContents(), wr.MarkdownBlock(text=defined.numbers)]
    for title, text, panels in defined.parts:
        blocks += [wr.H1(title), wr.CodeBlock(text, language="yaml")]
        blocks += [grid(one, project, entity) for one in panels]
    return wr.Report(project=project, entity=entity, title=defined.title, blocks=blocks, width="fluid")


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
    runs = runset(shown, project, entity)
    return wr.PanelGrid(panels=[panel(shown)], runsets=[runs], custom_run_colors=colours)


def runset(shown: Panel, project: str, entity: str) -> Any:
    """The runs of one panel, grouped."""
    from wandb_workspaces.reports import v2 as wr

    return wr.Runset(
        project=project,
        entity=entity,
        name=shown.title,
        filters=_filters(shown),
        groupby=[f"config.{key}" for key in shown.series],
    )


def _filters(shown: Panel) -> Any:
    from wandb_workspaces import expr

    if shown.runs:
        return expr.And(expr.Metric("ID").isin(list(shown.runs)))
    return expr.And(*(expr.Config(key).isin(values) for key, values in dashboard.FULL_SCALE.items()))


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
