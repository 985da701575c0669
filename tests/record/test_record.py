"""What a run leaves: written whole or not at all, by whoever holds the run, and read only where it is a file."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_train.config import run_id
from sparse_train.errors import ConfigError, HeldError
from sparse_train.record.checkpoint import Checkpoints
from sparse_train.record.files import read_json_lines, write_json, write_json_lines
from sparse_train.record.record import Record, look_again
from sparse_train.report.results import Records
from support.runs import TINY, run_here


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


def test_a_record_that_goes_on_keeps_its_beginning_and_drops_a_line_that_a_kill_cut_short(tmp_path):
    record = Record(str(tmp_path), "abc")
    record.start([])
    record.content["started"] = "long ago"
    place = record.dir / "history.jsonl"
    record.append(row(1, 10.0))
    told = os.stat(place).st_ino
    record.append(row(2, 20.0))
    assert os.stat(place).st_ino == told, "not written anew"
    whole = place.read_bytes()
    place.write_bytes(whole + b'{"epoch": 3, "te')
    assert [line["epoch"] for line in read_json_lines(place)] == [1, 2]
    again = Record(str(tmp_path), "abc")
    again.start([row(1, 10.0), row(2, 20.0)])
    assert again.content["started"] == "long ago"
    assert place.read_bytes() == whole
    again.start([])
    assert not place.exists(), "lines of a lost attempt"


@pytest.mark.parametrize("content", ["", "[]", '{"id": "other", "status": "complete"}', "[" * 10**5])
def test_a_record_that_is_none_is_named_and_stays(tmp_path, content):
    path = tmp_path / "abc" / "record.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"record={path}: (cannot be read|is not the record of this run).*; move it"):
        Record(str(tmp_path), "abc")
    assert path.read_text() == content
    with Record(str(tmp_path), "abc", fresh=True).held():
        assert not path.exists()


def test_a_process_that_lost_its_run_does_not_write_over_its_successor(tmp_path):
    record = Record(str(tmp_path), "abc")
    with pytest.raises(HeldError, match="lock was removed or replaced; nothing more is written"), record.held():
        record.start([])
        before = (record.dir / "record.json").read_bytes()
        record.lock.path.unlink()
        with pytest.raises(HeldError):
            record.finish("complete")
        record.append(row(1, 10.0))
    assert (record.dir / "record.json").read_bytes() == before, "not even that it failed"
    assert os.listdir(record.dir) == ["record.json"]


def test_what_killed_writers_left_goes_with_the_next_holder(tmp_path):
    record = Record(str(tmp_path), "abc")
    record.dir.mkdir()
    for name in (".checkpoint.pt.123.tmp", ".record.json.4f5a.tmp"):
        (record.dir / name).write_bytes(b"half")
    (record.dir / "model.safetensors").write_bytes(b"whole")
    with record.held():
        record.start([])
    assert sorted(os.listdir(record.dir)) == ["model.safetensors", "record.json"]


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"loss": float("nan"), "rows": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "rows": [None, 1.5]}
    write_json_lines(tmp_path / "b.jsonl", [{"x": float("-inf")}])
    assert (tmp_path / "b.jsonl").read_text() == '{"x": null}\n'


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def evil(checkpoints):
    """As another program wrote it: ours saves nothing that it could not load."""
    checkpoints.verified = True
    checkpoints.save({"evil": Evil()})


@pytest.mark.parametrize(
    ("spoil", "right"),
    [
        (lambda path: path.write_bytes(path.read_bytes().replace(b"checkpoint 4", b"checkpoint 3", 1)), "has format 3"),
        (lambda path: path.write_bytes(b"PK\x03\x04 junk"), "is not a checkpoint, or its head is damaged"),
        (lambda path: evil(Checkpoints(path.parent)), "cannot be read: Weights only load failed"),
    ],
    ids=["older", "another file", "code"],
)
def test_a_checkpoint_that_is_none_of_ours_is_named_and_runs_no_code(spoil, right, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load("cpu") is None
    checkpoints.save({"id": "abc", "weights": torch.ones(2)})
    state = checkpoints.load("cpu")
    assert (state["id"], state["weights"].tolist()) == ("abc", [1, 1])
    spoil(checkpoints.newest)
    checkpoints.previous.unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=f"checkpoint.pt.* {right}.*; start over with resume=fresh"):
        checkpoints.load("cpu")
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


UNREADABLE = {"record.json": "record", "checkpoint.pt": "resume", "checkpoint.previous.pt": "resume"}


@pytest.mark.parametrize("errno", [13, 5])
def test_what_cannot_be_read_stays_as_it_is(errno, tmp_path, monkeypatch):
    """Of another user, or on a failing disk: it may be whole, so nothing replaces it, and no advice deletes it."""
    record, checkpoints = Record(str(tmp_path), "abc"), Checkpoints(tmp_path / "abc")
    record.start([])
    for step in (1, 2):
        checkpoints.save({"step": step})
    record.finish("complete", final={"epoch": 0})
    files, opens = {path.name: path.read_bytes() for path in record.dir.iterdir()}, os.open

    def fails(path, *rest, **more):
        if str(path) == str(record.dir / closed):
            raise OSError(errno, os.strerror(errno), str(path))
        return opens(path, *rest, **more)

    monkeypatch.setattr(os, "open", fails)
    for closed, key in UNREADABLE.items():
        if closed == "checkpoint.previous.pt":
            checkpoints.newest.write_bytes(b"damaged")
        with pytest.raises(ConfigError) as raised:
            Record(str(tmp_path), "abc")
            checkpoints.load("cpu")
        said = str(raised.value)
        assert said.startswith(f"{key}=")
        assert f"{record.dir / closed}" in said
        assert f"cannot be read ({os.strerror(errno)}); " in said
        assert "make it readable" in said
        assert "fresh" not in said
    assert {path.name: path.read_bytes() for path in record.dir.iterdir()} == files | {"checkpoint.pt": b"damaged"}


def test_a_model_that_cannot_be_read_is_not_trained_again(tmp_path, monkeypatch):
    record, opens = Record(str(tmp_path), "abc"), Path.open
    record.start([row(1, 70.0)])
    (record.dir / "model.safetensors").write_bytes(b"weights")
    record.finish("complete")
    look_again(Record(str(tmp_path), "abc"))

    def denied(path, *rest):
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *rest)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(
        ConfigError, match=r"model.safetensors cannot be read \(Permission denied\); nothing was changed"
    ):
        look_again(Record(str(tmp_path), "abc"))


def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"checkpoint.pt cannot be read \(Not a regular file\); .*move it away"):
        Checkpoints(tmp_path).load("cpu")


def full(descriptor):
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_newest_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save({"step": step})
    monkeypatch.setattr(os, "fsync", full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            checkpoints.save({"step": 3})
        assert checkpoints.load("cpu")["step"] == 2
    assert os.listdir(tmp_path) == ["checkpoint.previous.pt"]


def test_after_a_fallback_a_full_disk_leaves_the_checkpoint_that_was_taken(tmp_path, monkeypatch):
    files = Checkpoints(tmp_path)
    for step in (1, 2):
        files.save({"step": step})
    files.newest.write_bytes(files.newest.read_bytes()[:-1])
    again = Checkpoints(tmp_path)
    assert again.load("cpu")["step"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            again.save({"step": 3})
    assert Checkpoints(tmp_path).load("cpu")["step"] == 1
    for step in (3, 4):
        again.save({"step": step})
    again.newest.unlink()
    assert again.load("cpu")["step"] == 3, "a whole one becomes the previous one as ever"


def test_a_state_that_could_not_be_loaded_is_not_saved(tmp_path):
    """As a method's of one's own may be; told at the first save, not at the resume."""
    with pytest.raises(ConfigError, match="state_dict=numpy.*: cannot be loaded again"):
        Checkpoints(tmp_path).save({"method": {"best": np.float64(0.1)}})
    assert not list(tmp_path.iterdir())


def test_a_job_that_slurm_puts_back_goes_on_with_what_it_started_over(tmp_path, monkeypatch):
    def begun(job, restarts):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        record = Record(str(tmp_path), "abc", fresh=True)
        with record.held():
            there = len(record.content.get("segments", []))
            record.start([], config={})
        return there

    assert [begun(*job) for job in (("7", "0"), ("7", "0"), ("7", "1"), ("8", "1"), ("8", "1"))] == [0, 0, 1, 0, 1]


# --- links, pipes and directories ---


@pytest.fixture
def big_disk(tmp_path):
    (tmp_path / "big" / "abc").mkdir(parents=True)
    for name in ("thesis.tex", "record.json"):
        (tmp_path / "big" / "abc" / name).write_text("{}")
    return tmp_path / "big"


def test_starting_afresh_empties_nothing_that_a_link_leads_to(big_disk, tmp_path):
    """A link in place of the run is refused; one inside it goes, and what it leads to stays."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "abc").symlink_to(big_disk / "abc")
    words = "/runs/abc is a link to .*/big/abc, which is not ours to empty; remove the"
    linked = Record(str(tmp_path / "runs"), "abc", fresh=True)
    with pytest.raises(ConfigError, match=f"resume=fresh: .*{words} link"), linked.held():
        pass
    record = Record(str(tmp_path / "runs"), "other", fresh=True)
    record.dir.mkdir(parents=True)
    (record.dir / "wandb").symlink_to(big_disk / "abc")
    (record.dir / "checkpoint.pt").symlink_to(big_disk / "abc" / "thesis.tex")
    with record.held():
        record.start([])
    assert os.listdir(record.dir) == ["record.json"]
    assert sorted(os.listdir(big_disk / "abc")) == ["record.json", "thesis.tex"]


