"""Mask updates as arrays: what each peer is given, and the masks it answers with. Every environment has numpy."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Update(NamedTuple):
    """One layer at one mask update.

    Attributes:
        weight, grad: float32, the weight masked already and the gradient dense.
        mask: before the update.
        fraction: f_t, the share of active weights to drop.
    """

    weight: np.ndarray
    grad: np.ndarray
    mask: np.ndarray
    fraction: np.ndarray


def torch_layer(weight: np.ndarray, grad: np.ndarray) -> Any:
    """A layer of torch, where there is torch, with copies of these as its weight and gradient."""
    import torch
    from torch import nn

    outputs, inputs, *kernel = weight.shape
    layer = nn.Conv2d(inputs, outputs, kernel, bias=False) if kernel else nn.Linear(inputs, outputs, bias=False)
    layer.weight.data.copy_(torch.from_numpy(weight))
    layer.weight.grad = torch.from_numpy(grad.copy())
    return layer


def save(path: Path, updates: Iterable[Update]) -> None:
    arrays = {f"{i}.{name}": array for i, u in enumerate(updates) for name, array in u._asdict().items()}
    np.savez(path, **arrays)


def load(path: Path) -> list[Update]:
    with np.load(path) as file:
        count = len(file.files) // len(Update._fields)
        return [Update(*(file[f"{i}.{name}"] for name in Update._fields)) for i in range(count)]


def pack(masks: Iterable[np.ndarray]) -> np.ndarray:
    """All masks, one after another, eight places in a byte."""
    return np.packbits(np.concatenate([mask.reshape(-1).astype(bool) for mask in masks]))


def unpack(bits: np.ndarray, updates: list[Update]) -> list[np.ndarray]:
    """The masks of `pack`, in the updates' shapes."""
    ends = np.cumsum([update.mask.size for update in updates])
    flat = np.unpackbits(bits, count=ends[-1]).astype(bool)
    parts = np.split(flat, ends[:-1])
    return [part.reshape(update.mask.shape) for part, update in zip(parts, updates, strict=True)]
