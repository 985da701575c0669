import sys
import types

import pytest

from sparse_train.errors import ConfigError
from sparse_train.record import Record
from sparse_train.sinks import Wandb

FACTS = {
    "name": "digits resnet20 rigl sparseopt 0.9 seed 3",
    "config": {"sparsity": 0.9, "seed": 3},
}


class FakeRun:
    def __init__(self):
        self.rows, self.summary, self.finished = [], {}, False

    def log(self, row, step):
        self.rows.append((step, row))

    def finish(self, exit_code):
        self.finished, self.exit_code = True, exit_code


@pytest.fixture
def fake_wandb(monkeypatch):
    """A wandb that keeps what it is told; `broken` names the modes in which it fails."""
    module = types.SimpleNamespace(calls=[], broken=set(), run=FakeRun(), Settings=lambda **options: options)

    def init(**options):
        module.calls.append(options)
        if options["mode"] in module.broken:
            raise ConnectionError("no server\nmore lines")
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def record(tmp_path):
    record = Record(str(tmp_path), "abc123")
    record.start([])
    record.append({"epoch": 1, "test_acc": 50.0, "seconds": 1.0})
    return record


def test_rows_reach_wandb_under_the_runs_own_id(fake_wandb, record):
    sink = Wandb(record, FACTS, entity="us", group="table1", tags=["a"])
    sink.log(record.history[0])
    sink.finish(record)
    [options] = fake_wandb.calls
    assert options["id"] == "abc123"
    assert options["resume"] == "allow"
    assert options["name"] == "digits resnet20 rigl sparseopt 0.9 seed 3"
    assert options["config"] == FACTS["config"]
    assert fake_wandb.run.rows == [(1, record.history[0])]
    assert fake_wandb.run.summary["best/test_acc"] == 50.0
    assert fake_wandb.run.finished
    assert fake_wandb.run.exit_code == 1, "the record does not say complete"


def test_no_server_means_offline(fake_wandb, record, capsys):
    fake_wandb.broken = {"online"}
    sink = Wandb(record, FACTS)
    sink.log(record.history[0])
    assert [call["mode"] for call in fake_wandb.calls] == ["online", "offline"]
    assert len(fake_wandb.run.rows) == 1
    assert capsys.readouterr().err == "warning: W&B online: ConnectionError: no server\n"


def test_a_run_goes_on_without_wandb(fake_wandb, record, monkeypatch, capsys):
    fake_wandb.broken = {"online", "offline"}
    sink = Wandb(record, FACTS)
    sink.log(record.history[0])
    sink.finish(record)
    monkeypatch.setitem(sys.modules, "wandb", None)
    Wandb(record, FACTS, mode="offline").log(record.history[0])
    assert "W&B offline" in capsys.readouterr().err


def test_modes_are_checked(record):
    with pytest.raises(ConfigError, match="mode=on: must be one of online, offline, disabled"):
        Wandb(record, FACTS, mode="on")