def test_a_runs_directory_may_be_a_link_to_a_bigger_disk(big_disk, tmp_path):
    (tmp_path / "runs").symlink_to(big_disk)
    record = Record(str(tmp_path / "runs"), "abc", fresh=True)
    with record.held():
        record.start([])
    assert os.listdir(big_disk / "abc") == ["record.json"]


def test_a_pipe_in_place_of_the_record_is_named_in_one_line(tmp_path, compose_config, monkeypatch, capsys):
    run_dir = tmp_path / run_id(compose_config(*TINY))
    run_dir.mkdir()
    os.mkfifo(run_dir / "record.json")
    code, out, err = run_here(monkeypatch, capsys, *TINY, f"runs_dir={tmp_path}")
    assert (code, out) == (1, "")
    assert re.search(rf"error: \w+={run_dir}/record.json: .*[Nn]ot a regular file", err)
    assert "Traceback" not in err
    assert os.listdir(run_dir) == ["record.json"]


def test_one_malformed_file_does_not_stop_a_sweep(tmp_path):
    """A lock, a record of another kind, a pipe: each is passed over, and the others are read."""
    for name in ("good", "bad", "list", "pipe", "deep"):
        write_json(tmp_path / name / "record.json", {"format": 1, "id": name, "status": "running"})
    (tmp_path / "bad" / "lock").write_text('{"host": [], "pid": 1e999, "since": 1}')
    write_json(tmp_path / "list" / "record.json", {"format": 1, "id": [], "status": "running"})
    (tmp_path / "deep" / "record.json").write_text("[" * 10**5)
    (tmp_path / "pipe" / "record.json").unlink()
    os.mkfifo(tmp_path / "pipe" / "record.json")
    records = Records([tmp_path])
    assert {name: content["status"] for name, (_, content) in records.found.items()} == {
        "bad": "interrupted",
        "good": "interrupted",
    }
    assert len(records.problems) == 3
