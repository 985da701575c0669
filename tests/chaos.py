"""Kill runs at random moments, also while they write, and compare what they end with to unbroken runs, bit by bit.

python tests/chaos.py --kills 60 --report results/reliability.md
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from hydra.core.global_hydra import GlobalHydra

from sparse_train import files
from sparse_train.__main__ import main
from support import final_state, history, only, record

CONFIGURATIONS = [
    (f"dst={dst}", f"optimizer={optimizer}", f"amp={amp}")
    for dst, optimizer, amp in product(("rigl", "set"), ("sgd", "sparseopt_ham"), ("none", "bf16"))
]
SHORT = ("epochs=3", "model.width=0.25", "update_every=3", "renorm=unit", "threads=1", "checkpoint_steps=2")


@dataclass
class Outcome:
    """What became of one configuration: kills, how many of them fell into a write, and whether it ended the same."""

    name: str
    kills: int
    in_writing: int
    same: bool


def chaos(configuration: tuple[str, ...], kills: int, place: Path, draw: random.Random) -> Outcome:
    """One unbroken run, then one that is killed `kills` times and started again each time."""
    arguments = (*SHORT, *configuration)
    began = time.monotonic()
    _wait(_start(place / "unbroken", arguments))
    length = time.monotonic() - began
    done = in_writing = 0
    while done < kills:
        pid = _start(place / "killed", arguments, slow_writing=True)
        moment = time.monotonic() + draw.uniform(0, length)
        wait_for_writing = draw.random() < 0.5
        while time.monotonic() < moment and not _ended(pid):
            if wait_for_writing and _writing(place / "killed"):
                break
            time.sleep(0.0005)
        writing = _writing(place / "killed")
        if not _ended(pid):
            os.kill(pid, signal.SIGKILL)
            done, in_writing = done + 1, in_writing + writing
            _wait(pid)
        elif done < kills:  # it came to its end: once more from the start
            with contextlib.suppress(ChildProcessError):
                _wait(pid)
            for path in (place / "killed").glob("*/*"):
                path.unlink()
    _wait(_start(place / "killed", arguments))
    same = _end(place / "unbroken") == _end(place / "killed")
    return Outcome(" ".join(configuration), done, in_writing, same)


def _start(runs_dir: Path, arguments: tuple[str, ...], slow_writing: bool = False) -> int:
    """Train in a child of this process: it has everything imported, and starts at once."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if slow_writing:  # so that some kills fall into it
            fsync = os.fsync
            files.os.fsync = lambda descriptor: (fsync(descriptor), time.sleep(0.01))
        GlobalHydra.instance().clear()
        sys.argv = ["sparse_train", f"runs_dir={runs_dir}", *arguments]
        try:
            main()
        finally:
            os._exit(0)
    return pid


def _wait(pid: int) -> None:
    os.waitpid(pid, 0)


def _ended(pid: int) -> bool:
    """Without collecting it: its number is not given to another process meanwhile."""
    state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return state is not None


def _writing(runs_dir: Path) -> bool:
    return any(path.name.startswith(".checkpoint.pt") for path in runs_dir.glob("*/.*.tmp"))


def _end(runs_dir: Path) -> list:
    """Everything a run ends with, times aside, in a form that compares bitwise."""
    directory = only(runs_dir)
    exported = [(directory / name).read_bytes() for name in ("model.safetensors", "masks.safetensors")]
    return [record(directory)["status"], history(directory), list(_bits(final_state(directory))), exported]


def _bits(value: object) -> Iterator[tuple]:
    if isinstance(value, torch.Tensor):
        yield tuple(value.shape), str(value.dtype), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (str(key),)
            yield from _bits(item)


def report(outcomes: list[Outcome], seconds: float) -> str:
    lines = [f"| {o.name} | {o.kills} | {o.in_writing} | {'yes' if o.same else '**NO**'} |" for o in outcomes]
    kills, writing = sum(o.kills for o in outcomes), sum(o.in_writing for o in outcomes)
    return "\n".join(
        [
            "# Reliability\n",
            f"{kills} SIGKILLs at random moments, {writing} of them while a checkpoint was being written, over",
            f"{len(outcomes)} runs, each started again until its end ({seconds:.0f} s; `make chaos`). Equal means:",
            "every tensor of weights, momentum and masks, the exported files, and every line of history, times aside,",
            "to the bit.\n",
            "| configuration | kills | in writing | equal to the unbroken run |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=64, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    random_draw, start, found = random.Random(options.seed), time.monotonic(), []
    for chosen in CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as place:
            found.append(chaos(chosen, -(-options.kills // len(CONFIGURATIONS)), Path(place), random_draw))
            print(found[-1], flush=True)
    if options.report:
        options.report.write_text(report(found, time.monotonic() - start))
    sys.exit(not all(outcome.same for outcome in found))
