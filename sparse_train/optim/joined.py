"""Many tensors side by side in one vector: what is done to every element is then one operation, not one for each."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Joined:
    """Room for tensors like the given ones; 0 at first.

    Attributes:
        vectors: one for each device and dtype, so one for most models.
        parts: a view for each tensor, of its shape and memory layout, in the order given.
    """

    def __init__(self, like: Sequence[Tensor]):
        kinds: dict[tuple, list[int]] = {}
        for place, tensor in enumerate(like):
            kinds.setdefault((tensor.device, tensor.dtype), []).append(place)
        self.vectors: list[Tensor] = []
        parts: dict[int, Tensor] = {}
        for places in kinds.values():
            sizes = [like[place].numel() for place in places]
            self.vectors.append(like[places[0]].new_zeros(sum(sizes)))
            for place, piece in zip(places, self.vectors[-1].split(sizes), strict=True):
                parts[place] = piece.as_strided(like[place].shape, torch.empty_like(like[place]).stride())
        self.parts = [parts[place] for place in range(len(like))]

    def copy_(self, tensors: Sequence[Tensor]) -> "Joined":
        """Take over the values of tensors of these shapes."""
        if self.parts:
            torch._foreach_copy_(self.parts, list(tensors))
        return self

    def mul_(self, other: "Joined") -> "Joined":
        for vector, factor in zip(self.vectors, other.vectors, strict=True):
            vector.mul_(factor)
        return self
