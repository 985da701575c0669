import json

import pandas as pd
import pytest

from sparse_train.errors import ConfigError
from sparse_train.files import write_json, write_json_lines
from sparse_train.report import collect, sweeps, tables
from sparse_train.report.__main__ import draw


@pytest.fixture(scope="module")
def quickstart():
    return sweeps.load("quickstart")


def leave_record(runs_dir, cell, accuracy, status="complete"):
    """What a run of that cell would have left, with made-up accuracies rising to `accuracy`."""
    metrics = {"test_loss": 1.0, "train_acc": 99.0, "train_loss": 0.1, "itop_rate": 0.2, "realised_sparsity": 0.9}
    rows = [{"epoch": e, "test_acc": accuracy - 10 * (3 - e), **metrics} for e in (1, 2, 3)]
    content = {
        "id": cell.id,
        "status": status,
        "config": {"scale": "paper"},
        "final": rows[-1],
        "best": rows[-1],
        "seconds": 1.0,
        "threads": 1,
        "hardware": {"device": "cpu"},
        "git": None,
    }
    write_json(runs_dir / cell.id / "record.json", content)
    write_json_lines(runs_dir / cell.id / "history.jsonl", rows)


def test_a_sweep_expands_to_the_runs_that_hydra_would_launch(quickstart):
    assert len(quickstart.cells) == 24
    assert len({cell.id for cell in quickstart.cells}) == 24
    assert quickstart.cells[0].factors == {"dst": "rigl", "optimizer": "sgd", "sparsity": "0.9", "seed": "0"}
    fewer = sweeps.load("quickstart", ("seed=0", "optimizer=sgd,ham"))
    assert len(fewer.cells) == 4
    assert {cell.id for cell in fewer.cells} < {cell.id for cell in quickstart.cells}


def test_a_cell_has_the_id_it_has_alone(quickstart, compose_config):
    from sparse_train.config import run_id

    alone = compose_config("model.width=0.5", "optimizer=ham", "sparsity=0.97", "seed=1")
    [cell] = [
        c for c in quickstart.cells if c.factors == {"dst": "rigl", "optimizer": "ham", "sparsity": "0.97", "seed": "1"}
    ]
    assert cell.id == run_id(alone)


def test_an_unknown_artifact_is_answered_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"artifact=table99: must be one of .*quickstart"):
        sweeps.load("table99")


def test_drawing_shows_means_spreads_and_holes(quickstart, tmp_path):
    accuracies = {"sgd": (50.0, 60.0, 70.0), "sparseopt": (80.0, 81.0, None), "ham": (90.0, None, None)}
    for cell in quickstart.cells:
        given = accuracies.get(cell.factors["optimizer"], (None,) * 3)[int(cell.factors["seed"])]
        if given is not None and cell.factors["sparsity"] == "0.9":
            leave_record(tmp_path / "runs", cell, given)
        elif cell.factors["optimizer"] == "ham":
            leave_record(tmp_path / "runs", cell, 1.0, status="failed")
    table = draw("quickstart", tmp_path / "runs", tmp_path / "results")
    assert "Baseline (SGD)   | 60.00 ± 10.00 (n=3)" in table
    assert "SparseOpt        | 80.50 ± 0.71 (n=2 of 3)" in table
    assert "Baseline w/ HAM  | 90.00 (n=1 of 3)" in table
    assert table.count(tables.HOLE) == 5
    csv = pd.read_csv(tmp_path / "results" / "records" / "quickstart.csv")
    assert len(csv) == 24
    assert csv.status.value_counts().to_dict() == {"missing": 13, "complete": 6, "failed": 5}
    assert sorted(csv.final_test_acc.dropna()) == [50.0, 60.0, 70.0, 80.0, 81.0, 90.0]
    for ending in ("png", "pdf", "md"):
        assert (tmp_path / "results" / f"quickstart.{ending}").stat().st_size > 100


def test_histories_have_a_row_per_epoch(quickstart, tmp_path):
    leave_record(tmp_path, quickstart.cells[0], 70.0)
    rows = collect.histories(quickstart, tmp_path)
    assert rows.test_acc.tolist() == [50.0, 60.0, 70.0]
    assert rows.sparsity.tolist() == ["0.9"] * 3, "the factor, not what was realised"


def test_a_record_that_cannot_be_read_is_a_hole(quickstart, tmp_path):
    path = tmp_path / quickstart.cells[0].id / "record.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"status": "complete"})[:-3])
    assert set(collect.runs(quickstart, tmp_path).status) == {"missing"}


def test_nothing_trained_draws_a_table_of_holes(tmp_path):
    table = draw("quickstart", tmp_path / "runs", tmp_path / "results")
    assert table.count(tables.HOLE) == 8
