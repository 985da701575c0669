"""The W&B workspace and reports: what they are made of, and that wandb-workspaces takes them; no network."""

import base64
import json

import pytest

from sparse_train.report import sweeps
from sparse_train.report.__main__ import main
from sparse_train.report.figures import style
from sparse_train.report.tracking import dashboard
from sparse_train.tracking.wandb_run import metric
from support.records import leave_records

pytestmark = [
    pytest.mark.usefixtures("wandb_home"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # wandb-workspaces' own
]
REPORTS = {members[0].name: members for members in dashboard.reports()}


def spec(made) -> dict:
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def test_every_table_that_is_trained_for_has_a_report_with_its_figures():
    assert list(REPORTS) == [name for name in sweeps.names() if name.startswith("table") and sweeps.load(name).cells]
    shown = [sweep.name for members in REPORTS.values() for sweep in members]
    assert len(shown) == len(set(shown))
    for name in sweeps.names():
        kind = (sweeps.artifact(name).get("figure") or {}).get("kind")
        if name.startswith("fig") and kind in dashboard.PANELS:
            assert name in shown
    assert [sweep.name for sweep in REPORTS["table7"]] == ["table7", "fig22"]


def test_a_panel_shows_the_runs_of_its_part_of_the_grid():
    [_, figure, *_] = REPORTS["table1"]
    assert figure.name == "fig3"
    panels = dashboard.panels_of(figure)
    assert [panel.title for panel in panels] == ["Sparsity 90%", "Sparsity 95%", "Sparsity 97%"]
    panel = panels[1]
    assert (panel.kind, panel.x, panel.y) == ("line", "epoch", "train_acc")
    assert panel.series == ("dst_option", "optimizer_option", "epochs")
    expected = {cell.id for cell in sweeps.load("fig3").cells if cell.factors["sparsity"] == "0.95"}
    assert set(panel.runs) == expected
    assert len(panel.runs) == len(expected) == 6


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_the_panels_of_a_part_show_all_its_runs_and_no_others(table):
    """Each once, however many artifacts and searches have runs of the same options."""
    for sweep in REPORTS[table]:
        shown = sorted(run for panel in dashboard.panels_of(sweep) for run in panel.runs)
        assert shown == sorted(cell.id for cell in sweep.cells), sweep.name


def test_methods_have_the_colours_of_the_figures():
    panel = dashboard.panels_of(REPORTS["table1"][1])[0]
    of = panel.colours
    assert of["rigl", "sparseopt", "270"] == style.BLUE.lower()
    assert of["rigl", "sgd", "270"] == style.ORANGE.lower()
    assert len(set(of.values())) == len(of) == 6, "shorter training is paler"


def test_a_report_has_the_papers_numbers_and_its_address(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "RESULTS", tmp_path)
    leave_records(tmp_path, "table8")
    [table, *_] = REPORTS["table8"]
    numbers = f"{dashboard.papers(table)}\n\n{dashboard.ours(table)}"
    assert "https://arxiv.org/abs/2605.27541" in numbers
    row = next(
        line for line in numbers.splitlines() if line.startswith("| 97%") and "Baseline " in line and "HAM" not in line
    )
    assert "41.01" in row
    assert "paired over n seeds" in numbers
    assert "D alone" in numbers


def test_the_baseline_is_a_complete_run_of_table_2(tmp_path):
    assert dashboard.baseline(tmp_path) is None
    cells = sweeps.load("table2").cells
    chosen = next(cell for cell in cells if cell.factors["optimizer"] == "sgd" and cell.factors["seed"] == "1")
    method = next(cell for cell in cells if cell.factors["optimizer"] == "sparseopt")
    leave_records(tmp_path, "table2", accuracy=lambda cell: 50.0 if cell in (chosen, method) else None)
    assert dashboard.baseline(tmp_path) == chosen.id


def test_the_workspace_is_built_without_network(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(sweeps, "RESULTS", tmp_path)
    leave_records(tmp_path, "table2")
    made = dashboard.workspace("project", "me")
    section = spec(made)["section"]
    [runs] = section["runSets"]
    assert [key["name"] for key in runs["grouping"]] == [
        "dst_option.value",
        "optimizer_option.value",
        "sparsity.value",
        "epochs.value",
    ]
    filters = {one["key"]["name"]: one["value"] for one in runs["filters"]["filters"]}
    assert filters == dashboard.FULL_SCALE
    assert dashboard.baseline(sweeps.RESULTS) in base64.b64decode(runs["baselineRunId"]).decode()
    assert runs["pinnedRunIds"] == [runs["baselineRunId"]]
    *drawn, [paired] = (one["panels"] for one in section["panelBankConfig"]["sections"] if one["panels"])
    assert "SparseOpt minus Baseline" in paired["config"]["value"]
    drawn = [panel for panels in drawn for panel in panels]
    assert {metric for panel in drawn for metric in panel["config"]["metrics"]} == {
        *(metric(key) for keys in dashboard.WORKSPACE.values() for key in keys),
        "best/test_acc",
    }
    shown = [panel for _, panels in dashboard.sections() for panel in panels]
    assert all(panel.runs == () and panel.series == shown[0].series for panel in shown)


def test_reports_are_built_and_saved_once(server, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["report", "dashboard"])
    some = list(REPORTS.values())[:2]
    for defined in (some, some[:1]):
        monkeypatch.setattr(dashboard, "reports", lambda defined=defined: defined)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        assert capsys.readouterr().out.endswith(f"me/sparse_train: a workspace and {len(defined)} reports\n")
        assert len(server.views) == 1 + len(some), "replaced when saved again"
    saved = {view["displayName"]: json.loads(view["spec"]) for view in server.views.values()}
    for members in some:
        blocks = saved[members[0].artifact["title"]]["blocks"]
        grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
        panels = [panel for sweep in members for panel in dashboard.panels_of(sweep)]
        assert len(grids) == len(panels)
        for grid, panel in zip(grids, panels, strict=True):
            [chosen] = grid["runSets"][0]["filters"]["filters"]
            assert chosen["key"] == {"section": "run", "name": "name"}, "of W&B's keys the one of the id"
            assert (chosen["op"], chosen["value"]) == ("IN", list(panel.runs))
            assert list(grid["customRunColors"].values()) == list(panel.colours.values())
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
