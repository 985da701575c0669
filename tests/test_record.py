import json
import os

import pytest
import torch

from sparse_train import checkpoint, files
from sparse_train.errors import ConfigError
from sparse_train.files import write_json, write_json_lines, write_whole
from sparse_train.record import Record


def row(epoch, accuracy, **more):
    return {"epoch": epoch, "test_acc": accuracy, "seconds": 2.0, **more}


def test_the_life_of_a_record(tmp_path):
    record = Record(str(tmp_path), "abc")
    assert record.status is None
    assert not record.dir.exists(), "looking writes nothing"
    record.start([], config={"seed": 1})
    assert Record(str(tmp_path), "abc").status == "running"
    record.append(row(1, 70.0))
    record.append(row(2, 60.0))
    assert not Record(str(tmp_path), "abc").finished
    record.finish("complete", peak_memory_mib=3.0)
    read = Record(str(tmp_path), "abc")
    assert read.finished
    assert read.content["final"]["test_acc"] == 60.0
    assert read.content["best"]["epoch"] == 1
    assert read.content["seconds"] == 4.0
    assert read.content["config"] == {"seed": 1}
    assert len((record.dir / "history.jsonl").read_text().splitlines()) == 2


def test_going_on_keeps_the_beginning(tmp_path):
    record = Record(str(tmp_path), "abc")
    record.start([])
    record.content["started"] = "long ago"
    record.append(row(1, 10.0))
    again = Record(str(tmp_path), "abc")
    again.start([row(1, 10.0)])
    again.append(row(2, 20.0))
    assert again.content["started"] == "long ago"
    lines = (again.dir / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


@pytest.mark.parametrize("content", ["", "{", "[]", '"complete"', '{"id": "other", "status": "complete"}'])
def test_a_record_that_cannot_be_trusted_is_none(tmp_path, content):
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / "record.json").write_text(content)
    assert Record(str(tmp_path), "abc").status is None


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_whole(path, b"first")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["file"], "no temporary file is left"


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"loss": float("nan"), "rows": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "rows": [None, 1.5]}
    write_json_lines(tmp_path / "b.jsonl", [{"x": float("-inf")}])
    assert (tmp_path / "b.jsonl").read_text() == '{"x": null}\n'


def test_checkpoints_hold_tensors_and_plain_values_only(tmp_path):
    path = tmp_path / "checkpoint.pt"
    assert checkpoint.load(path, torch.device("cpu")) is None
    checkpoint.save(path, {"id": "abc", "weights": torch.ones(2)})
    state = checkpoint.load(path, torch.device("cpu"))
    assert state["id"] == "abc"
    assert torch.equal(state["weights"], torch.ones(2))
    torch.save({"format": 99}, path)
    with pytest.raises(ConfigError, match="not a checkpoint of format 1; start over with resume=fresh"):
        checkpoint.load(path, torch.device("cpu"))

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"format": 1, "evil": Evil()}, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        checkpoint.load(path, torch.device("cpu"))
    assert not (tmp_path / "owned").exists()
