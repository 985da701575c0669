import json
import os
import re

import pytest
import torch

from sparse_train.errors import ConfigError
from sparse_train.record import files
from sparse_train.record.checkpoint import Checkpoints
from sparse_train.record.files import write_json, write_json_lines, write_whole
from sparse_train.record.record import Record


@pytest.fixture
def full_disk(monkeypatch):
    """From the call on, no write finds room."""

    def full(descriptor):
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr(files.os, "fsync", full)


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


def test_files_are_written_whole_or_not_at_all(tmp_path, full_disk):
    path = tmp_path / "deep" / "file"
    write_whole(path, b"first")

    full_disk()
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
    files = Checkpoints(tmp_path)
    assert files.load("cpu") is None
    files.save({"id": "abc", "weights": torch.ones(2)})
    state = files.load("cpu")
    assert state["id"] == "abc"
    assert torch.equal(state["weights"], torch.ones(2))
    assert files.newest.read_bytes().startswith(b"sparse_train checkpoint 3 ")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    files.save({"evil": Evil()})
    files.previous.unlink()
    with pytest.raises(ConfigError, match="cannot be read: Weights only load failed"):
        files.load("cpu")
    assert not (tmp_path / "owned").exists()


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(tmp_path, capsys):
    """Cut at every tenth of its length, and with a bit flipped anywhere."""
    files = Checkpoints(tmp_path)
    files.save({"step": 1, "weights": torch.arange(100)})
    files.save({"step": 2, "weights": torch.arange(100)})
    whole = files.newest.read_bytes()
    damages = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    for place in range(0, len(whole), len(whole) // 50):
        damages.append(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    for damaged in damages:
        files.newest.write_bytes(damaged)
        assert files.load("cpu")["step"] == 1
        assert re.search(r"warning: .*checkpoint.pt .*; falling back to the previous one", capsys.readouterr().err)
    files.previous.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"checkpoint.pt .*checkpoint.previous.pt .*start over with resume=fresh"):
        files.load("cpu")


def test_a_checkpoint_of_another_version_is_named(tmp_path):
    files = Checkpoints(tmp_path)
    files.save({})
    files.newest.write_bytes(files.newest.read_bytes().replace(b"checkpoint 3", b"checkpoint 9", 1))
    with pytest.raises(ConfigError, match="has format 9; this version reads 3"):
        files.load("cpu")


def test_a_full_disk_leaves_both_checkpoints(tmp_path, full_disk):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save({"step": step})

    full_disk()
    with pytest.raises(OSError, match="No space"):
        checkpoints.save({"step": 3})
    assert checkpoints.load("cpu")["step"] == 2
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.previous.pt", "checkpoint.pt"]
