"""What tests of whole runs share: how one is started, and what it left."""

import json
import os
import signal
import socket
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from sparse_train.__main__ import main
from sparse_train.record import checkpoint
from sparse_train.report.__main__ import main as report_main
from sparse_train.report.launch import reproduce, rerun
from sparse_train.report.results import TIMES
from sparse_train.train import loop
from support import warm
from support.steps import same

ROOT = warm.ROOT
QUICK = ("epochs=2", "model.width=0.25", "update_every=3", "threads=1")
TINY = ("epochs=2", "model=mlp", "dataset.train_images=128", "update_every=3", "threads=1")  # two steps an epoch


def command(*overrides, **environment):
    """Run `python -m sparse_train`, warm; returns exit status, stdout and stderr."""
    done = warm.run(training(*overrides), **environment)
    return done.returncode, done.stdout, done.stderr


def training(*overrides):
    return [sys.executable, "-m", "sparse_train", *overrides]


def run_here(monkeypatch, capsys, *overrides):
    """The same in this process."""
    code = _ended(monkeypatch, *overrides)
    said = capsys.readouterr()
    return code, said.out, said.err


def trained(*overrides):
    """The directory of a run, trained in this process."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        assert _ended(patch, *overrides) == 0
    return Path(out.getvalue().splitlines()[-1])


def _ended(patch, *overrides):
    GlobalHydra.instance().clear()
    patch.setattr(sys, "argv", ["sparse_train", *overrides])
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0


def report(place, *words):
    """`python -m sparse_train.report WORD...` on the runs and results of a place, at the smallest scale: a command."""
    places = ["--runs-dir", str(place / "runs"), "--results-dir", str(place / "results")]
    return [sys.executable, "-m", "sparse_train.report", *words, "--scale", "smoke", *places]


def reported(place, *words):
    """The same in this process, and the trainings that it starts warm; returns exit status, stdout and stderr."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        patch.setattr(sys, "argv", report(place, *words)[2:])
        for module in (reproduce, rerun):
            patch.setattr(module, "attend", warm.attend)
        with pytest.raises(SystemExit) as ended:
            report_main()
    return ended.value.code, out.getvalue(), err.getvalue()


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


@contextmanager
def broken_off(*steps, told=False):
    """Inside, runs end at these calls of the loss: as SIGKILL ends them, or told by SIGTERM. Gives the calls so far."""
    calls, loss = [], loop.Run.loss

    def counted(run, images, labels):
        calls.append(len(calls))
        if calls[-1] in steps and not told:
            raise Killed
        if calls[-1] in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(run, images, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "loss", counted)
        yield calls


def only(runs_dir):
    """The directory of the one run that has a record there."""
    [path] = runs_dir.glob("*/record.json")
    return path.parent


def record(run_dir):
    return json.loads((run_dir / "record.json").read_text())


def rows(run_dir):
    """The history, a row for each epoch."""
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def timeless(rows):
    """Rows without times, which no two runs have in common."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def history(run_dir):
    """Times aside."""
    return timeless(rows(run_dir))


def free_port():
    """Of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tensors(value):
    """All tensors in a nested state, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


def final_state(run_dir):
    state = checkpoint.read(run_dir / "checkpoint.pt")
    return {part: state[part] for part in ("model", "optimizer")}


def same_state(first, second):
    ours, theirs = (list(tensors(final_state(run_dir))) for run_dir in (first, second))
    assert len(ours) > 10
    return same(ours, theirs)


def notices(err: str) -> str:
    """What a run said on stderr besides its first and its closing line."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith(("loading ...", "complete: ")))
