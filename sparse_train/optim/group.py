"""Parameters as a step works on them."""

from collections.abc import Iterator, Mapping, Sequence
from operator import is_

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sparse_train.optim.existing import Existing

CACHED, LARGE = 2**19, 2**26  # weights of a part: on a CPU they and their gradients stay in the cache


class Part:
    """What a step works on at a time: all parameters of a group, or some rows of its only weight.

    Args:
        group: whose lists are meant.
        rows: of the weight, or None for all of all weights.
        others: parameters of fewer than two dimensions that are stepped along with these.

    Attributes:
        weights: detached from autograd; `Group.mark_step` increments their version counters.
        factors, scales, masks, momentum: as in the group.
    """

    def __init__(self, group: "Group", rows: slice | None, others: Sequence[Tensor]):
        self.group, self.rows, self.others = group, rows, list(others)
        self.weights, self.factors = self.of(group.homes), self.of(group.factors)
        self.scales: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.momentum: list[Tensor] = []
        self._existing: Existing | None = None

    def of(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """This part's rows of tensors that belong to the group's weights; a scalar stays as it is."""
        return list(tensors) if self.rows is None else [t[self.rows] if t.ndim else t for t in tensors]

    def grads(self, factors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of the weights times `factors`, and those of the other parameters, without gaps in memory."""
        grads, others = self.of([p.grad for p in self.group.weights]), [p.grad.contiguous() for p in self.others]
        if self.group.large:
            return [torch.mul(factors[0], grads[0], out=self.group.scratch(self.weights[0]))], others
        return list(torch._foreach_mul(factors, grads)) if grads else [], others

    def times(self, grads: Sequence[Tensor], others: Sequence[Tensor], factor: Tensor) -> tuple[list, list]:
        """The results of `grads` times a number; in place for the weights' gradients, which are our own copies."""
        if grads:
            torch._foreach_mul_(grads, factor)
        return list(grads), list(torch._foreach_mul(others, factor)) if others else []

    def take_over(self) -> None:
        """The group's masks and scales have changed."""
        self.scales, self.masks, self._existing = self.of(self.group.scales), self.of(self.group.masks), None

    def existing(self) -> Existing:
        """The weights that exist; there must be weights."""
        if self._existing is None:
            count = self.group.count if self.rows is None else int(self.masks[0].sum())
            self._existing = Existing(self.weights, self.masks, count)
        return self._existing


class Group:
    """The weights (two or more dimensions) of a stretch of parameters, and the others, as lists.

    A step per tensor takes hundreds of Python calls, which dominate the cost in a small network. So each effect is one
    operation on a list. In a large network memory traffic dominates. There all effects process a block of rows before
    the next block, so its weights stay in the cache. Parameters keep their storage, and
    `p.grad` is only read.

    Args:
        params: parameters with a gradient, of one device and dtype.
        scratch: dtype -> buffer for a large weight's masked gradient, shared by all groups. Allocating it at every step
            can cost more than the step itself, because the allocator may return it to the system each time.

    Attributes:
        weights, others: the parameters; `params` has them in the order given.
        homes: the weights without autograd. They keep the storage, so that no other takes its address.
        factors: for each weight what its gradient is multiplied by, scale * mask, in the weight's memory layout.
        scales: the scale alone, of as many elements as it needs.
        masks, count: of the weights, and how many exist.
        momentum: of weights and others, as found or made at the last step.
        whole: all of it as one part, for its norm.
        large: whether it is one weight that does not fit the cache and whose rows are blocks of memory; on a CPU alone.
        parts: what a step takes one after the other; several if it is large.
    """

    def __init__(self, params: Sequence[Tensor], scratch: dict[torch.dtype, Tensor]):
        self.params, self._scratch = list(params), scratch
        self.weights = [p for p in params if p.ndim > 1]
        self.others = [p for p in params if p.ndim <= 1]
        self.homes = [p.detach() for p in self.weights]
        self.factors = [torch.ones_like(p) for p in self.homes]
        self.scales: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.count = 0
        self.momentum: list[Tensor] = []
        self.large = any(map(_is_large, self.weights))  # it is alone
        self.whole = Part(self, None, self.others)
        self.parts = list(self._rows()) if self.large else [self.whole]
        self._addresses = [p.data_ptr() for p in self.weights]
        self._versions: list[int] = []

    def _rows(self) -> Iterator[Part]:
        [weight] = self.weights
        rows = max(1, CACHED * len(weight) // weight.numel())
        for start in range(0, len(weight), rows):
            yield Part(self, slice(start, start + rows), () if start else self.others)

    def scratch(self, like: Tensor) -> Tensor:
        """Memory in the layout of a tensor, until the next part writes to it."""
        if like.dtype not in self._scratch or self._scratch[like.dtype].numel() < like.numel():
            self._scratch[like.dtype] = like.new_empty(like.numel())
        return self._scratch[like.dtype].as_strided(like.shape, like.stride())

    def same_storage(self) -> bool:
        """Whether the weights are still where they were: a model that moves takes them along."""
        return self._addresses == [p.data_ptr() for p in self.weights]

    def written_by_others(self) -> bool:
        """Whether somebody has written to the weights since `mark_step`, or it was never called."""
        return self._versions != [p._version for p in self.weights]

    def mark_step(self) -> None:
        """Tell autograd that a step has changed the parameters, as operations on each would, and remember it."""
        increment_version(self.params)
        self._versions = [p._version for p in self.weights]

    def set_factors(
        self, masks: Mapping[Tensor, Tensor], scales: Mapping[Tensor, Tensor], counts: Mapping[Tensor, int]
    ) -> None:
        """Take over masks, scales and counts by weight; a missing mask or scale counts as 1. Waits for no device."""
        ones = [p.new_ones(()) for p in self.weights]
        self.scales = [scales.get(p, one) for p, one in zip(self.weights, ones, strict=True)]
        self.masks = [masks.get(p, one.bool()).expand_as(p) for p, one in zip(self.weights, ones, strict=True)]
        self.count = sum(counts.get(p, p.numel()) for p in self.weights)
        if self.weights:
            torch._foreach_copy_(self.factors, self.masks)
            torch._foreach_mul_(self.factors, self.scales)
        for part in {self.whole, *self.parts}:
            part.take_over()

    def set_momentum(self, buffers: Sequence[Tensor]) -> None:
        """Take over the momentum of weights and others, in this order."""
        self.momentum = list(buffers)
        of_weights, of_others = self.momentum[: len(self.weights)], self.momentum[len(self.weights) :]
        for part in self.parts:
            part.momentum = part.of(of_weights) + (of_others if part.others else [])

    def in_order(self, weights: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        """What belongs to weights and to others, in the order of `params`."""
        of_weights, of_others = iter(weights), iter(others)
        return [next(of_weights if p.ndim > 1 else of_others) for p in self.params]


def stretches(params: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """`params` in stretches of one device and dtype: small weights together, a large one alone."""
    start, size, kind = 0, 0, None
    for place, p in enumerate(params):
        weights = p.numel() if p.ndim > 1 else 0
        full = size and weights and size + weights > _limit(p)
        if place > start and (full or kind != (p.device, p.dtype)):
            yield params[start:place]
            start, size = place, 0
        size, kind = size + weights, (p.device, p.dtype)
    if params:
        yield params[start:]


def _is_large(p: Tensor) -> bool:
    return p.device.type == "cpu" and p.numel() > CACHED and p.stride(0) == p[0].numel()


def _limit(p: Tensor) -> int:
    return CACHED if p.device.type == "cpu" else LARGE


def identical(first: Sequence, second: Sequence) -> bool:
    """Whether two sequences hold the same objects."""
    return len(first) == len(second) and all(map(is_, first, second))


def usable(params: list[Tensor], names: Mapping[Tensor, str]) -> list[Tensor]:
    """Return `params`; raise if one of them cannot be stepped."""
    for p in params:
        name = names.get(p, f"a parameter of shape {tuple(p.shape)}")
        if p.grad.layout != torch.strided:
            raise ValueError(f"the gradient of {name} is sparse: SparseSGD needs dense ones, from sparse=False")
        if torch.empty_like(p).stride() != p.stride():
            raise ValueError(f"{name} lies in memory with gaps: make it contiguous, by p.data.contiguous()")
    return params
