"""The existing weights packed into one vector, so that operations skip the masked ones."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Existing:
    """The existing weights of some tensors.

    Args:
        weights: of one device and dtype, without gaps in memory.
        masks: of their shapes.
        count: how many weights exist; known, so that nothing waits for the device to tell.
    """

    def __init__(self, weights: Sequence[Tensor], masks: Sequence[Tensor], count: int):
        self.weights = [_flat(weight) for weight in weights]
        self.sizes = [weight.numel() for weight in weights]
        like = [torch.empty_like(w, dtype=torch.bool).copy_(mask) for w, mask in zip(weights, masks, strict=True)]
        self.places = torch.nonzero_static(_joined([_flat(mask) for mask in like]), size=count).squeeze(1)

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """What tensors of the weights' memory layouts have where weights exist."""
        return _joined([_flat(tensor) for tensor in tensors]).index_select(0, self.places)

    def change(self, effect: Callable[[Tensor], None]) -> None:
        """Let `effect` change the vector of existing weights in place, and take over what it has become."""
        joined = _joined(self.weights)
        values = joined.index_select(0, self.places)
        effect(values)
        joined.scatter_(0, self.places, values)
        if len(self.weights) > 1:
            torch._foreach_copy_(self.weights, joined.split(self.sizes))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Vectors as one: a single one itself, of several a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _flat(tensor: Tensor) -> Tensor:
    """A view of the elements as they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))
