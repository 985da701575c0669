"""Parameters as a step works on them."""

from collections.abc import Iterator, Mapping, Sequence
from operator import is_

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sparse_train.optim.existing import Existing

CACHED, LARGE = 2**19, 2**26  # weights of a group: on a CPU their gradients stay in the cache


class Group:
    """The weights (two or more dimensions) of a stretch of parameters, and the others, as lists.

    A step on each tensor by itself is hundreds of calls from Python, and in a small network these are what it costs.
    So an effect is one operation on a list. Parameters keep their storage, and `p.grad` is only read.

    Args:
        params: parameters with a gradient, the weights of one device and dtype.

    Attributes:
        weights, others: the parameters; `params` has them in the order given.
        factors: for each weight what its gradient is multiplied by, scale * mask, in the weight's memory layout.
        scales: the scale alone, of as many elements as it needs.
        momentum: of weights and others, as found or made at the last step.
    """

    def __init__(self, params: Sequence[Tensor]):
        self.params = list(params)
        self.weights = [p for p in params if p.ndim > 1]
        self.others = [p for p in params if p.ndim <= 1]
        self.factors = [torch.ones_like(p) for p in self.weights]
        self.scales: list[Tensor] = []
        self.momentum: list[Tensor] = []
        self._masks: list[Tensor] = []
        self._count = 0
        self._existing: Existing | None = None
        self._home = [p.detach() for p in self.weights]  # keeps the storage, so that no other takes its address
        self._versions: list[int] = []

    def at_home(self) -> bool:
        """Whether the weights are still where they were: a model that moves takes them along."""
        return [p.data_ptr() for p in self._home] == [p.data_ptr() for p in self.weights]

    def written_by_others(self) -> bool:
        """Whether somebody has written to the weights since `written`, or it was never called."""
        return self._versions != [p._version for p in self.weights]

    def written(self) -> None:
        """Tell autograd that a step has changed the parameters, as operations on each would, and remember it."""
        increment_version(self.params)
        self._versions = [p._version for p in self.weights]

    def set_factors(
        self, masks: Mapping[Tensor, Tensor], scales: Mapping[Tensor, Tensor], counts: Mapping[Tensor, int]
    ) -> None:
        """Take over masks, scales and how many weights exist, by weight; one without has 1. Waits for no device."""
        ones = [p.new_ones(()) for p in self.weights]
        self.scales = [scales.get(p, one) for p, one in zip(self.weights, ones, strict=True)]
        self._masks = [masks.get(p, one.bool()).expand_as(p) for p, one in zip(self.weights, ones, strict=True)]
        self._count = sum(counts.get(p, p.numel()) for p in self.weights)
        self._existing = None
        if self.weights:
            torch._foreach_copy_(self.factors, self._masks)
            torch._foreach_mul_(self.factors, self.scales)

    def existing(self) -> Existing:
        """The weights that exist; there must be weights."""
        if self._existing is None:
            self._existing = Existing(self._home, self._masks, self._count)
        return self._existing

    def grads(self, factors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of the weights times `factors`, and those of the other parameters."""
        weights = list(torch._foreach_mul(factors, [p.grad for p in self.weights])) if self.weights else []
        return weights, [p.grad for p in self.others]

    def times(self, grads: tuple[list[Tensor], list[Tensor]], factor: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What `grads` gave times a number: in place for weights, whose products are ours."""
        weights, others = grads
        if weights:
            torch._foreach_mul_(weights, factor)
        return weights, list(torch._foreach_mul(others, factor)) if others else []

    def in_order(self, weights: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        """What belongs to weights and to others, in the order of `params`."""
        of_weights, of_others = iter(weights), iter(others)
        return [next(of_weights if p.ndim > 1 else of_others) for p in self.params]


def stretches(params: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """`params` in stretches with weights of one device and dtype: small ones together, a large one alone."""
    start, size, kind = 0, 0, None
    for place, p in enumerate(params):
        if p.ndim <= 1:
            continue
        limit = CACHED if p.device.type == "cpu" else LARGE
        if size and (size + p.numel() > limit or kind != (p.device, p.dtype)):
            yield params[start:place]
            start, size = place, 0
        size, kind = size + p.numel(), (p.device, p.dtype)
    if params:
        yield params[start:]


def identical(first: Sequence, second: Sequence) -> bool:
    """Whether two sequences hold the same objects."""
    return len(first) == len(second) and all(map(is_, first, second))
