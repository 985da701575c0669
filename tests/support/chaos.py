"""Kill runs at random moments and at every system call that changes a file, and compare how they end, bit by bit.

PYTHONPATH=tests python -m support.chaos --kills 60 --report results/reliability.md
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import sklearn.datasets  # noqa: F401  (a run imports this and dynamo late: so its children have them at once)
import torch
import torch._dynamo
from hydra.core.global_hydra import GlobalHydra

from sparse_train.__main__ import main
from sparse_train.record import files
from support import race
from support.injector import FAULTS, Injector
from support.runs import final_state, history, only, record

CONFIGURATIONS = [
    (f"dst={dst}", f"optimizer={optimizer}", f"amp={amp}")
    for dst, optimizer, amp in product(("rigl", "set"), ("sgd", "sparseopt_ham"), ("none", "bf16"))
]
SHORTEST = ("epochs=2", "model.width=0.25", "update_every=3", "dst=set", "threads=1", "checkpoint_steps=3")
SHORT = ("epochs=3", "model.width=0.25", "update_every=3", "renorm=unit", "threads=1", "checkpoint_steps=2")


@dataclass
class Outcome:
    """What became of one configuration: kills, how many of them fell into a write, and whether it ended the same."""

    name: str
    kills: int
    in_writing: int
    same: bool


@dataclass
class Injected:
    """What became of a run struck at so many of its calls, and started again each time.

    Attributes:
        unreadable, left, other: the calls after which a record or history could not be read, after which temporary
            files or a lock stayed when the run had gone on to its end, and after which that end was another one.
    """

    fault: str
    calls: int
    unreadable: list[int]
    left: list[int]
    other: list[int]

    @property
    def good(self) -> bool:
        return not (self.unreadable or self.left or self.other)


def injected(fault: str, place: Path, only_at: Collection[int] | None = None) -> Injected:
    """Strike a short run at every call, or at those given, counted from its beginning or (below 0) from its end."""
    unbroken, counted = place / "unbroken", place / "calls"
    counter = Injector(unbroken)
    _wait(_start(unbroken, SHORTEST, counter.install, lambda: counted.write_text(str(counter.calls))))
    calls, expected = int(counted.read_text()), _end(unbroken)
    chosen = range(calls) if only_at is None else sorted({at % calls for at in only_at})
    result = Injected(fault, len(chosen), [], [], [])
    for at in chosen:
        struck = place / f"{fault}-{at}"
        _wait(_start(struck, SHORTEST, Injector(struck, at, fault).install))
        said = [*struck.glob("*/record.json"), *struck.glob("*/history.jsonl")]
        if not all(map(_readable, said)):
            result.unreadable.append(at)
        done = any('"status": "complete"' in path.read_text() for path in said)
        _wait(_start(struck, SHORTEST))
        if _end(struck) != expected:
            result.other.append(at)
        strange = (".", "lock.", "checkpoint.previous") if done else (".", "lock", "checkpoint.previous")
        if any(path.name.startswith(strange) for path in struck.glob("*/*")):
            result.left.append(at)
        shutil.rmtree(struck)
    return result


def _readable(path: Path) -> bool:
    try:
        text = path.read_text()
        return all(map(json.loads, text.splitlines() if path.suffix == ".jsonl" else [text]))
    except ValueError:
        return False


def chaos(configuration: tuple[str, ...], kills: int, place: Path, draw: random.Random) -> Outcome:
    """One unbroken run, then one that is killed `kills` times and started again each time."""
    arguments = (*SHORT, *configuration)
    began = time.monotonic()
    _wait(_start(place / "unbroken", arguments))
    length = time.monotonic() - began
    done = in_writing = 0
    while done < kills:
        pid = _start(place / "killed", arguments, _write_slowly)
        moment, write = time.monotonic() + draw.uniform(0, length), draw.choice((None, draw.randint(1, 8)))
        before, seen = _writing(place / "killed"), set()
        while not _ended(pid) and (write is not None or time.monotonic() < moment):
            seen |= (now := _writing(place / "killed") - before)
            if now and len(seen) == write:
                break
            time.sleep(0.0005)
        writing = bool(_writing(place / "killed") - before)
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


def _start(
    runs_dir: Path, arguments: tuple[str, ...], prepare: Callable = lambda: None, at_end: Callable = lambda: None
) -> int:
    """Train in a child of this process: it has everything imported, and starts at once."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        prepare()
        GlobalHydra.instance().clear()
        sys.argv = ["sparse_train", f"runs_dir={runs_dir}", *arguments]
        try:
            main()
            at_end()
        finally:
            os._exit(0)
    return pid


