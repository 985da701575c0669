"""SGD, SparseOpt, HAM and their combinations: one optimizer, one order of effects."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.sgd import sgd

from sparse_train.errors import require
from sparse_train.optim.equal_angle import EqualAngle
from sparse_train.optim.ham import HAM
from sparse_train.optim.renorm import Renorm
from sparse_train.optim.sparseopt import SparseOpt
from sparse_train.sparsity.foreign import KEY, mask_state, require_trains
from sparse_train.sparsity.topology import Topology

Groups = list[tuple[dict, list[Tensor]]]  # of `param_groups`, each with its parameters that have a gradient


class SparseSGD(torch.optim.SGD):
    """`torch.optim.SGD` for weights with a topology, with three slots around its step.

    A step, top to bottom:

        g <- precondition(g)      SparseOpt: each neuron's gradient by Eq. 12; or EqualAngle
        g <- renormalize(g)       Appendix F, the norm over dense or masked gradients
        g <- g * mask             gradients of weights that do not exist
        w <- SGD(w, g)            momentum, weight decay, Nesterov, as torch has them
        w <- mirror(w, g)         HAM's multiplicative step, on the weights that exist

    An empty slot does nothing: with none of them it is SGD on the existing weights. `p.grad` is only read: it is the
    dense gradient before the step and after it. Weights keep their storage. A step is a few operations on lists of
    parameters, and waits for no device. Beside momentum the optimizer keeps a factor for every parameter, of its shape
    (correction times mask). During a step it needs memory for a copy of the gradients, and for a second one with HAM or
    the norm of dense gradients.

    Where a layer multiplies only the weights that exist (`sparsity.csr`), a step works on their vector and its
    momentum, and then writes the vector to the weight. `state_dict` has momentum of the weight's shape still.

    A weight that does not exist is 0, and so are its gradient, momentum and decay: it stays 0. If masks have changed
    since the last step, or other code has written to the weights, a step first masks weights and momentum again.
    Version counters show such writes, but not those to `weight.data`: call `topology.apply()` after these. The first
    time that a step takes weights which others wrote, a warning gives their number (`Topology.require_agreement`). A
    gradient that is inf or NaN spoils its weight, as in torch, also one that does not exist; `GradScaler` skips such a
    step.

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
        right = "must be a Topology; the order is SparseSGD(params, topology, lr)"
        require(isinstance(topology, Topology), "topology", type(topology).__name__, right)
        for key, slot, function, example in (
            ("precondition", precondition, "scales", "SparseOpt()"),
            ("renorm", renorm, "factor", "Renorm(1.0)"),
            ("mirror", mirror, "step", "HAM()"),
        ):
            fits = slot is None or (hasattr(slot, function) and not isinstance(slot, type))
            require(fits, key, slot, f"must be an object such as {example}, or None")
        self.topology, self.precondition, self.renorm, self.mirror = topology, precondition, renorm, mirror
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        self._forget()
        self.topology.dense_gradients |= self.needs_dense_gradients
        if any(p.is_complex() for group in self.param_groups for p in group["params"]):
            raise ValueError("complex parameters cannot be trained: give the optimizer real ones")
        require_trains(self, topology)
        self.corrections()  # raises now if a layer cannot be corrected

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
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        groups = [(group, params) for group, params in groups if params]
        self._prepare(groups)
        # Precondition and mask, one product.
        masked = [self._corrected(params, self._gradients(params), self._factors) for _, params in groups]
        if self.renorm is not None and groups:
            factor = self._bound(groups, masked)
            for grads in masked:
                torch._foreach_mul_(grads, factor)
        for (group, params), grads in zip(groups, masked, strict=True):
            self._descend(group, params, self._with_scaled_decay(group, params, grads))
            if self.mirror is not None:
                shaped = [p.ndim > 1 for p in params]
                weights, of_weights = (list(compress(tensors, shaped)) for tensors in (self.stepped(params), grads))
                self.mirror.step(weights, of_weights, group["lr"])
        self._finish(groups)
        return loss

    def corrections(self) -> dict[str, Tensor]:
        """Weight name -> the precondition's factors in the weight's dtype, computed anew only when masks change."""
        made_for = (self.topology.version, self.topology.ablates, self.precondition)
        if self._corrections[0] != made_for:
            scales = {} if self.precondition is None else self.precondition.scales(self.topology)
            factors = {name: scale.to(self.topology.weights[name].dtype) for name, scale in scales.items()}
            self._corrections = (made_for, factors)
        return self._corrections[1]

    @torch.no_grad()
    def mask_momentum(self) -> None:
        """Zero the momentum of weights that do not exist, and what wrappers keep beside it, after a mask change."""
        self._unpack()
        mask_state(self.state, self.topology)

    @torch.no_grad()
    def multiply(self, weight: Tensor, factor: Tensor) -> None:
        """Multiply a weight and its momentum."""
        self._unpack()
        weight.mul_(factor)
        if (momentum := self.state.get(weight, {}).get("momentum_buffer")) is not None:
            momentum.mul_(factor)

    @property
    def needs_dense_gradients(self) -> bool:
        """Whether every step looks at gradients of weights that do not exist: for their norm."""
        return self.renorm is not None and self.renorm.over == "dense"

    @property
    def addresses(self) -> tuple[int, ...]:
        """Of parameters, momentum, factors and rates as the last step left them; empty if masks have changed since."""
        return self._addresses if self._left[:2] == (self.topology.version, self.precondition) else ()

    def state_dict(self) -> dict:
        """As torch's, with the topology's under `topology`: model and optimizer are then all that a restart needs."""
        self._unpack()
        return {**super().state_dict(), "topology": self.topology.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's, and the masks. Weights stay; the next step raises where masks would take any (`Topology`).

        Momentum off the mask, which another optimizer may have left, becomes 0 here, and stays there.
        """
        self._unpack()
        self.topology.restore(state_dict.get("topology"))
        self.loaded = state_dict.get(KEY)
        super().load_state_dict(deepcopy({key: value for key, value in state_dict.items() if key != "topology"}))
        self.mask_momentum()

    def __getstate__(self) -> dict:
        """Copies keep topology and slots, but no hooks (as in torch) and not the `step` that a scheduler wrapped."""
        self._unpack()
        return {k: v for k, v in vars(self).items() if not (k.startswith("_") or hasattr(type(self), k))}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._forget()

    def _forget(self) -> None:
        """Drop what `_prepare` makes, and the cached corrections."""
        self._corrections: tuple[tuple, dict[str, Tensor]] = ((), {})  # what they were made for, and they themselves
        self._scales: dict[Tensor, Tensor] = {}  # parameter -> the precondition's factor, or 1
        self._factors: dict[Tensor, Tensor] = {}  # parameter -> scale * mask, of its shape, dtype and memory layout
        self._packed: dict[Tensor, Any] = {}  # parameter -> `csr.Structure` of the vector that its momentum is
        self._held: list[Tensor] = []  # parameters and momentum, so that nothing else takes their addresses
        self._left: tuple = ()  # how the last step left masks, parameters and momentum
        self._addresses: tuple[int, ...] = ()

    @torch.compiler.disable
    def _prepare(self, groups: Groups) -> None:
        """Make factors and momentum, and mask weights and momentum, unless all is as the last step left it.

        Updates change masks. Any other code may write to parameters, and exchange or move parameters and momentum.
        New factors are written over old ones of the same shape, so that a CUDA graph finds them (`addresses`).
        """
        self.topology.require_agreement()
        if self._found(groups) == self._left:
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            right = "the forward pass must not write to parameters"
            raise RuntimeError(f"this step cannot become a CUDA graph, since it makes the optimizer's factors: {right}")
        self._left = ()
        self._unpack()
        self.topology.apply()  # the masks follow the weights first
        corrections = self.corrections()
        names = {weight: name for name, weight in self.topology.weights.items()}
        scales, factors = self._scales, self._factors
        self._scales, self._factors, self._held = {}, {}, []
        for group, params in groups:
            for p in params:
                name = names.get(p)
                shown = name or f"a parameter of shape {tuple(p.shape)}"
                rows = self.topology.vectors.get(p)
                if p.grad.layout != torch.strided and not self._may_be_sparse(p):
                    by = "sparse=False" if rows is None else "topology.dense_gradients = True"
                    right = f"SparseSGD needs dense ones, from {by}"
                    raise ValueError(f"the gradient of {shown} is sparse: {right}")
                if torch.empty_like(p).stride() != p.stride():
                    raise ValueError(f"{shown} lies in memory with gaps: make it contiguous, by p.data.contiguous()")
                scale = corrections[name].to(p) if name in corrections else p.new_ones(())
                self._scales[p] = _reused(scales.get(p), scale).copy_(scale)
                if name is not None:
                    self.topology.trained.add(name)
                if rows is not None:
                    rows.refresh()
                    self._factors[p] = rows.structure.of_rows(self._scales[p])
                    self._held.append(rows.values)
                else:
                    self._factors[p] = _reused(factors.get(p), p)
                    mask = p.new_ones(()) if name is None else self.topology.masks[name]
                    self._factors[p].copy_(mask).mul_(scale)
                self._held.append(p.detach())
                if group["momentum"]:
                    self._held.append(self._own_momentum(p) if rows is None else self._pack(p))
        mask_state(self.state, self.topology)
        rates = [group["lr"] for group, _ in groups if isinstance(group["lr"], Tensor)]
        made = (*self._scales.values(), *self._factors.values(), *self._held, *rates)
        self._addresses = tuple(tensor.data_ptr() for tensor in made)

    def _found(self, groups: Groups) -> tuple:
        """What factors follow from, and what shows that others wrote to a parameter or exchanged its momentum."""
        tensors = [
            (
                *(id(p), p.data_ptr(), p._version, p in self.topology.vectors, self._may_be_sparse(p) or p.grad.layout),
                *(group["momentum"] != 0, id(self._momentum(p))),
            )
            for group, params in groups
            for p in params
        ]
        return self.topology.version, self.precondition, tensors

    def _may_be_sparse(self, p: Tensor) -> bool:
        """Whether a step can do without the gradients of a parameter's weights that do not exist."""
        return p in self.topology.vectors and not self.needs_dense_gradients

    def _momentum(self, p: Tensor) -> Tensor | None:
        return self.state[p].get("momentum_buffer") if p in self.state else None

    def _own_momentum(self, p: Tensor) -> Tensor:
        """A parameter's buffer, in its memory layout and a storage of its own.

        It starts at 0, which gives torch's first step: 0 * momentum + g.
        """
        found = self._momentum(p)
        alone = found is not None and found.untyped_storage().nbytes() == p.nbytes
        if not alone or (found.dtype, found.device, found.stride()) != (p.dtype, p.device, p.stride()):
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            if found is not None:
                self.state[p]["momentum_buffer"].copy_(found)
        return self.state[p]["momentum_buffer"]

    def _pack(self, p: Tensor) -> Tensor:
        """The vector of a parameter's momentum where weights exist, which `_unpack` makes its momentum again."""
        found, rows = self._momentum(p), self.topology.vectors[p]
        packed = torch.zeros_like(rows.values) if found is None else rows.gather(found).to(rows.values)
        self.state[p]["momentum_buffer"], self._packed[p] = packed, rows.structure
        return packed

    def _unpack(self) -> None:
        """Give momentum the shapes of its parameters, for whoever looks at it or changes masks."""
        for p, structure in self._packed.items():
            self.state[p]["momentum_buffer"] = structure.spread(self.state[p]["momentum_buffer"])
        self._packed = {}

    def stepped(self, params: Iterable[Tensor]) -> list[Tensor]:
        """What a step works on: the parameters, or the vectors of their weights that exist, of today's masks."""
        rows, params = self.topology.vectors, list(params)
        for p in params:
            if p in rows:
                rows[p].refresh()
        return [rows[p].values if p in rows else p for p in params]

    def _gradients(self, params: list[Tensor]) -> list[Tensor]:
        """Those of `stepped`."""
        rows = self.topology.vectors
        return [rows[p].gather(p.grad) if p in rows else p.grad for p in params]

    def _corrected(self, params: list[Tensor], grads: list[Tensor], factors: Mapping[Tensor, Tensor]) -> list[Tensor]:
        """Copies of the gradients times `factors`, which follow from masks, and by what follows from weights too."""
        grads = list(torch._foreach_mul([factors[p] for p in params], grads))
        if isinstance(self.precondition, EqualAngle):
            self._turn(dict(zip(params, grads, strict=True)))
        return grads

    def _turn(self, grads: Mapping[Tensor, Tensor]) -> None:
        """EqualAngle's part of a correction, in place."""
        for name in self.topology.normalized:
            if (weight := self.topology.weights[name]) in grads:
                grad, rows = grads[weight], self.topology.vectors.get(weight)
                spread = grad if grad.shape == weight.shape else rows.structure.spread(grad)
                tensors = (weight, spread, self._factors[weight] if rows is None else self.topology.masks[name])
                self.precondition.turn(*(self.topology.rows(name, tensor) for tensor in tensors))
                if spread is not grad:
                    grad.copy_(rows.gather(spread))

    def _bound(self, groups: Groups, masked: list[list[Tensor]]) -> Tensor:
        """The renormalization factor, from the norm of all corrected gradients, dense or masked."""
        normed = masked
        if self.needs_dense_gradients:
            normed = [self._corrected(params, [p.grad for p in params], self._scales) for _, params in groups]
        return self.renorm.factor([grad for grads in normed for grad in grads])

    def _with_scaled_decay(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        """SGD adds `decay * w`; where decay is scaled too, that must be `decay * scale * w`: add the difference."""
        if self.precondition is None or not self.precondition.scale_decay:
            return grads
        rows = self.topology.vectors
        missing = torch._foreach_sub([(self._factors if p in rows else self._scales)[p] for p in params], 1)
        torch._foreach_mul_(missing, group["weight_decay"])
        return list(torch._foreach_add(grads, torch._foreach_mul(self.stepped(params), missing)))

    @torch.compiler.disable  # it cannot compile this operation
    def _descend(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
        """torch's own fused SGD, on the gradients given instead of `p.grad`."""
        momentum = [self._momentum(p) if group["momentum"] else None for p in params]
        keys = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")
        sgd(self.stepped(params), grads, momentum, fused=True, **{key: group[key] for key in keys})

    @torch.compiler.disable
    def _finish(self, groups: Groups) -> None:
        """Raise version counters of parameters, which fused operations do not, and note how the step left all."""
        increment_version([stepped for _, params in groups for stepped in self.stepped(params)])
        for _, params in groups:
            for p in params:
                if p in self.topology.vectors:
                    self.topology.vectors[p].fill()
        self.topology.note()
        self._left = self._found(groups)


def _reused(old: Tensor | None, like: Tensor) -> Tensor:
    """`old` if it has the shape, strides, dtype and device of `like`, else new memory."""
    kind = None if old is None else (old.shape, old.stride(), old.dtype, old.device)
    return old if kind == (like.shape, like.stride(), like.dtype, like.device) else torch.empty_like(like)
