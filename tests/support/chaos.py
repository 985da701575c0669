"""Strike a run at every system call that changes a file, start it again, and compare how it ends, bit by bit.

PYTHONPATH=tests python -m support.chaos --report results/reliability.md
"""

import argparse
import errno
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch._dynamo
from hydra.core.global_hydra import GlobalHydra

from sparse_train.__main__ import main
from sparse_train.record.files import read_json, read_json_lines
from support.runs import final_state, history, only, record

CALLS = ("fsync", "replace", "unlink")
FAULTS = {
    "killed": "the process ends there, with half of the file written if the call is fsync",
    "EIO": "that call fails, once",
    "ENOSPC": "that call and all later ones that need room fail",
}
RUN = ("epochs=2", "model.width=0.25", "update_every=3", "dst=set", "threads=1", "checkpoint_steps=3")


@dataclass
class Outcome:
    """What became of a run struck at so many of its calls, and started again each time.

    Attributes:
        unreadable, left, other: the calls after which a record or history could not be read, after which temporary
            files or a lock stayed when the run had gone on to its end, and after which that end was another one.
    """

    fault: str
    calls: int
    unreadable: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    other: list[int] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.unreadable or self.left or self.other)


def struck(fault: str, place: Path, only_at: Collection[int] | None = None) -> Outcome:
    """Strike a short run at every call, or at those given, counted from its beginning or (below 0) from its end."""
    unbroken, counted = place / "unbroken", place / "calls"
    count = Strike(unbroken, None, fault)
    train(unbroken, count.install, lambda: counted.write_text(str(count.calls)))
    calls, expected = int(counted.read_text()), end(unbroken)
    chosen = range(calls) if only_at is None else sorted({at % calls for at in only_at})
    result = Outcome(fault, len(chosen))
    for at in chosen:
        runs = place / f"{fault}-{at}"
        train(runs, Strike(runs, at, fault).install)
        if not readable(runs):
            result.unreadable.append(at)
        done = any(record(path.parent)["status"] == "complete" for path in runs.glob("*/record.json"))
        train(runs)
        if end(runs) != expected:
            result.other.append(at)
        strange = (".", "checkpoint.previous") if done else (".", "lock", "checkpoint.previous")
        if any(path.name.startswith(strange) for path in runs.glob("*/*")):
            result.left.append(at)
        shutil.rmtree(runs)
    return result


@dataclass
class Strike:
    """Counts the main thread's calls on files of a directory, and does its worst at one of them; at None, nowhere."""

    directory: Path
    at: int | None
    fault: str
    calls: int = 0

    def install(self) -> None:
        """For the rest of the process."""
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call):
        def wrapped(*args, **kwargs):
            path = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else os.fspath(args[-1])
            ours = threading.current_thread() is threading.main_thread()
            if ours and os.path.abspath(path).startswith(str(self.directory)):
                number, self.calls = self.calls, self.calls + 1
                if self.at is not None and number >= self.at:
                    self._act(name, args[0], number == self.at)
            return call(*args, **kwargs)

        return wrapped

    def _act(self, name: str, what: object, first: bool) -> None:
        if self.fault == "killed":
            if name == "fsync":
                os.truncate(what, os.fstat(what).st_size // 2)
            os._exit(1)
        if first or (self.fault == "ENOSPC" and name != "unlink"):
            code = getattr(errno, self.fault)
            raise OSError(code, os.strerror(code))


def train(runs_dir: Path, prepare: Callable = lambda: None, at_end: Callable = lambda: None) -> None:
    """In a child of this process: it has everything imported, and starts at once."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        prepare()
        GlobalHydra.instance().clear()
        sys.argv = ["sparse_train", f"runs_dir={runs_dir}", *RUN]
        try:
            main()
            at_end()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def readable(runs_dir: Path) -> bool:
    try:
        for path in runs_dir.glob("*/record.json"):
            read_json(path)
        for path in runs_dir.glob("*/history.jsonl"):
            read_json_lines(path)
    except ValueError:
        return False
    return True


def end(runs_dir: Path) -> list:
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


def page(outcomes: list[Outcome]) -> str:
    def at(calls: list[int]) -> str:
        return f"**after {', '.join(map(str, calls))}**" if calls else "never"

    rows = [
        f"| {one.fault}: {FAULTS[one.fault]} | {one.calls} | {at(one.unreadable)} | {at(one.left)} | {at(one.other)} |"
        for one in outcomes
    ]
    return "\n".join(
        [
            "# Reliability\n",
            "`make chaos` strikes a run of two epochs at each of its calls of fsync, rename and unlink in turn, and",
            "gives the same command again. Required: its record and history can be read in between, it ends equal to",
            "the unbroken run (weights, momentum, masks, exported files, every line of history but times, to the bit),",
            "and no temporary file or lock is left. A run that was struck after it was complete may leave its lock",
            "file, which blocks nothing.\n",
            "| fault | calls | record unreadable | files left | ended otherwise |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path)
    report = parser.parse_args().report
    found = []
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as place:
            found.append(struck(fault, Path(place)))
            print(found[-1], flush=True)
    if report:
        report.write_text(page(found))
    sys.exit(not all(one.good for one in found))
