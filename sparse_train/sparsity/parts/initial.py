"""The masks that a run begins with."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.sparsity.masks import random_mask


def random(shape: tuple[int, ...], count: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Uniformly random, with exactly `count` weights."""
    return random_mask(shape, count, generator), count


def constant_fan_in(shape: tuple[int, ...], count: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """`count // neurons` weights at random places of every neuron, so up to one per neuron fewer than asked for."""
    neurons, fan_in = shape[0], count // shape[0]
    require(fan_in > 0, "topology.initial", "constant_fan_in", f"{count} weights are too few for {neurons} neurons")
    order = torch.rand(neurons, torch.Size(shape[1:]).numel(), generator=generator).argsort(1)
    return (order < fan_in).view(shape), fan_in * neurons


def dense(shape: tuple[int, ...], count: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Every weight: for methods that prune while they train."""
    return torch.ones(shape, dtype=torch.bool), torch.Size(shape).numel()


INITIAL: dict[str, Callable[[tuple[int, ...], int, torch.Generator], tuple[Tensor, int]]] = {
    "random": random,
    "constant_fan_in": constant_fan_in,
    "dense": dense,
}
