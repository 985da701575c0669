"""Runs every loop that is installed and writes results/trainers.md; exit status 1 if one differs from ours."""

import argparse
import sys
import tempfile
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from sparse_train.process.console import piped
from sparse_train.record.files import write_whole
from trainers.loops import LOOPS
from trainers.problem import Parts, reference

KINDS = ("SparseSGD", "AdamW")
LARGEST = 1e-5  # of a difference that is rounding
ABOUT = """\
Each trainer's own loop trains a small convolutional network with RigL at 80% sparsity for two epochs, in which
the masks change four times. Between the epochs the trainer saves a checkpoint in its own format; all objects
are then built anew and loaded from it. The masks are updated within `optimizer.step()` (`Updater.attach`).
SparseSGD has SparseOpt in its slot. The last columns compare weights and masks with our visible loop, which was not
interrupted. Clipping is off.
"""


@piped()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/trainers.md"))
    out, right, lines = parser.parse_args().out, True, []
    for name in LOOPS:
        for kind in KINDS:
            line, agrees = judged(name, kind)
            right &= agrees
            lines.append(line)
            print(line, flush=True)
    head = "| Trainer | version | optimizer | largest difference of a weight | masks |\n|---|---|---|---|---|"
    versions = f"`make trainers`, {date.today()}; torch {version('torch')}, on the CPU."
    write_whole(
        out, (f"# Other people's trainers\n\n{versions}\n\n{ABOUT}\n" + "\n".join([head, *lines]) + "\n").encode()
    )
    sys.exit(not right)


def judged(name: str, kind: str) -> tuple[str, bool]:
    """The line of one loop with one optimizer, and whether it agrees with ours."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return f"| {name} | not installed | {kind} | | |", False
    with tempfile.TemporaryDirectory() as directory:
        theirs = LOOPS[name](kind, Path(directory))
    difference, masks = compared(theirs, reference(kind))
    same = "the same" if masks else "others"
    return f"| {name} | {found} | {kind} | {difference:.1e} | {same} |", masks and difference <= LARGEST


def compared(theirs: Parts, ours: Parts) -> tuple[float, bool]:
    """The largest difference of a weight, and whether all masks agree."""
    pairs = zip(theirs.model.parameters(), ours.model.parameters(), strict=True)
    difference = max(float((a - b).abs().max().detach()) for a, b in pairs)
    return difference, all(torch.equal(mask, ours.topology.masks[name]) for name, mask in theirs.topology.masks.items())


if __name__ == "__main__":
    main()
