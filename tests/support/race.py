"""Eight processes find the lock of a dead one at the same moment: one of them gets it.

PYTHONPATH=tests python -m support.race --rounds 2000
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sparse_train.errors import HeldError
from sparse_train.record.lock import Lock

PROCESSES = 8
CALLS = ("open", "link", "replace", "unlink")  # a process may be held up before each of these
DEATHS = {"a dead holder": (), "a dead holder, and a process that died while it took over": ("replace",)}


@dataclass
class Result:
    """What came of so many rounds.

    Attributes:
        holders: how many processes got the lock -> in how many rounds.
        left: rounds after which something lay beside the lock, or in its place once it was given back.
    """

    name: str
    rounds: int
    holders: dict[int, int]
    left: int

    @property
    def good(self) -> bool:
        return self.holders == {1: self.rounds} and self.left == 0


def race(name: str, rounds: int, place: Path, processes: int = PROCESSES) -> Result:
    """So many rounds, each in a directory of its own."""
    context = multiprocessing.get_context("fork")
    barrier, got = context.Barrier(processes + 1), context.Array("i", processes)
    runners = [
        context.Process(target=_run, args=(i, rounds, place, barrier, got), daemon=True) for i in range(processes)
    ]
    for runner in runners:
        runner.start()
    result = Result(name, rounds, {}, 0)
    for number in range(rounds):
        directory = place / str(number)
        directory.mkdir()
        _die(directory / "lock")
        for call in DEATHS[name]:
            _die(directory / "lock", at=call)
        barrier.wait(60)  # they go
        barrier.wait(60)  # they have it or not
        holders = sum(got)
        result.holders[holders] = result.holders.get(holders, 0) + 1
        left = os.listdir(directory) != ["lock"]
        barrier.wait(60)  # they give it back
        barrier.wait(60)
        result.left += left or os.listdir(directory) != []
    for runner in runners:
        runner.join()
    return result


def _run(index: int, rounds: int, place: Path, barrier, got) -> None:
    _hold_up(random.Random(index))
    for number in range(rounds):
        lock = Lock(place / str(number) / "lock")
        barrier.wait(60)
        try:
            lock.acquire()
            got[index] = 1
        except HeldError:
            got[index] = 0
        barrier.wait(60)
        barrier.wait(60)
        lock.release()
        barrier.wait(60)


def _hold_up(draw: random.Random) -> None:
    """Let other processes run at moments that would be rare."""

    def held_up(call):
        def wrapped(*args, **kwargs):
            if draw.random() < 0.3:
                time.sleep(draw.random() * 1e-3)
            return call(*args, **kwargs)

        return wrapped

    for name in CALLS:
        setattr(os, name, held_up(getattr(os, name)))


def _die(path: Path, at: str | None = None) -> None:
    """In a child, take the lock and end without giving it back; or end at the first call of that name."""
    pid = os.fork()
    if pid == 0:
        if at is not None:
            setattr(os, at, lambda *_, **__: os._exit(0))
        with contextlib.suppress(HeldError):
            Lock(path).acquire()
        os._exit(0)
    os.waitpid(pid, 0)


def report(results: list[Result]) -> str:
    """As a section of `results/reliability.md`."""
    lines = [f"| {one.name} | {one.rounds:,} | {_words(one.holders)} | {one.left} |" for one in results]
    return "\n".join(
        [
            "## A race for a dead lock\n",
            f"{PROCESSES} processes find the same lock at the same moment, each held up at random between its steps.",
            "Good means one holder in each round, and nothing left beside the lock or after it.\n",
            "| found | rounds | holders | rounds that left something |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )


def _words(holders: dict[int, int]) -> str:
    if set(holders) == {1}:
        return "one each time"
    return "**" + ", ".join(f"{count} in {rounds:,}" for count, rounds in sorted(holders.items())) + "**"


def run(rounds: int) -> list[Result]:
    results = []
    for name in DEATHS:
        with tempfile.TemporaryDirectory() as place:
            results.append(race(name, rounds, Path(place)))
            print(results[-1], flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2000)
    found = run(parser.parse_args().rounds)
    sys.exit(not all(one.good for one in found))
