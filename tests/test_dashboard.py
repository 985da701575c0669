"""The W&B workspace and reports: what they are made of, and that wandb-workspaces takes them; no network."""

import json

import pytest

from sparse_train.report import sweeps
from sparse_train.report.__main__ import main
from sparse_train.report.tracking import dashboard, wandb_views
from sparse_train.tracking.wandb_run import metric

pytestmark = [
    pytest.mark.usefixtures("wandb_home"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # wandb-workspaces' own
]
REPORTS = {report.name: report for report in dashboard.reports()}


def spec(made) -> dict:
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def test_every_table_that_is_trained_for_has_a_report_with_its_figures():
    assert list(REPORTS) == [name for name in sweeps.names() if name.startswith("table") and sweeps.load(name).cells]
    shown = [title for report in REPORTS.values() for title, _, _ in report.parts]
    assert len(shown) == len(set(shown))
    for name in sweeps.names():
        kind = (sweeps.artifact(name).get("figure") or {}).get("kind")
        if name.startswith("fig") and kind in dashboard.PANELS:
            assert sweeps.artifact(name)["title"] in shown
    assert [title.split(".")[0] for title, _, _ in REPORTS["table7"].parts] == ["Table 7", "Figure 22"]


def test_a_panel_shows_the_runs_of_its_part_of_the_grid():
    [_, figure, *_] = REPORTS["table1"].parts
    assert figure[0].startswith("Figure 3. Train accuracy")
    assert [panel.title for panel in figure[2]] == ["Sparsity 90%", "Sparsity 95%", "Sparsity 97%"]
    panel = figure[2][1]
    assert (panel.kind, panel.x, panel.y) == ("line", "epoch", "train_acc")
    assert panel.series == ("dst_option", "optimizer_option", "epochs")
    expected = {"dataset_option": ["imagenet"], "model_option": ["resnet50"], "dst_option": ["rigl"]}
    expected |= {"sparsity": [0.95], "optimizer_option": ["sparseopt", "sgd"], "epochs": [90, 180, 270], "seed": [0]}
    assert panel.filters == {"scale": ["paper"], **expected}


@pytest.mark.parametrize("table", REPORTS)
def test_the_panels_of_a_part_show_all_its_runs_and_no_others(table):
    """A run is shown by the panels whose filters it passes; every artifact's cells are those of its panels."""
    names = {sweeps.artifact(name)["title"]: name for name in sweeps.names()}
    for title, _, panels in REPORTS[table].parts:
        cells = sweeps.load(names[title]).cells
        for cell in cells:
            taken = {dashboard.config_key(key): value for key, value in cell.options.items()}
            shows = [
                all(str(taken.get(key, "paper")) in map(str, values) for key, values in panel.filters.items())
                for panel in panels
            ]
            assert shows.count(True) == 1, (title, cell.factors)


def test_the_workspace_is_built_without_network(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    made = wandb_views.workspace("project", "me")
    section = spec(made)["section"]
    [runs] = section["runSets"]
    assert [key["name"] for key in runs["grouping"]] == [
        "dst_option.value",
        "optimizer_option.value",
        "sparsity.value",
        "epochs.value",
    ]
    [scale] = runs["filters"]["filters"]
    assert (scale["key"], scale["value"]) == ({"section": "config", "name": "scale"}, ["paper"])
    drawn = [panel for one in section["panelBankConfig"]["sections"] for panel in one["panels"]]
    assert {metric for panel in drawn for metric in panel["config"]["metrics"]} == {
        *(metric(key) for keys in dashboard.WORKSPACE.values() for key in keys),
        "best/test_acc",
    }
    shown = [panel for _, panels in dashboard.workspace() for panel in panels]
    assert all(panel.filters == shown[0].filters and panel.series == shown[0].series for panel in shown)


def test_reports_are_built_and_saved_once(server, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["report", "dashboard"])
    few = list(REPORTS.values())[:2]
    for defined in (list(REPORTS.values()), few):
        monkeypatch.setattr(dashboard, "reports", lambda defined=defined: defined)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        assert capsys.readouterr().out.endswith(f"me/sparse_train: a workspace and {len(defined)} reports\n")
        assert len(server.views) == 1 + len(REPORTS), "replaced when saved again"
    saved = {view["displayName"]: json.loads(view["spec"]) for view in server.views.values()}
    for report in REPORTS.values():
        grids = [block["metadata"] for block in saved[report.title]["blocks"] if block["type"] == "panel-grid"]
        panels = [panel for _, _, panels in report.parts for panel in panels]
        assert len(grids) == len(panels)
        for grid, panel in zip(grids, panels, strict=True):
            filters = {one["key"]["name"]: one["value"] for one in grid["runSets"][0]["filters"]["filters"]}
            assert filters == panel.filters
            assert [key["name"] for key in grid["runSets"][0]["grouping"]] == [f"{key}.value" for key in panel.series]
            [drawn] = grid["panelBankSectionConfig"]["panels"]
            assert panel.y in json.dumps(drawn["config"])


def test_without_a_key_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["report", "dashboard"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert (
        capsys.readouterr().err == "error: wandb=sparse_train: RuntimeError: no API key; `wandb login` asks for one\n"
    )
