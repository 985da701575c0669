"""DSR, dynamic sparse reparameterization (Mostafa & Wang 2019, arXiv 1902.05967, Section 3 and Algorithm 1)."""

import torch

from sparse_train.errors import require
from sparse_train.sparsity.parts.budget import Moment, Plan, apportioned


class DSR:
    """A budget: all weights with |w| < H are dropped, and a layer grows in proportion to the weights it has left.

    One threshold H serves all layers. It is doubled after an update that dropped fewer than `(1 - tolerance) f n` of
    the network's n weights, and halved after one that dropped more than `(1 + tolerance) f n`. A layer keeps one weight
    at least. The total number of weights stays, and growth is random, as SET's.

    Args:
        threshold: H at first.
        tolerance: in [0, 1).
    """

    keeps_counts, gradual, grows = False, False, True

    def __init__(self, threshold: float = 1e-3, tolerance: float = 0.1):
        require(threshold > 0, "threshold", threshold, "must be above 0: a magnitude below which weights are dropped")
        require(0 <= tolerance < 1, "tolerance", tolerance, "must be in [0, 1)")
        self.threshold, self.tolerance = threshold, tolerance

    def __call__(self, at: Moment) -> Plan:
        below = [((at.score(name) < self.threshold) & at.masks[name]).sum() for name in at.counts]
        below = torch.stack(below).tolist()
        dropped = {name: min(n, count - 1) for (name, count), n in zip(at.counts.items(), below, strict=True)}
        total, asked = sum(dropped.values()), at.fraction * sum(at.counts.values())
        if total < (1 - self.tolerance) * asked:
            self.threshold *= 2
        elif total > (1 + self.tolerance) * asked:
            self.threshold /= 2
        left = {name: count - dropped[name] for name, count in at.counts.items()}
        grown = apportioned(total, left, {name: at.masks[name].numel() - n for name, n in left.items()})
        return {name: (dropped[name], grown[name]) for name in at.counts}

    def state_dict(self) -> dict:
        return {"threshold": self.threshold}

    def load_state_dict(self, state: dict) -> None:
        self.threshold = state["threshold"]
