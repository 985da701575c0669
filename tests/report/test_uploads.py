"""Uploading to W&B after the fact, against a server on loopback: once, whatever has been there before."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from sparse_train.errors import ConfigError
from sparse_train.record.record import Record
from sparse_train.report import sweeps
from sparse_train.report.tracking import uploads
from sparse_train.tracking import wandb_run
from sparse_train.tracking.sinks import Wandb
from support.records import leave_records
from support.runs import rows
from support.wandb_server import Server, end_service

pytestmark = pytest.mark.usefixtures("wandb_home")
FACTS = {"name": "digits 0.9 seed 3", "config": {"sparsity": 0.9, "seed": 3, "scale": "paper"}}
LOGGER = {"project": "sparse_train", "entity": None, "group": None, "tags": []}


MACHINE = {"threads": 1, "hardware": {"device": "cpu", "cpu": "one"}, "versions": {"torch": "2"}, "git": None}


def leave_run(runs_dir: Path, name: str, epochs: int = 4, mode: str = "offline", broken: bool = False) -> Record:
    """A run as the loop leaves it; its rows are numbered by their epoch."""
    record = Record(str(runs_dir), name)
    sink = Wandb(record, FACTS, mode=mode)
    before = rows(record.dir) if (record.dir / "history.jsonl").exists() else []
    record.start(before, **FACTS | MACHINE | {"config": FACTS["config"] | {"logger": LOGGER}})
    for row in record.history:
        sink.log(row)
    for epoch in range(len(record.history) + 1, epochs + 1):
        record.append({"epoch": epoch, "test_acc": 10.0 * epoch, "seconds": 1.0, "images_per_second": 100.0})
        sink.log(record.history[-1])
    if not broken:
        record.finish("complete")
        sink.finish(record)
    end_service()
    return record


def steps(server: Server, name: str) -> list[tuple]:
    return [(row["_step"], row["epoch"], row["test_acc"]) for row in server.rows(name)]


def once(epochs: int) -> list[tuple]:
    return [(epoch, epoch, 10.0 * epoch) for epoch in range(1, epochs + 1)]


def test_offline_runs_are_uploaded_once(tmp_path, server):
    leave_run(tmp_path / "runs", "a")
    leave_run(tmp_path / "runs" / "cpu", "b")
    leave_run(tmp_path / "runs", "c", epochs=2, broken=True)
    assert uploads.sync(tmp_path / "runs") == (
        f"{tmp_path / 'runs'}: 2 runs uploaded; 1 runs are not whole: they are training or broke off",
        True,
    )
    assert steps(server, "a") == steps(server, "b") == once(4)
    said, fine = uploads.sync(tmp_path / "runs")
    assert fine
    assert "nothing to upload" in said
    assert sorted(server.uploads) == ["a", "b"], "not again"


def test_files_in_wandbs_own_directory_are_found(tmp_path, server, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    for name in ("a", "b"):
        leave_run(tmp_path / "runs", name)
    assert uploads.sync(tmp_path / "runs") == (f"{tmp_path / 'runs'}: 2 runs uploaded", True)
    assert [steps(server, name) for name in ("a", "b")] == [once(4)] * 2
    assert "nothing to upload" in uploads.sync(tmp_path / "runs")[0]


def test_of_several_processes_offline_the_last_one_has_all(tmp_path, server):
    leave_run(tmp_path, "a", epochs=2, broken=True)
    leave_run(tmp_path, "a", epochs=5)
    assert uploads.sync(tmp_path)[1]
    assert steps(server, "a") == once(5)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_run_that_went_on_without_wandb_is_sent_whole(tmp_path, server, mode):
    """Its files hold its first epochs alone, though the process that wrote them ended well."""
    record = Record(str(tmp_path), "a")
    sink = Wandb(record, FACTS, mode=mode)
    record.start([], **FACTS | MACHINE | {"config": FACTS["config"] | {"logger": None}})
    for epoch in range(1, 5):
        record.append({"epoch": epoch, "test_acc": 10.0 * epoch, "seconds": 1.0, "images_per_second": 100.0})
        if epoch <= 2:
            sink.log(record.history[-1])
        if epoch == 2:
            sink.finish(record)
    record.finish("complete")
    end_service()
    assert not wandb_run.sent(record.dir, "a", mode)
    assert uploads.sync(tmp_path)[1]
    assert steps(server, "a") == once(4)
    assert "nothing to upload" in uploads.sync(tmp_path)[0]
    assert wandb_run.sent(record.dir, "a", mode)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # wandb's, as its run breaks off
def test_a_run_that_was_online_first_gets_what_is_missing(tmp_path, server):
    """`wandb sync` would add all five rows to the two that are there, with steps 3 to 7."""
    leave_run(tmp_path, "a", epochs=2, mode="online", broken=True)
    assert steps(server, "a") == once(2)
    leave_run(tmp_path, "a", epochs=5)
    said, fine = uploads.sync(tmp_path)
    assert fine
    assert "1 runs uploaded" in said
    assert steps(server, "a") == once(5)
    assert "nothing to upload" in uploads.sync(tmp_path)[0]


def test_what_was_sent_while_training_is_left_alone(tmp_path, server):
    leave_run(tmp_path, "a", mode="online")
    assert steps(server, "a") == once(4)
    assert "nothing to upload" in uploads.sync(tmp_path)[0]
    assert server.uploads == ["a"]


def test_rows_that_the_server_refuses_in_the_middle_are_said_and_sent_later(tmp_path, server, capfd):
    """wandb itself says nothing, and its run ends as if all had been sent."""
    record = Record(str(tmp_path), "a")
    sink = Wandb(record, FACTS)
    record.start([], **FACTS | MACHINE | {"config": FACTS["config"] | {"logger": LOGGER}})
    server.status = 403
    for epoch in (1, 2, 3, 4):
        record.append({"epoch": epoch, "test_acc": 10.0 * epoch, "seconds": 1.0, "images_per_second": 100.0})
        sink.log(record.history[-1])
    record.finish("complete")
    sink.finish(record)
    end_service()
    said = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1
    assert re.fullmatch(
        "warning: W&B: RuntimeError: filestream: .* 403 .*; continuing without it; `make wandb-sync` .*", said[0]
    )
    server.status = 200
    assert uploads.sync(tmp_path) == (f"{tmp_path}: 1 runs uploaded", True)
    assert steps(server, "a") == once(4)
    assert "nothing to upload" in uploads.sync(tmp_path)[0]


def test_a_refused_upload_is_said_and_can_be_repeated(tmp_path, server):
    leave_run(tmp_path, "a")
    server.status = 401
    said, fine = uploads.sync(tmp_path)
    assert not fine
    assert "1 runs could not be uploaded" in said
    server.status = 200
    assert uploads.sync(tmp_path) == (f"{tmp_path}: 1 runs uploaded", True)
    assert steps(server, "a") == once(4)


# --- committed records ---


def backfill(results: Path, *names: str) -> list[str]:
    lines = list(uploads.backfill(names, results, "sparse_train", None))
    end_service()
    return lines


def test_committed_records_become_runs_once(tmp_path, server):
    frame = leave_records(
        tmp_path, "quickstart", accuracy=lambda cell: 80.0 if cell.factors["seed"] == "0" else None, best_test_acc=81.0
    )
    leave_records(tmp_path, "fig6")
    expected = set(frame.loc[frame["status"] == "complete", "id"])
    lines = backfill(tmp_path, "quickstart", "fig6", "table4")
    assert len(lines) == len(expected) == 8, "what trains; Figure 6 is a measurement"
    assert set(server.runs) == expected
    for name in expected:
        rows = server.rows(name)
        assert [row["_step"] for row in rows] == [row["epoch"] for row in rows] == list(range(1, 51))
        assert rows[-1]["test_acc"] == 80
        assert rows[-1]["itop_percent"] == 25, "as people read it"
        assert server.meta[name]["groupName"] == "quickstart"
    named = {server.meta[name]["displayName"] for name in expected}
    assert "digits resnet20 rigl sparseopt 0.9 seed 0, 50 epochs" in named
    before = json.dumps(server.runs)
    shutil.rmtree(tmp_path / ".wandb")
    again = backfill(tmp_path, "quickstart")
    assert all(line.endswith(": 0 rows sent") for line in again)
    assert json.dumps(server.runs) == before


def test_a_scale_has_a_group_of_its_own_and_the_first_artifact_names_the_run(tmp_path, server):
    first = sweeps.load("curves-cifar100-rigl-test", "cpu").cells[0]
    for name in ("table2", "curves-cifar100-rigl-test"):
        leave_records(tmp_path, name, "cpu", accuracy=lambda cell: 60.0 if cell.id == first.id else None)
    [line] = backfill(tmp_path, "table2", "curves-cifar100-rigl-test")
    assert first.id in line
    assert server.meta[first.id]["groupName"] == "table2 cpu"
    assert len(server.rows(first.id)) == first.epochs, "the epochs that the curves commit"


@pytest.mark.parametrize(
    ("environment", "said"),
    [({}, "no API key; `wandb login` asks for one"), ({"WANDB_MODE": "offline"}, "WANDB_MODE=offline: .*unset it")],
    ids=["no key", "offline"],
)
def test_a_key_is_looked_for_before_any_record_is(environment, said, tmp_path, monkeypatch):
    """Composing all committed runs takes half a minute."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(uploads, "scales_of", lambda *_: pytest.fail("records are read"))
    with pytest.raises(ConfigError, match=said):
        backfill(tmp_path, "quickstart")


@pytest.mark.parametrize("rows", [0, 3])
def test_the_last_epoch_has_all_metrics(rows):
    history = pd.DataFrame({"epoch": range(1, rows + 1), "test_acc": 1.0, "id": "a"})
    made = uploads.history_rows(history, {"epoch": 3, "test_acc": 2.0, "test_loss": 0.5})
    assert made[-1] == {"epoch": 3, "test_acc": 2.0, "test_loss": 0.5}
    assert len(made) == max(rows, 1)
