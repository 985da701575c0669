"""What tests of whole runs share: how one is started, and what it left."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from hydra.core.global_hydra import GlobalHydra

from sparse_train.__main__ import main
from sparse_train.record import checkpoint
from sparse_train.report.results import TIMES

ROOT = Path(__file__).parents[2]
QUICK = ("epochs=2", "model.width=0.25", "update_every=3", "threads=1")


def command(*overrides, **environment):
    """Run `python -m sparse_train`; returns exit status, stdout and stderr."""
    run = [sys.executable, "-m", "sparse_train", *overrides]
    done = subprocess.run(
        run, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=600, check=False
    )
    return done.returncode, done.stdout, done.stderr


def run_here(monkeypatch, capsys, *overrides):
    """The same in this process."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["sparse_train", *overrides])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def trained(*overrides):
    code, out, err = command(*QUICK, *overrides)
    assert code == 0, err
    return Path(out.splitlines()[-1])


def report(place, *words):
    """`python -m sparse_train.report WORD...` on the runs and results of a place, at the smallest scale."""
    places = ["--runs-dir", str(place / "runs"), "--results-dir", str(place / "results")]
    return [sys.executable, "-m", "sparse_train.report", *words, "--scale", "smoke", *places]


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


def equal(first, second):
    """Whether two sequences of tensors are the same to the bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def same_state(first, second):
    pairs = list(zip(tensors(final_state(first)), tensors(final_state(second)), strict=True))
    assert len(pairs) > 50
    return all(torch.equal(a, b) for a, b in pairs)


def notices(err: str) -> str:
    """What a run said on stderr besides its closing line."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("complete: "))
