"""Growth scores: what tells one dynamic sparse training method from another.

A score maps (weight, dense gradient, generator) of one layer to a tensor of the weight's shape; the inactive positions
with the largest scores are grown. A new method is one more class here and one more file in `conf/dst/`.
"""

from typing import Protocol

import torch
from torch import Tensor


class GrowthScore(Protocol):
    """What `Updater` needs of a method."""

    needs_gradient: bool  # whether the dense gradient is looked at, which costs FLOPs

    def __call__(self, weight: Tensor, grad: Tensor, generator: torch.Generator) -> Tensor: ...


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
