"""`make gpu-check`: every part runs on a CPU, and none that goes wrong stops another."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import gpu_check
from benchmarks.forks import NotHereError
from benchmarks.gpu_check import FAILED, FINE, MISSED, NOT_HERE, PARTS, Row, Waits, attempt, check
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.sparsity.topology import Topology
from support.runs import ROOT


def test_every_part_runs_on_a_cpu(tmp_path):
    words = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--out", str(tmp_path / "found.json")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["verdict"] == FINE
    assert [part["name"] for part in found["parts"]] == list(PARTS)
    rows = [row for part in found["parts"] for row in part["rows"]]
    assert {row["what"] for row in rows if row["verdict"] == NOT_HERE} == {
        "NCCL",
        "SyncBN",
        "bf16, channels last, reduce-overhead",
        "CUDA graphs",
        "bf16, channels last, a step as one graph",
        "bf16, channels last, a step as one graph, compiled",
    }
    assert sum(row["verdict"] == FINE for row in rows) > 20
    assert all(f"{row['what']:<72} {row['found']}" in done.stdout for row in rows)


def test_a_part_that_goes_wrong_stops_no_other(monkeypatch, capsys, tmp_path):
    def fine(device, size):
        yield Row("this", "is right", 1.0, FINE)

    def raises(device, size):
        yield Row("so far", "right", verdict=FINE)
        raise ValueError("two\nlines")

    def ends(device, size):
        yield Row("so far", "right", verdict=FINE)
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(device, size):
        yield from attempt("within", 600, sleeps)

    def sleeps():
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)
        yield Row("never", "")

    def missing(device, size):
        raise NotHereError("no such GPU")
        yield

    parts = {work.__name__: (work.__name__, 60.0, work) for work in (raises, ends, hangs, missing, fine)}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    monkeypatch.setattr(gpu_check, "PATIENCE", 4.0)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)  # other tests ask for GPUs in this process
    verdict, found = check("cpu", list(parts))
    assert verdict == FAILED
    last = {part["name"]: (part["rows"][-1]["found"], part["rows"][-1]["verdict"]) for part in found}
    assert last == {
        "raises": ("failed: ValueError: two", FAILED),
        "ends": ("failed: its process ended with status -9", FAILED),
        "hangs": ("failed: it took longer than 4 s", FAILED),
        "missing": ("not here: no such GPU", NOT_HERE),
        "fine": ("is right", FINE),
    }
    assert [len(part["rows"]) for part in found] == [2, 2, 1, 1, 1]
    assert "so far" in capsys.readouterr().out
    assert check("cpu", ["missing", "fine"])[0] == FINE
    until = time.monotonic() + 20
    while runs((tmp_path / "pid").read_text()):
        assert time.monotonic() < until, "what a part has started ends with it"
        time.sleep(0.05)


def test_what_there_is_no_time_for_is_not_fine(monkeypatch):
    """A goal that was not looked at is none that was reached, whether the time is over before a part or within it."""

    def fine(device, size):
        yield Row("this", "is right", 1.0, FINE)

    def slow(device, size):
        time.sleep(60)
        yield Row("never", "")

    parts = {work.__name__: (work.__name__, 60.0, work) for work in (fine, slow)}
    monkeypatch.setattr(gpu_check, "PARTS", parts | {"after": ("after", 60.0, fine)})
    monkeypatch.setattr(gpu_check, "BUDGET", 4)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    assert check("cuda", ["fine"])[0] == FINE
    verdict, found = check("cuda", ["fine", "slow", "after"])
    assert verdict == MISSED
    last = [part["rows"][-1]["found"] for part in found]
    assert last == [
        "is right",
        *(f"not measured: the 4 s are over; alone: --part {name}" for name in ("slow", "after")),
    ]


def runs(pid):
    try:
        return bool(Path("/proc", pid, "cmdline").read_text())  # empty for one that has ended and is not reaped yet
    except OSError:
        return False


def test_a_wait_is_counted_where_it_is():
    topology = Topology(ResNet20(10, width=0.25), 0.5)
    for seen in (Waits(torch.device("cpu")), Waits(torch.device("cuda"))):
        if seen.cuda:  # torch's warnings come as this one
            topology.masks = {"": Warned(seen)}
            topology.sparsity()
        else:
            with seen.watching():
                topology.sparsity()
        assert set(seen.places) == {"topology.sparsity"}
        assert "topology.sparsity" not in gpu_check.ALLOWED


class Warned:
    """In a mask's place: reading its sum warns, as on a GPU under `set_sync_debug_mode`."""

    def __init__(self, seen):
        self.seen = seen

    def numel(self):
        return 1

    def sum(self):
        self.seen.warned(UserWarning("called a synchronizing CUDA operation (Triggered internally at ...)"))
        return 1
