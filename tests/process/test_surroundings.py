"""What lies around a training does not end it: its terminal, its log, its file system, its environment."""

import errno
import os
import pty
import signal
import subprocess
import sys

import pytest

from sparse_train.record import files, metadata
from support.runs import ROOT, TINY, free_port, only, record, trained

RUN = [sys.executable, "-m", "sparse_train", *TINY]


def shell(redirection, tmp_path):
    words = " ".join([*RUN, f"runs_dir={tmp_path}", redirection])
    return subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">/dev/full"])
def test_a_log_that_cannot_be_written_ends_nothing(redirection, tmp_path):
    done = shell(redirection, tmp_path)
    assert done.returncode == 0, done.stderr
    assert record(only(tmp_path))["status"] == "complete"
    assert "Traceback" not in done.stderr
    if redirection == ">/dev/full":
        assert "warning: stdout cannot be written (No space left on device); the run is complete" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (
            "sparse_train.report plan quickstart >/dev/full",
            1,
            "error: stdout cannot be written (No space left on device)\n",
        ),
        ("sparse_train --cfg job >&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_one_line_at_most(words, code, line):
    typed = ["bash", "-c", f"{sys.executable} -m {words}"]
    done = subprocess.run(typed, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, line)


def test_a_terminal_that_closes_ends_nothing(tmp_path):
    """As ssh does: writing fails with EIO from then on, in the middle of the progress bar."""
    ours, theirs = pty.openpty()
    words = [*RUN, f"runs_dir={tmp_path}", "epochs=200"]
    run = subprocess.Popen(words, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"epoch   1/200" not in seen:
        seen += os.read(ours, 1000)
    os.close(ours)
    assert run.wait(timeout=300) == 0
    assert record(only(tmp_path))["final"]["epoch"] == 200


def test_a_file_system_without_fsync_is_written(tmp_path, monkeypatch):
    def refused(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refused)
    files.write_whole(tmp_path / "a", b"1")
    files.append(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"12"

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(tmp_path / "a", b"3")
    assert (tmp_path / "a").read_bytes() == b"12"
    assert os.listdir(tmp_path) == ["a"], "no temporary file is left"


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    trained(*TINY, "runs_dir=~/mine")
    assert only(tmp_path / "mine")


def test_a_process_that_waits_for_others_can_be_ended(tmp_path):
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words, environment = [*RUN, f"runs_dir={tmp_path}"], {**os.environ, **ranks}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert any("process 0 waits for the other 1 at 127.0.0.1" in line for line in process.stderr)
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_the_revision_is_that_of_this_checkout(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    metadata._revision.cache_clear()
    ours = metadata._revision()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    metadata._revision.cache_clear()
    assert metadata._revision() == ours
    monkeypatch.delenv("GIT_DIR")
    package = tmp_path / ".venv" / "metadata.py"  # installed within a repository of the user's
    package.parent.mkdir()
    package.touch()
    (tmp_path / ".gitignore").write_text(".venv\n")
    monkeypatch.setattr(metadata, "__file__", str(package))
    metadata._revision.cache_clear()
    assert metadata._revision() is None
    metadata._revision.cache_clear()


def test_variables_that_choose_kernels_are_recorded(monkeypatch):
    import torch

    assert "environment" not in metadata.describe(torch.device("cpu"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert metadata.describe(torch.device("cpu"))["environment"] == {"ONEDNN_MAX_CPU_ISA": "AVX2"}