def _write_slowly() -> None:
    """So that some kills fall into it."""
    fsync = os.fsync
    files.os.fsync = lambda descriptor: (fsync(descriptor), time.sleep(0.01))


def _wait(pid: int) -> None:
    os.waitpid(pid, 0)


def _ended(pid: int) -> bool:
    """Without collecting it: its number is not given to another process meanwhile."""
    state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return state is not None


def _writing(runs_dir: Path) -> set[Path]:
    """The temporary files of checkpoints; each write has one of its own."""
    return {path for path in runs_dir.glob("*/.*.tmp") if path.name.startswith(".checkpoint.pt")}


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


def report_kills(outcomes: list[Outcome], seconds: float) -> str:
    """As a section of `results/reliability.md`."""
    lines = [f"| {o.name} | {o.kills} | {o.in_writing} | {'yes' if o.same else '**NO**'} |" for o in outcomes]
    kills, writing = sum(o.kills for o in outcomes), sum(o.in_writing for o in outcomes)
    return "\n".join(
        [
            "## Kills at random moments\n",
            f"{kills} SIGKILLs at random moments, {writing} of them while a checkpoint was being written, over",
            f"{len(outcomes)} runs, each started again until its end ({seconds:.0f} s). Equal means:",
            "every tensor of weights, momentum and masks, the exported files, and every line of history, times aside,",
            "to the bit.\n",
            "| configuration | kills | in writing | equal to the unbroken run |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )


def report_strikes(strikes: list[Injected]) -> str:
    """Likewise."""
    return "\n".join(
        [
            "## Faults at every call\n",
            "A run of two epochs is struck at each of its calls of fsync, link, rename and unlink in turn, and the",
            "same command is given again. Good means: its record and history can be read in between, it ends equal to",
            "the unbroken run, to the bit, and no temporary file or lock is left. One exception is allowed: a complete",
            "run that was struck while it released its lock may leave that lock, which blocks nothing.\n",
            "| fault | calls | record unreadable | files left | ended otherwise |",
            "|---|---|---|---|---|",
            *map(_row, strikes),
            "",
        ]
    )


def _row(one: Injected) -> str:
    found = map(_at, (one.unreadable, one.left, one.other))
    return f"| {one.fault}: {FAULTS[one.fault]} | {one.calls} | {' | '.join(found)} |"


def page(before: str, sections: list[str]) -> str:
    """The page with these sections; others stay as they were."""
    kept = dict.fromkeys(("Kills at random moments", "Faults at every call", "A race for a dead lock"), "")
    for text in [*before.split("\n## ")[1:], *(section.removeprefix("## ") for section in sections)]:
        kept[text.partition("\n")[0]] = f"\n## {text.strip()}\n"
    return f"# Reliability\n\n`make chaos` disturbs runs and checks how they end.\n{''.join(kept.values())}"


def _at(calls: list[int]) -> str:
    return f"**after {', '.join(map(str, calls))}**" if calls else "never"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=64, help="in all; 0 for none")
    parser.add_argument("--rounds", type=int, default=2000, help="of the race for a dead lock; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    random_draw, found, struck = random.Random(options.seed), [], []
    races = race.run(options.rounds) if options.rounds else []
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as place:
            struck.append(injected(fault, Path(place)))
            print(struck[-1], flush=True)
    start = time.monotonic()
    for chosen in CONFIGURATIONS if options.kills else []:
        with tempfile.TemporaryDirectory() as place:
            found.append(chaos(chosen, -(-options.kills // len(CONFIGURATIONS)), Path(place), random_draw))
            print(found[-1], flush=True)
    if options.report:
        sections = [report_kills(found, time.monotonic() - start)] if found else []
        sections += [report_strikes(struck), *([race.report(races)] if races else [])]
        options.report.write_text(page(options.report.read_text() if options.report.exists() else "", sections))
    good = all(outcome.same for outcome in found) and all(one.good for one in [*struck, *races])
    sys.exit(not good)
