"""One process per run: the second is refused and told who is at work; a killed one frees the run at once."""

import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from sparse_train.errors import HeldError
from sparse_train.record import lock
from sparse_train.record.lock import Lock

HOLD = """
import os, sys, time
from pathlib import Path
from sparse_train.record.lock import Lock
held = Lock(Path(sys.argv[1]))
held.acquire()
if os.fork() == 0:
    time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_is_told_who_holds_it(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.acquire()
    words = rf"{tmp_path} is being trained by process {os.getpid()} on {socket.gethostname()}, since 20"
    with pytest.raises(HeldError, match=words):
        second.acquire()
    second.release()
    first.verify()
    first.release()
    second.acquire()
    second.release()
    second.verify()  # nothing to ask for where nothing is held
    assert os.listdir(tmp_path) == []


def test_a_killed_holder_frees_the_run_at_once(tmp_path):
    """Also where a child of its own goes on, as a data loader's worker does."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(HeldError, match=f"process {holder.pid} "):
                Lock(tmp_path / "lock").acquire()
            assert Lock(tmp_path / "lock").holder()["pid"] == holder.pid
            holder.kill()
            holder.wait()
            assert Lock(tmp_path / "lock").holder() is None
            mine = Lock(tmp_path / "lock")
            mine.acquire()
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
            mine.release()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(holder.pid, 9)


def test_of_many_at_once_one_gets_it(tmp_path):
    """Each asks as often as it takes, holds the lock while it counts, and gives it back."""
    (tmp_path / "count").write_text("0")
    for _ in range(4):
        if os.fork() == 0:
            for _ in range(25):
                mine = Lock(tmp_path / "lock")
                while True:
                    with contextlib.suppress(HeldError):
                        mine.acquire()
                        break
                count = int((tmp_path / "count").read_text())
                (tmp_path / "count").write_text(str(count + 1))
                mine.release()
            os._exit(0)
    assert [os.wait()[1] for _ in range(4)] == [0] * 4
    assert (tmp_path / "count").read_text() == "100"
    assert os.listdir(tmp_path) == ["count"]


def test_looking_does_not_get_in_the_way(tmp_path, monkeypatch):
    """`status` looks at a lock by taking it for a moment."""
    looking = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    lock.fcntl.flock(looking, lock.fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda seconds: lock.fcntl.flock(looking, lock.fcntl.LOCK_UN))
    Lock(tmp_path / "lock").acquire()
    os.close(looking)


def test_a_lock_that_somebody_removed_is_lost(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.acquire()
    (tmp_path / "lock").unlink()
    with pytest.raises(HeldError, match="lock was removed or replaced; nothing more is written"):
        first.verify()
    second.acquire()
    with pytest.raises(HeldError, match="lock was removed or replaced"):
        first.verify()
    first.release()
    second.verify()
    second.release()


# --- a file system without locks ---


@pytest.fixture
def no_locks(monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", unknown)


def test_without_locks_the_last_to_come_has_the_run(no_locks, tmp_path, capsys):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.holder() is None
    first.acquire()
    assert capsys.readouterr().err == ""
    assert second.holder()["pid"] == os.getpid()
    second.acquire()
    words = f"warning: {tmp_path} was being trained by process {os.getpid()} on .*; this file system has no locks"
    assert re.match(words, capsys.readouterr().err)
    with pytest.raises(HeldError, match=rf"{tmp_path} was taken over by process \d+ on .*; nothing more is written"):
        first.verify()
    first.release()
    second.verify()
    second.release()
    assert os.listdir(tmp_path) == []


# --- files that are no locks ---


@pytest.mark.parametrize("text", ["", "7", "[" * 10**5, '{"host": "a", "pid": 1, "since": "b"}'])
def test_a_file_that_nobody_holds_is_taken_whatever_it_says(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    mine = Lock(tmp_path / "lock")
    assert mine.holder() is None
    mine.acquire()
    mine.release()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/hostname")])
def test_what_is_no_file_locks_nothing(tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(OSError, match="Illegal seek|symbolic links"):  # the record names the directory
        Lock(tmp_path / "lock").acquire()
    assert Lock(tmp_path / "lock").holder() is None
    assert os.listdir(tmp_path) == ["lock"]
