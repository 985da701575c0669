"""SNFS, sparse momentum (Dettmers & Zettlemoyer 2019, arXiv 1907.04840, Section 3)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.sparsity.density import apportioned, whole
from sparse_train.sparsity.method import Layer
from sparse_train.sparsity.methods.rigl import RigL


class SNFS(RigL):
    """Grow by the momentum M, in layers in proportion to the mean of |M| over their weights before the update.

    Each layer drops `floor(f_t n)` of its n weights, and grows a share of all that were dropped. What a full layer has
    no room for goes to the others. The total number of weights stays.

    M <- beta M + (1 - beta) g at every step, from 0: the dense momentum, without weight decay. The optimizer's own is 0
    where weights do not exist. A gradient that is not finite is left out, as a `GradScaler` leaves out its step.
    """

    keeps_counts, observed = False, math.inf

    def __init__(self, beta: float = 0.9):
        require(0 <= beta < 1, "beta", beta, "must be in [0, 1): the share of the momentum that a step keeps")
        self.beta, self.momentum = beta, {}

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        for name, grad in gradients.items():
            before = self.momentum.get(name, torch.zeros_like(grad)).to(grad)  # loaded, it may be on another device
            self.momentum[name] = torch.where(grad.isfinite().all(), before.lerp(grad, 1 - self.beta), before)

    def seen(self, layer: Layer) -> Layer:
        return layer.averaged(self.momentum.get(layer.name))

    def counts(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        dropped = {name: whole(layer.fraction * layer.count) for name, layer in layers.items()}
        means = torch.stack(
            [(layer.gradient.abs() * layer.mask).sum() / max(layer.count, 1) for layer in layers.values()]
        ).tolist()
        room = {name: layer.mask.numel() - layer.count + dropped[name] for name, layer in layers.items()}
        grown = apportioned(sum(dropped.values()), dict(zip(layers, means, strict=True)), room)
        return {name: (dropped[name], grown[name]) for name in layers}

    def state_dict(self) -> dict:
        return {"momentum": self.momentum}

    def load_state_dict(self, state: dict) -> None:
        self.momentum = dict(state["momentum"])
