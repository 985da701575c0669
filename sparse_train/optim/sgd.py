"""SGD, SparseOpt, HAM and their combinations: one optimizer, one order of effects."""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.optim.equal_angle import EqualAngle
from sparse_train.optim.group import Group, Part, identical, stretches, usable
from sparse_train.optim.ham import HAM
from sparse_train.optim.renorm import Renorm
from sparse_train.optim.sparseopt import SparseOpt
from sparse_train.sparsity.foreign import KEY, mask_state, require_trains
from sparse_train.sparsity.topology import Topology

Grads = tuple[list[Tensor], list[Tensor]]  # of the weights, and of other parameters


class SparseSGD(torch.optim.SGD):
    """`torch.optim.SGD` for weights with a topology, with three slots around its step.

    A step, top to bottom:

        g <- precondition(g)      SparseOpt: each neuron's gradient by Eq. 12; or EqualAngle
        g <- renormalize(g)       Appendix F, the norm over dense or masked gradients
        g <- g * mask             gradients of weights that do not exist
        w <- SGD(w, g)            momentum, weight decay, Nesterov, as torch has them
        w <- mirror(w, g)         HAM's multiplicative step, on the weights that exist

    An empty slot does nothing: with none of them it is SGD on the existing weights. `p.grad` is only read: it is the
    dense gradient before the step and after it. Weights keep their storage; a step is a few operations on lists of
    them, and waits for no device.

    A weight that does not exist is 0, and so are its gradient, momentum and decay: it stays 0. If masks have changed
    since the last step, or other code has written to the weights, a step first masks weights and momentum again.
    Version counters show such writes, but not those to `weight.data`: call `topology.apply()` after these. A gradient
    that is inf or NaN spoils its weight, as in torch, also one that does not exist; `GradScaler` skips such a step.

        topology = Topology(model, sparsity=0.9)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, precondition=SparseOpt())

    It is a real optimizer: parameter groups, LR schedulers, `state_dict`, `GradScaler`, copies, pickles and
    `torch.compile(optimizer.step)` work. The masks are in its state. As with torch's SGD a copy has no hooks: attach an
    `Updater` of its own.

    Args:
        params, lr, momentum, weight_decay, nesterov: as in `torch.optim.SGD`.
        topology: the masks of the weights among `params`; parameters it does not know are dense.
        precondition, renorm, mirror: the slots.
    """

    loaded: dict | None = None  # what an Updater left in the state that was loaded last

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
        self.topology, self.precondition, self.renorm, self.mirror = topology, precondition, renorm, mirror
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        self._prepare()
        if any(p.is_complex() for group in self.param_groups for p in group["params"]):
            raise ValueError("complex parameters cannot be trained: give the optimizer real ones")
        require_trains(self, topology)
        self.corrections()  # raises now if a layer cannot be corrected

    def _prepare(self) -> None:
        """Reset the state that a step builds when it needs it."""
        self._names = {weight: name for name, weight in self.topology.weights.items()}
        self._corrections: tuple[tuple, dict[str, Tensor]] = ((), {})
        self._groups: list[Group] = []
        self._options: list[dict] = []
        self._found: list = []
        self._used: dict[str, Tensor] | None = None  # the corrections that the groups have

    def add_param_group(self, param_group: dict) -> None:
        """As torch's; refuses options of a group that SGD has and the order of effects above does not."""
        dampening, maximize = (param_group.get(key, 0) for key in ("dampening", "maximize"))
        require(not dampening, "dampening", dampening, "must be 0: momentum here starts at 0, undamped")
        require(not (maximize and self.mirror), "maximize", maximize, "must be false with HAM: negate the loss instead")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step in the order above; returns the closure's loss, if there is a closure.

        Raises MaskMismatchError if the masks would zero nonzero weights, ValueError for a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.topology.require_agreement()
        groups = self._read()
        bound = self._bound(groups) if self.renorm is not None else None
        for group, options in zip(groups, self._options, strict=True):
            self._provide_momentum(group, options["momentum"])
            for part in group.parts:
                grads, others = self._corrected(part, part.factors)  # preconditioned and masked
                if bound is not None:
                    grads, others = part.times(grads, others, bound)
                self._descend(part, [*grads, *others], options)
                self._mirror(part, grads, options["lr"])
            group.mark_step()
        return loss

    def corrections(self) -> dict[str, Tensor]:
        """Weight name -> the precondition's factors in the weight's dtype, computed anew only when masks change."""
        made_for = (self.topology.version, self.precondition)
        if self._corrections[0] != made_for:
            scales = {} if self.precondition is None else self.precondition.scales(self.topology)
            factors = {name: scale.to(self.topology.weights[name].dtype) for name, scale in scales.items()}
            self._corrections = (made_for, factors)
        return self._corrections[1]

    @torch.no_grad()
    def mask_momentum(self) -> None:
        """Zero the momentum of weights that do not exist, and what wrappers keep beside it, after a mask change."""
        mask_state(self.state, self.topology)

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
        self.loaded = state_dict.get(KEY)
        super().load_state_dict(deepcopy({key: value for key, value in state_dict.items() if key != "topology"}))
        self.mask_momentum()

    def __getstate__(self) -> dict:
        """Copies keep topology and slots, but no hooks (as in torch) and not the `step` that a scheduler wrapped."""
        return {k: v for k, v in vars(self).items() if not (k.startswith("_") or hasattr(type(self), k))}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._prepare()

    def _read(self) -> list[Group]:
        """The parameters with a gradient, with factors that are made anew only as masks change."""
        params = [[p for p in options["params"] if p.grad is not None] for options in self.param_groups]
        found = [each for options, given in zip(self.param_groups, params, strict=True) for each in (options, *given)]
        if not identical(found, self._found) or not all(map(Group.same_storage, self._groups)):
            self._groups, self._options, scratch = [], [], {}
            for options, given in zip(self.param_groups, params, strict=True):
                made = [Group(stretch, scratch) for stretch in stretches(usable(given, self._names))]
                self._groups += made
                self._options += [options] * len(made)
            self._found, self._used = found, None
            self.topology.follow()
        corrections = self.corrections()
        changed = corrections is not self._used
        if changed:
            weights = self.topology.weights
            masks = {weights[name]: mask for name, mask in self.topology.masks.items()}
            scales = {weights[name]: scale for name, scale in corrections.items()}
            counts = {weights[name]: count for name, count in self.topology.counts.items()}
            for group in self._groups:
                group.set_factors(masks, scales, counts)
        if changed or any(map(Group.written_by_others, self._groups)):
            self.topology.apply()
            self.mask_momentum()
            self._used = corrections
        return self._groups

    def _corrected(self, part: Part, factors: list[Tensor]) -> Grads:
        """The gradients times `factors`, which follow from masks alone, and what follows from the weights too."""
        grads = part.grads(factors)
        if isinstance(self.precondition, EqualAngle):
            for p, *rows in zip(part.group.weights, part.weights, grads[0], part.masks, strict=True):
                if self._names.get(p) in self.topology.normalized:
                    self.precondition.turn(*rows)
        return grads

    def _bound(self, groups: list[Group]) -> Tensor | None:
        """The renormalization factor, from the norm of all corrected gradients, dense or masked."""
        dense = self.renorm.over == "dense"
        norms = []
        for group in groups:
            grads = self._corrected(group.whole, group.scales if dense else group.factors)
            norms += torch._foreach_norm(group.in_order(*grads))
        return self.renorm.of_norms(norms) if norms else None

    @torch.compiler.disable  # it cannot compile this operation
    def _descend(self, part: Part, grads: list[Tensor], options: dict) -> None:
        """torch's own fused SGD, on the gradients given instead of `p.grad`."""
        torch._fused_sgd_(
            part.weights + part.others,
            self._with_scaled_decay(part, grads, options["weight_decay"]),
            part.momentum if options["momentum"] else [],
            weight_decay=options["weight_decay"],
            momentum=options["momentum"],
            lr=options["lr"],
            dampening=options["dampening"],
            nesterov=options["nesterov"],
            maximize=options["maximize"],
            is_first_step=False,
        )

    def _provide_momentum(self, group: Group, momentum: float) -> None:
        """The buffers, if there is momentum. They start at 0, which gives torch's first step: 0 * momentum + g."""
        if not momentum:
            return
        params = group.weights + group.others
        found = [self.state[p].get("momentum_buffer") for p in params]
        if not identical(found, group.momentum):  # the first step, or others put them there
            for p, buffer in zip(params, found, strict=True):
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                if buffer is not None:
                    self.state[p]["momentum_buffer"].copy_(buffer)
            self.mask_momentum()
            group.set_momentum([self.state[p]["momentum_buffer"] for p in params])

    def _with_scaled_decay(self, part: Part, grads: list[Tensor], decay: float) -> list[Tensor]:
        """SGD adds `decay * w`; where decay is scaled too, that must be `decay * scale * w`: add the difference."""
        if self.precondition is None or not self.precondition.scale_decay or not part.weights:
            return grads
        missing = torch._foreach_mul(torch._foreach_sub(part.scales, 1), decay)
        of_weights, of_others = grads[: len(missing)], grads[len(missing) :]
        return [*torch._foreach_add(of_weights, torch._foreach_mul(part.weights, missing)), *of_others]

    def _mirror(self, part: Part, grads: list[Tensor], lr: float | Tensor) -> None:
        """Apply the mirror step to existing weights; the others stay 0."""
        if self.mirror is not None and part.weights:
            seen = part.existing().gather(grads)
            part.existing().change(lambda weights: self.mirror.step([weights], [seen], lr))
