"""SGD, SparseOpt, HAM and their combinations: one optimizer, one order of effects."""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from sparse_train.optim.equal_angle import EqualAngle
from sparse_train.optim.group import Group
from sparse_train.optim.ham import HAM
from sparse_train.optim.renorm import Renorm
from sparse_train.optim.sparseopt import SparseOpt
from sparse_train.sparsity.topology import Topology


class SparseSGD(torch.optim.SGD):
    """`torch.optim.SGD` for weights with a topology, with three slots around its step.

    A step, top to bottom:

        g <- precondition(g)      SparseOpt: each neuron's gradient by Eq. 12; or EqualAngle
        g <- renormalize(g)       Appendix F, the norm over dense or masked gradients
        g <- g * mask             gradients of weights that do not exist
        w <- SGD(w, g)            momentum, weight decay, Nesterov, as torch has them
        w <- mirror(w, g)         HAM's multiplicative step
        w <- w * mask

    An empty slot does nothing: with none of them it is SGD on the existing weights. `p.grad` is only read: it is the
    dense gradient before the step and after it. Momentum is 0 off the mask. The first step moves the weights into one
    storage (`Group`), so that a step is a few operations whatever the number of layers, and waits for no device.

        topology = Topology(model, sparsity=0.9)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, precondition=SparseOpt())

    It is a real optimizer: parameter groups, LR schedulers, `state_dict` and `GradScaler` work. The masks are in its
    state.

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
        precondition: SparseOpt | EqualAngle | None = None,
        renorm: Renorm | None = None,
        mirror: HAM | None = None,
    ):
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        self.topology, self.precondition, self.renorm, self.mirror = topology, precondition, renorm, mirror
        self._names = {weight: name for name, weight in topology.weights.items()}
        self._corrections: tuple[tuple, dict[str, Tensor]] = ((), {})
        self._groups: list[Group] = []
        self._factors_of: tuple | None = None
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
        self.topology.require_agreement()
        groups = self._read()
        self._precondition(groups)
        if self.renorm is not None:
            self._renormalize(groups)
        if self._norm_is_dense:
            self._mask(groups)
        for group, options in zip(groups, self.param_groups, strict=True):
            self._descend(group, options)
            self._mirror(group, options["lr"])
            group.weight.mul_(group.mask)
            group.written()
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

    def state_dict(self) -> dict:
        """As torch's, with the topology's under `topology`: model and optimizer are then all that a restart needs."""
        return {**super().state_dict(), "topology": self.topology.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's, and the masks. Weights stay; the next step raises where masks would take any (`Topology`).

        Momentum off the mask, which another optimizer may have left, becomes 0 here, and stays there.
        """
        self.topology.restore(state_dict.get("topology"))
        super().load_state_dict(deepcopy({key: value for key, value in state_dict.items() if key != "topology"}))
        self.mask_momentum()

    def __getstate__(self) -> dict:
        """Copies and pickles keep topology and slots; what a step works on is made anew."""
        return {**self.__dict__, **super().__getstate__(), "_groups": []}

    @property
    def _norm_is_dense(self) -> bool:
        return self.renorm is not None and self.renorm.over == "dense"

    def _read(self) -> list[Group]:
        """The gradients of now, by parameter group, with masks and scales that are made anew only when masks change."""
        params = [[p for p in options["params"] if p.grad is not None] for options in self.param_groups]
        if len(self._groups) != len(params) or not all(map(Group.holds, self._groups, params)):
            self._groups, self._factors_of = [Group(p) for p in params], None
            self.topology.follow()
        made_of = (self.topology.version, self.precondition, self._norm_is_dense)
        if self._factors_of != made_of:
            weights = self.topology.weights
            masks = {weights[name]: mask for name, mask in self.topology.masks.items()}
            scales = {weights[name]: scale for name, scale in self.corrections().items()}
            for group in self._groups:
                group.set_factors(masks, scales, masked=not self._norm_is_dense)
            self._factors_of = made_of
        for group in self._groups:
            group.read_grads()
        return self._groups

    def _precondition(self, groups: list[Group]) -> None:
        """The correction, and the mask with it unless the norm that comes between them is that of dense gradients."""
        for group in groups:
            group.grad.mul_(group.factor)
            if isinstance(self.precondition, EqualAngle):
                for weight, grad, mask in zip(group.weights, group.grad.parts, group.mask.parts, strict=True):
                    if self._names.get(weight) in self.topology.normalized:
                        self.precondition.turn(weight, grad, mask)

    def _renormalize(self, groups: list[Group]) -> None:
        if grads := [grad for group in groups for grad in group.grads()]:
            factor = self.renorm.factor(grads)
            for group in groups:
                group.scale_grads(factor)

    def _mask(self, groups: list[Group]) -> None:
        for group in groups:
            group.grad.mul_(group.mask)

    def _descend(self, group: Group, options: dict) -> None:
        """torch's own SGD, on the gradients given instead of `p.grad`."""
        params = group.weight.vectors + group.others
        sgd(
            params,
            self._with_scaled_decay(group, options["weight_decay"]) + group.other_grads,
            self._momentum(group) if options["momentum"] else [None] * len(params),
            fused=True,
            weight_decay=options["weight_decay"],
            momentum=options["momentum"],
            lr=options["lr"],
            dampening=options["dampening"],
            nesterov=options["nesterov"],
            maximize=options["maximize"],
        )

    def _momentum(self, group: Group) -> list[Tensor]:
        """The momentum buffers. They start at 0, which gives torch's first step: 0 * momentum + g."""
        for p, part in zip(group.weights, group.momentum.parts, strict=True):
            state = self.state[p]
            if (momentum := state.get("momentum_buffer")) is not part:
                part.zero_() if momentum is None else part.copy_(momentum)
                state["momentum_buffer"] = part
        for p in group.others:
            if self.state[p].get("momentum_buffer") is None:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return group.momentum.vectors + [self.state[p]["momentum_buffer"] for p in group.others]

    def _with_scaled_decay(self, group: Group, decay: float) -> list[Tensor]:
        """SGD adds `decay * w`; where decay is scaled too, that must be `decay * factor * w`: add the difference."""
        if self.precondition is None or not self.precondition.scale_decay:
            return group.grad.vectors
        vectors = zip(group.grad.vectors, group.factor.vectors, group.weight.vectors, strict=True)
        return [grad + decay * (factor - 1) * weight for grad, factor, weight in vectors]

    def _mirror(self, group: Group, lr: float | Tensor) -> None:
        """On the weights that exist: the others are 0, and stay it."""
        if self.mirror is None:
            return
        for weight, grad, active in zip(group.weight.vectors, group.grad.vectors, group.active, strict=True):
            existing = weight.index_select(0, active)
            self.mirror.reflect([existing], [grad.index_select(0, active)], lr)
            weight.scatter_(0, active, existing)
