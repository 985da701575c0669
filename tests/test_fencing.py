"""A process that has lost its run writes nothing more; whoever gets a run, or empties it, removes what is its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from sparse_train.config import run_id
from sparse_train.errors import ConfigError, HeldError
from sparse_train.record import lock
from sparse_train.record.checkpoint import Checkpoints
from sparse_train.record.files import write_json, write_whole
from sparse_train.record.record import Record
from sparse_train.report.results import Records
from support.runs import QUICK, run_here

STOPPED = """
import socket, sys
socket.gethostname = lambda: "elsewhere"
from sparse_train.record.checkpoint import Checkpoints
from sparse_train.record.record import Record
record = Record(sys.argv[1], "abc")
with record.held():
    record.start([])
    print("started", flush=True)
    sys.stdin.readline()
    try:
        Checkpoints(record.dir).save({"step": 1})
    except RuntimeError as error:
        print(error, file=sys.stderr)
    record.append({"epoch": 1, "test_acc": 1.0})
"""


def test_a_holder_that_was_stopped_does_not_write_over_its_successor(tmp_path, monkeypatch):
    """It is elsewhere, stops for longer than it may, and goes on when the run is complete."""
    monkeypatch.setattr(lock, "GONE", 0.3)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    with subprocess.Popen(command, **pipes) as stopped, contextlib.ExitStack() as end:
        end.callback(stopped.kill)
        assert stopped.stdout.readline() == "started\n"
        stopped.send_signal(signal.SIGSTOP)
        record = Record(str(tmp_path), "abc")
        with record.held():
            record.start([{"epoch": 1, "test_acc": 70.0}])
            record.append({"epoch": 2, "test_acc": 80.0})
            Checkpoints(record.dir).save({"step": 2})
            record.finish("complete")
            stopped.send_signal(signal.SIGCONT)
            _, said = stopped.communicate("go on\n")
            record.lock.verify()
    assert stopped.returncode == 1
    words = f"{record.dir} was taken over by process {os.getpid()} on {socket.gethostname()}, since "
    refusals = [line for line in said.splitlines() if words in line and line.endswith("; nothing more is written")]
    assert len(refusals) == 2, "the checkpoint and the record"
    assert Record(str(tmp_path), "abc").status == "complete"
    assert len((record.dir / "history.jsonl").read_text().splitlines()) == 2
    assert Checkpoints(record.dir).load("cpu")["step"] == 2
    assert sorted(os.listdir(record.dir)) == ["checkpoint.pt", "history.jsonl", "record.json"]


def test_every_file_of_a_held_run_asks_first(tmp_path):
    """Also those of writers that know nothing of locks."""
    record = Record(str(tmp_path), "abc")
    with pytest.raises(HeldError, match="is gone: somebody removed it"), record.held():
        record.start([])
        before = (record.dir / "record.json").read_bytes()
        record.lock.path.unlink()
        for write in (lambda: record.finish("complete"), lambda: write_whole(record.dir / "weights", b"")):
            with pytest.raises(HeldError):
                write()
        write_whole(tmp_path / "elsewhere", b"")
        record.append({"epoch": 1})
    assert (record.dir / "record.json").read_bytes() == before, "not even that it failed"
    assert os.listdir(record.dir) == ["record.json"]


def test_what_killed_writers_left_goes_with_the_next_holder(tmp_path):
    record = Record(str(tmp_path), "abc")
    record.dir.mkdir()
    for name in (".checkpoint.pt.123.tmp", ".record.json.4f5a.tmp", ".lock.host.77.tmp", "lock.after.0123"):
        (record.dir / name).write_bytes(b"half")
    (record.dir / "model.safetensors").write_bytes(b"whole")
    with record.held():
        record.start([])
    assert sorted(os.listdir(record.dir)) == ["model.safetensors", "record.json"]


def test_two_hosts_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    """In containers two processes often have the same number; here one of them is in the middle of writing."""
    flush, inner = os.fsync, []

    def meanwhile(descriptor):
        if not inner:
            inner.append(True)
            write_whole(tmp_path / "file", b"the other's")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_whole(tmp_path / "file", b"mine")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["file"]


def test_a_checkpoint_saved_after_a_kill_between_two_names_leaves_no_third(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1})
    os.link(checkpoints.newest, checkpoints.previous)  # and killed before the new one had its name
    checkpoints.save({"step": 2})
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.previous.pt", "checkpoint.pt"]


# --- links, pipes and directories ---


@pytest.fixture
def big_disk(tmp_path):
    (tmp_path / "big" / "abc").mkdir(parents=True)
    for name in ("thesis.tex", "record.json"):
        (tmp_path / "big" / "abc" / name).write_text("{}")
    return tmp_path / "big"


def test_starting_afresh_does_not_empty_what_a_link_leads_to(big_disk, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "abc").symlink_to(big_disk / "abc")
    record = Record(str(tmp_path / "runs"), "abc", fresh=True)
    words = "/runs/abc is a link to .*/big/abc, which is not ours to empty; remove the"
    with pytest.raises(ConfigError, match=f"resume=fresh: .*{words} link"), record.held():
        pass
    assert sorted(os.listdir(big_disk / "abc")) == ["record.json", "thesis.tex"]


def test_a_link_inside_a_run_goes_and_what_it_leads_to_stays(big_disk, tmp_path):
    record = Record(str(tmp_path / "runs"), "abc", fresh=True)
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


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a directory"])
@pytest.mark.parametrize("name", ["record.json", "lock"])
def test_what_is_no_file_is_named_in_one_line(name, make, tmp_path, compose_config, monkeypatch, capsys):
    run_dir = tmp_path / run_id(compose_config(*QUICK))
    run_dir.mkdir()
    make(run_dir / name)
    code, out, err = run_here(monkeypatch, capsys, *QUICK, f"runs_dir={tmp_path}")
    assert (code, out) == (1, "")
    assert [line for line in err.splitlines() if f"{run_dir / name}: is not a regular file" in line]
    assert "Traceback" not in err
    assert os.listdir(run_dir) == [name]


def test_a_checkpoint_that_is_a_pipe_is_named(tmp_path):
    os.mkfifo(tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"checkpoint.pt cannot be read \(Not a regular file\); start over with"):
        Checkpoints(tmp_path).load("cpu")


LOCKS = ['{"host": "a", "since": "b", "pid": 1e999}', "[" * 10**5, '{"host": [], "pid": {}, "since": 1}']


@pytest.mark.parametrize("text", LOCKS, ids=lambda text: text[:20])
def test_one_malformed_file_does_not_stop_a_sweep(text, tmp_path):
    """A lock, a record of another kind, a pipe: each is passed over, and the others are read."""
    for name in ("good", "bad", "list", "pipe", "deep"):
        write_json(tmp_path / name / "record.json", {"format": 1, "id": name, "status": "running"})
    (tmp_path / "bad" / "lock").write_text(text)
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
