"""Gradient renormalization (Appendix F): keep the direction, bound the norm."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from sparse_train.errors import require, require_one_of


class Renorm:
    """The renormalization slot of `SparseSGD`: all gradients times `1 / max(||g||_2 / max_norm, 1)`.

    With `max_norm = 1` this is Appendix F's 1 / max(||g||_2, 1). The norm is taken over all parameters together, after
    the SparseOpt correction. Below `max_norm` it changes nothing, to the bit.

    Args:
        max_norm: the largest norm left alone.
        over: "dense", the norm of the dense gradients (masked afterwards), or "masked", that of the gradients of
            existing weights alone.
    """

    def __init__(self, max_norm: float = 1.0, over: str = "dense"):
        require(max_norm > 0, "max_norm", max_norm, "must be above 0")
        require_one_of("over", over, ("dense", "masked"))
        self.max_norm, self.over = max_norm, over
        self.counts: Tensor | None = None  # of steps, and of those whose norm was bounded; written in place

    @torch.no_grad()
    def factor(self, grads: Sequence[Tensor]) -> Tensor:
        """The number that brings these gradients to a norm of at most `max_norm`; no host synchronisation."""
        excess = get_total_norm(grads) / self.max_norm
        if self.counts is None:
            self.counts = torch.zeros(2, dtype=torch.int64, device=excess.device)
        self.counts += torch.stack([torch.ones_like(excess), excess > 1]).long()
        return 1 / excess.clamp(min=1)

    def pop_clipped_share(self) -> float | None:
        """Share of the steps in which the norm was bounded, None without steps; counting starts again."""
        steps, clipped = (0, 0) if self.counts is None else self.counts.tolist()
        if self.counts is not None:
            self.counts.zero_()
        return clipped / steps if steps else None

    def state_dict(self) -> dict:
        """The counts since the last `pop_clipped_share`."""
        return {"counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        self.counts = state["counts"]
