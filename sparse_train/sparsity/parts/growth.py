"""Scores: which weights are grown, and which are dropped.

A growth score maps (weight, dense gradient, generator) of one layer to a tensor of the weight's shape; the inactive
positions with the largest scores are grown. A drop score maps (weight, gradient); the active weights with the smallest
are dropped. What else a method may choose is in `parts/`.
"""

from typing import Protocol

import torch
from torch import Tensor


class GrowthScore(Protocol):
    """A growth score, as `Updater` calls it."""

    needs_gradient: bool  # whether the dense gradient is looked at, which costs FLOPs

    def __call__(self, weight: Tensor, grad: Tensor, generator: torch.Generator) -> Tensor: ...


class DropScore(Protocol):
    """A drop score, as `Updater` calls it."""

    def __call__(self, weight: Tensor, grad: Tensor) -> Tensor: ...


class Magnitude:
    """|w|, as almost everywhere."""

    def __call__(self, weight: Tensor, grad: Tensor) -> Tensor:
        return weight.abs()


class RigL:
    """RigL (Evci et al. 2020, Algorithm 1): |dL/dw| of the dense gradient."""

    needs_gradient = True

    def __call__(self, weight: Tensor, grad: Tensor, generator: torch.Generator) -> Tensor:
        return grad.abs()


class SET:
    """SET (Mocanu et al. 2018): uniformly random."""

    needs_gradient = False

    def __call__(self, weight: Tensor, grad: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(weight.shape, generator=generator).to(weight.device)
