"""A parameter group as a step works on it."""

from collections.abc import Mapping, Sequence
from operator import is_

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sparse_train.optim.joined import Joined


class Group:
    """The weights (two or more dimensions) of a parameter group side by side, its other parameters one by one.

    A step on each tensor by itself is hundreds of operations, and in a small network these are what it costs. So the
    weights move into one storage, once, and an effect is one operation on one vector. A parameter stays the object it
    is, with its values and memory layout. Gradients are copied beside each other at every step.

    Args:
        params: parameters with a gradient.

    Attributes:
        weight, grad, momentum: those of the weights, `Joined`.
        mask, factor: what weights and gradients are multiplied by, `Joined`; see `set_factors`.
        active: for each vector the places where the mask is 1.
        others, other_grads: lists of tensors.
    """

    def __init__(self, params: Sequence[Tensor]):
        self.params = list(params)
        self.weights = [p for p in params if p.ndim > 1]
        self.others = [p for p in params if p.ndim <= 1]
        self.other_grads: list[Tensor] = []
        self.weight, self.grad, self.momentum = (Joined(self.weights) for _ in range(3))
        self.mask, self.factor = Joined(self.weights), Joined(self.weights)
        self.active: list[Tensor] = []
        self.weight.copy_(self.weights)
        for p, part in zip(self.weights, self.weight.parts, strict=True):
            p.data = part
        self.home = [p.data_ptr() for p in self.weights]

    def holds(self, params: Sequence[Tensor]) -> bool:
        """Whether it is of these parameters, and they are still here: a model that moves takes its weights along."""
        same = len(params) == len(self.params) and all(map(is_, params, self.params))
        return same and [p.data_ptr() for p in self.weights] == self.home

    def set_factors(self, masks: Mapping[Tensor, Tensor], scales: Mapping[Tensor, Tensor], masked: bool) -> None:
        """Take over masks and scales, given by weight; a weight without has 1. Waits for the device.

        Args:
            masked: `factor` is scale * mask; else the scale alone.
        """
        for joined, given in ((self.mask, masks), (self.factor, scales)):
            joined.copy_([given.get(p, p.new_ones(())).expand_as(p) for p in self.weights])
        if masked:
            self.factor.mul_(self.mask)
        self.active = [mask.nonzero().squeeze(1) for mask in self.mask.vectors]

    def read_grads(self) -> None:
        """Copy the weights' gradients here; `p.grad` is only read."""
        self.grad.copy_([p.grad for p in self.weights])
        self.other_grads = [p.grad for p in self.others]

    def grads(self) -> list[Tensor]:
        """The gradients of all parameters, in the order of `params`."""
        weights, others = iter(self.grad.parts), iter(self.other_grads)
        return [next(weights if p.ndim > 1 else others) for p in self.params]

    def scale_grads(self, factor: Tensor) -> None:
        """Multiply the gradients of all parameters by one number."""
        for vector in self.grad.vectors:
            vector.mul_(factor)
        if self.others:
            self.other_grads = list(torch._foreach_mul(self.other_grads, factor))

    def written(self) -> None:
        """Tell autograd that the weights have changed, as operations on the parameters themselves would."""
        increment_version(self.weights)
