"""What the peers answered, kept small: tests compare our code with it where no peer is."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from parity.updates import Update, pack, unpack


class Traces(NamedTuple):
    """Answers of peers to `ours.trace()` and `ours.steps()`.

    Attributes:
        sums: of |weight| and |gradient| of each update, by which its inputs are known again.
        masks: case -> the mask after each update.
        ham: the weights after HAM's steps.
    """

    sums: np.ndarray
    masks: dict[str, list[np.ndarray]]
    ham: np.ndarray


def sums(updates: list[Update]) -> np.ndarray:
    return np.array([[np.abs(array).sum(dtype=np.float64) for array in update[:2]] for update in updates])


def write(path: Path, updates: list[Update], masks: dict[str, list[np.ndarray]], ham: np.ndarray) -> None:
    """Masks as the bits that differ from those of the case before, the first from the masks before the update."""
    before, bits = pack(update.mask for update in updates), {}
    for case, answered in masks.items():
        packed = pack(answered)
        bits[f"masks.{case}"], before = packed ^ before, packed
    np.savez_compressed(path, sums=sums(updates), ham=ham, **bits)


def read(path: Path, updates: list[Update]) -> Traces:
    """Of these updates, whose masks are where the bits begin."""
    before, masks = pack(update.mask for update in updates), {}
    with np.load(path) as file:
        for name in file.files:
            if name.startswith("masks."):
                before = before ^ file[name]
                masks[name.removeprefix("masks.")] = unpack(before, updates)
        return Traces(file["sums"], masks, file["ham"])
