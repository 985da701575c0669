"""SGD, SparseOpt, HAM and their combinations: one optimizer, one order of effects."""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from sparse_train.optim.ham import HAM
from sparse_train.optim.renorm import Renorm
from sparse_train.optim.sparseopt import SparseOpt
from sparse_train.sparsity.topology import Topology

Grads = dict[Tensor, Tensor]  # parameter -> gradient


class SparseSGD(torch.optim.SGD):
    """`torch.optim.SGD` for weights with a topology, with three slots around its step.

    A step, top to bottom:

        g <- precondition(g)      SparseOpt: each neuron's gradient by Eq. 12
        g <- renormalize(g)       Appendix F, the norm over dense or masked gradients
        g <- g * mask             gradients of weights that do not exist
        w <- SGD(w, g)            momentum, weight decay, Nesterov, as torch has them
        w <- mirror(w, g)         HAM's multiplicative step
        w <- w * mask

    An empty slot does nothing: with none of them it is SGD on the existing weights. `p.grad` is only read: it is the
    dense gradient before the step and after it. Momentum is 0 off the mask.

        topology = Topology(model, sparsity=0.9)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, precondition=SparseOpt())

    It is a real optimizer: parameter groups, LR schedulers, `state_dict` and `GradScaler` work. The masks are the
    topology's own state, saved beside the optimizer's; load the model's, the topology's, then the optimizer's.

    Args:
        params, lr, momentum, weight_decay, nesterov: as in `torch.optim.SGD`.
        topology: the masks of the weights among `params`; parameters it does not know are dense.
        precondition, renorm, mirror: the slots.
    """

    def __init__(
        self,
        params: Iterable,
        topology: Topology,
        lr: float | Tensor,
        momentum: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        precondition: SparseOpt | None = None,
        renorm: Renorm | None = None,
        mirror: HAM | None = None,
    ):
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        self.topology, self.precondition, self.renorm, self.mirror = topology, precondition, renorm, mirror
        self._names = {weight: name for name, weight in topology.weights.items()}
        self._corrections: tuple[tuple, dict[str, Tensor]] = ((), {})
        if not any(p in self._names for group in self.param_groups for p in group["params"]):
            raise ValueError("none of the parameters is a weight of the topology: was the model copied after it?")
        self.corrections()  # what cannot be corrected is said now

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step in the order above; returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.topology.follow()
        grads = {p: p.grad for group in self.param_groups for p in group["params"] if p.grad is not None}
        grads = self._precondition(grads)
        if self.renorm is not None and self.renorm.over == "dense":
            grads = self._renormalize(grads)
        grads = self._mask(grads)
        if self.renorm is not None and self.renorm.over == "masked":
            grads = self._renormalize(grads)
        self._descend(grads)
        self._mirror(grads)
        self.topology.apply()
        return loss

    def corrections(self) -> dict[str, Tensor]:
        """Weight name -> the precondition's factors in the weight's dtype, computed anew only when masks change."""
        if self.precondition is None:
            return {}
        made_for = (self.topology.version, self.precondition)
        if self._corrections[0] != made_for:
            scales = self.precondition.scales(self.topology)
            factors = {name: scale.to(self.topology.weights[name].dtype) for name, scale in scales.items()}
            self._corrections = (made_for, factors)
        return self._corrections[1]

    @torch.no_grad()
    def mask_momentum(self) -> None:
        """Zero the momentum of weights that do not exist; to be called after the masks have changed."""
        for name, weight in self.topology.weights.items():
            if (momentum := self.state.get(weight, {}).get("momentum_buffer")) is not None:
                momentum.mul_(self.topology.masks[name])

    @torch.no_grad()
    def multiply(self, weight: Tensor, factor: Tensor) -> None:
        """Multiply a weight and its momentum."""
        weight.mul_(factor)
        if (momentum := self.state.get(weight, {}).get("momentum_buffer")) is not None:
            momentum.mul_(factor)

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's; momentum off the mask, which another optimizer may have left, becomes 0 here, and stays there."""
        super().load_state_dict(deepcopy(state_dict))
        self.mask_momentum()

    def __getstate__(self) -> dict:
        """Copies and pickles keep topology and slots."""
        return {**self.__dict__, **super().__getstate__()}

    def _precondition(self, grads: Grads) -> Grads:
        factors = self.corrections()
        return {p: g * factors[n] if (n := self._names.get(p)) in factors else g for p, g in grads.items()}

    def _renormalize(self, grads: Grads) -> Grads:
        return dict(zip(grads, self.renorm.scale(list(grads.values())), strict=True))

    def _mask(self, grads: Grads) -> Grads:
        masks = self.topology.masks
        return {p: g * masks[n] if (n := self._names.get(p)) in masks else g for p, g in grads.items()}

    def _descend(self, grads: Grads) -> None:
        """torch's own SGD, on the gradients given instead of `p.grad`."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p in grads]
            sgd(
                params,
                [_laid_out_like(p, self._with_scaled_decay(p, grads[p], group["weight_decay"])) for p in params],
                [self._momentum(p) for p in params] if group["momentum"] else [None] * len(params),
                fused=True,
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )

    def _momentum(self, p: Tensor) -> Tensor:
        """The momentum buffer. It starts at 0, which gives torch's first step: 0 * momentum + g."""
        state = self.state[p]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(p)
        state["momentum_buffer"] = _laid_out_like(p, state["momentum_buffer"])
        return state["momentum_buffer"]

    def _with_scaled_decay(self, p: Tensor, grad: Tensor, decay: float) -> Tensor:
        """SGD adds `decay * w`; where decay is scaled too, that must be `decay * factor * w`: add the difference."""
        if self.precondition is None or not self.precondition.scale_decay:
            return grad
        factor = self.corrections().get(self._names.get(p))
        return grad if factor is None else grad + decay * (factor - 1) * p

    def _mirror(self, grads: Grads) -> None:
        if self.mirror is not None:
            for group in self.param_groups:
                weights = [p for p in group["params"] if p in grads]
                self.mirror.reflect(weights, [grads[p] for p in weights], group["lr"])


def _laid_out_like(p: Tensor, other: Tensor) -> Tensor:
    """`other` in the memory layout of `p`: torch's fused kernel reads all its tensors in the order of memory."""
    return other if other.stride() == p.stride() else torch.empty_like(p).copy_(other)
