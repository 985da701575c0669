"""DSR, dynamic sparse reparameterization (Mostafa & Wang 2019, arXiv 1902.05967, Section 3 and Algorithm 1)."""

from collections.abc import Mapping

import torch

from sparse_train.errors import require
from sparse_train.sparsity.density import apportioned
from sparse_train.sparsity.method import Layer
from sparse_train.sparsity.methods.set import SET


class DSR(SET):
    """Drop all weights with |w| < H, and grow at random, in layers in proportion to the weights they have left.

    One threshold H serves all layers. It is doubled after an update that dropped fewer than `(1 - tolerance) f n` of
    the network's n weights, and halved after one that dropped more than `(1 + tolerance) f n`. A layer keeps one weight
    at least. The total number of weights stays.

    Args:
        threshold: H at first.
        tolerance: in [0, 1).
    """

    keeps_counts = False

    def __init__(self, threshold: float = 1e-3, tolerance: float = 0.1):
        require(threshold > 0, "threshold", threshold, "must be above 0: a magnitude below which weights are dropped")
        require(0 <= tolerance < 1, "tolerance", tolerance, "must be in [0, 1)")
        self.threshold, self.tolerance = threshold, tolerance

    def counts(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        below = [((layer.drop_score < self.threshold) & layer.mask).sum() for layer in layers.values()]
        below = dict(zip(layers, torch.stack(below).tolist(), strict=True))
        dropped = {name: min(below[name], layer.count - 1) for name, layer in layers.items()}
        fraction = next(iter(layers.values())).fraction  # of all the same
        total, asked = sum(dropped.values()), fraction * sum(layer.count for layer in layers.values())
        if total < (1 - self.tolerance) * asked:
            self.threshold *= 2
        elif total > (1 + self.tolerance) * asked:
            self.threshold /= 2
        left = {name: layer.count - dropped[name] for name, layer in layers.items()}
        grown = apportioned(total, left, {name: layer.mask.numel() - left[name] for name, layer in layers.items()})
        return {name: (dropped[name], grown[name]) for name in layers}

    def state_dict(self) -> dict:
        return {"threshold": self.threshold}

    def load_state_dict(self, state: dict) -> None:
        self.threshold = state["threshold"]
