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
        self.steps = 0
        self._clipped: Tensor | None = None

    @torch.no_grad()
    def factor(self, grads: Sequence[Tensor]) -> Tensor:
        """The number that brings these gradients to a norm of at most `max_norm`; no host synchronisation."""
        excess = get_total_norm(grads) / self.max_norm
        clipped = excess > 1
        self.steps += 1
        self._clipped = clipped.long() if self._clipped is None else self._clipped + clipped
        return 1 / excess.clamp(min=1)

    def pop_clipped_share(self) -> float | None:
        """Share of the steps in which the norm was bounded, None without steps; counting starts again."""
        share = int(self._clipped) / self.steps if self.steps else None
        self.steps, self._clipped = 0, None
        return share

    def state_dict(self) -> dict:
        """The counts since the last `pop_clipped_share`."""
        return {"steps": self.steps, "clipped": self._clipped}

    def load_state_dict(self, state: dict) -> None:
        self.steps, self._clipped = state["steps"], state["clipped"]
