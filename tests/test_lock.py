import json
import os
import socket
import subprocess
import sys
import time

import pytest

from sparse_train import lock
from sparse_train.errors import HeldError
from sparse_train.lock import Lock


def test_the_second_is_told_who_holds_it(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(
        HeldError, match=rf"is being trained by process {os.getpid()} on {socket.gethostname()}, since 20"
    ):
        second.acquire()
    second.release()
    assert (tmp_path / "lock").exists(), "it is not its to release"
    first.release()
    second.acquire()
    second.release()
    assert os.listdir(tmp_path) == []


def test_a_lock_whose_holder_is_dead_is_taken_over(tmp_path):
    code = "import pathlib, sys, time; from sparse_train.lock import Lock; Lock(pathlib.Path(sys.argv[1])).acquire()"
    command = [sys.executable, "-c", f"{code}; time.sleep(60)", str(tmp_path / "lock")]
    with subprocess.Popen(command) as holder:
        while not (tmp_path / "lock").exists():
            time.sleep(0.02)
        with pytest.raises(HeldError, match=f"process {holder.pid} "):
            Lock(tmp_path / "lock").acquire()
        holder.kill()
    Lock(tmp_path / "lock").acquire()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_number_used_again_is_another_process(tmp_path):
    mine = Lock(tmp_path / "lock")
    mine.acquire()
    held = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps({**held, "born": "1"}))
    Lock(tmp_path / "lock").acquire()


def test_a_holder_elsewhere_counts_as_dead_after_three_minutes_of_silence(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "2026-01-01"}))
    with pytest.raises(HeldError, match="process 1 on elsewhere, since 2026-01-01"):
        Lock(path).acquire()
    os.utime(path, (time.time() - lock.GONE - 1,) * 2)
    Lock(path).acquire()


def test_the_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    mine = Lock(tmp_path / "lock")
    mine.acquire()
    os.utime(mine.path, (0, 0))
    deadline = time.monotonic() + 5
    while mine.path.stat().st_mtime < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.time() - mine.path.stat().st_mtime < 60
    mine.release()


UNBORN = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": "2026-01-01"})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", UNBORN], ids=["empty", "cut", "list", "nobody", "unborn"])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    Lock(tmp_path / "lock").acquire()


def test_without_hard_links(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.os, "link", unknown)
    Lock(tmp_path / "lock").acquire()
    with pytest.raises(HeldError):
        Lock(tmp_path / "lock").acquire()
