"""Optimizers that are not ours: they train what a topology has, save what a method needs, and update within `step`.

`SparseSGD` needs none of it but what is saved and the updates within `step`.
"""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.sparsity.masks import stored
from sparse_train.sparsity.topology import Topology

KEY = "updater"  # in the optimizer's state, as masks are: model and optimizer are all that is saved


class Adopted:
    """Makes an optimizer such as `torch.optim.AdamW` train the weights of a topology and no others.

    Before each of its steps, the gradients of weights that do not exist become 0: optimizers that take norms over a
    tensor, such as LAMB, Muon and Adafactor, see the network that there is. A step's closure comes too late for this.
    After the step these weights are 0, and so is what it keeps for each of them (tensors of the weight's shape:
    momentum, Adam's moments). So a weight that is grown starts as it does under `SparseSGD`. Counters that a tensor's
    weights share, such as Adam's `step`, continue: its bias correction does not restart.

    Masks are part of its `state_dict`, and come back with it (`Topology.restore`).

    Args:
        optimizer: any whose step needs no closure, with a state of one entry per parameter.
        topology: of weights among its parameters.

    Raises:
        ConfigError: for what is no optimizer, only wraps one, needs a closure (`LBFGS` joins all parameters into
            vectors of its own, that masks do not reach), or starts from a state that is not 0 (`Rprop`'s step sizes).
            At the first step, for one with a state in whole numbers, where 0 may stand for another value (8 bits).
    """

    def __init__(self, optimizer: torch.optim.Optimizer, topology: Topology):
        name = type(optimizer).__name__
        right = "must be SparseSGD or another optimizer of torch.optim's kind"
        require(isinstance(optimizer, torch.optim.Optimizer), "optimizer", name, right)
        closure = signature(type(optimizer).step).parameters.get("closure")
        needed = closure is not None and closure.default is Parameter.empty
        right = "needs a closure, so it cannot train sparse weights; use SparseSGD, or one such as AdamW"
        require(not needed, "optimizer", name, right)
        right = "runs no step hooks, because it wraps another optimizer; give the updater the wrapped one"
        hooked = hasattr(type(optimizer).step, "hooked") and hasattr(optimizer, "_optimizer_state_dict_post_hooks")
        require(hooked, "optimizer", name, right)
        right = "keeps a step size for each weight, which a grown weight would begin with at 0; use SGD or Adam"
        require(not isinstance(optimizer, torch.optim.Rprop), "optimizer", name, right)
        self.optimizer, self.topology = optimizer, topology
        optimizer.register_step_pre_hook(lambda *_: topology.require_agreement())
        self._gradients = optimizer.register_step_pre_hook(self.mask_gradients)
        optimizer.register_step_post_hook(lambda *_: self.mask())
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, "topology": topology.state_dict()})
        optimizer.register_load_state_dict_pre_hook(lambda _, state: topology.restore(state.get("topology")))

    def run_last(self) -> None:
        """Mask gradients after the hooks that are there by now, since a mask update looks at dense ones."""
        self._gradients.remove()
        self._gradients = self.optimizer.register_step_pre_hook(self.mask_gradients)

    @torch.compiler.disable
    @torch.no_grad()
    def mask_gradients(self, *_) -> None:
        """Zero the gradients of weights that do not exist."""
        self.topology.follow()
        for name, weight in self.topology.weights.items():
            if weight.grad is not None:
                self.topology.trained.add(name)
                if weight.grad.is_sparse:  # of a layer that multiplies only the weights that exist
                    weight.grad = weight.grad.to_dense()
                weight.grad.masked_fill_(~self.topology.masks[name], 0)

    @torch.compiler.disable
    @torch.no_grad()
    def mask(self) -> None:
        """Zero the weights that do not exist, and their state."""
        self.topology.apply()
        self.mask_momentum()

    @torch.no_grad()
    def mask_momentum(self) -> None:
        """Zero the state of weights that do not exist."""
        mask_state(self.optimizer.state, self.topology)


def mask_state(state: Mapping[Tensor, dict], topology: Topology) -> None:
    """Zero what an optimizer keeps for weights that do not exist: tensors of a weight's shape.

    Raises:
        ConfigError: for whole numbers, which stand for values that only the optimizer knows.
    """
    for name, weight in topology.weights.items():
        for key, value in state.get(weight, {}).items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                right = f"is {value.dtype} for {name}, which masks cannot set to 0; use the optimizer in 32 bits"
                require(value.is_floating_point() or value.dtype == torch.bool, "optimizer", f"state {key}", right)
                value.mul_(topology.masks[name])


def require_trains(optimizer: torch.optim.Optimizer, topology: Topology) -> None:
    """All weights of the topology that are trained must be the optimizer's, and its topology, if it has one, this one.

    Raises:
        ConfigError: names those that are not.
    """
    own = getattr(optimizer, "topology", topology) is topology
    require(own, "topology", type(topology).__name__, "must be the optimizer's own: give both the same object")
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in topology.weights.items() if p.requires_grad and p not in trained]
    asked = "was the model copied, sharded or loaded with assign=True after the topology was made, or a layer replaced?"
    asked += " Give weights that are unfrozen later to the optimizer too, by add_param_group."
    two = "With two optimizers, give each a topology that excludes the other's weights"
    right = f"does not train {', '.join(missing)}: {asked} {two}"
    require(not missing, "optimizer", type(optimizer).__name__, right)


def saved_with(optimizer: torch.optim.Optimizer, name: str, part: Any, lacks: str) -> None:
    """Save what `part.state_dict()` gives with the optimizer, and load it with it.

    If a `SparseSGD` has loaded its state before, the part takes its own over now. Loading raises ValueError for a state
    without it, from which the method could not resume; `lacks` says what that state is without.
    """

    def save(_: torch.optim.Optimizer, state: dict) -> dict:
        return {**state, KEY: {**state.get(KEY, {}), name: part.state_dict()}}

    def load(_: torch.optim.Optimizer, state: dict) -> None:
        if name not in state.get(KEY, {}):
            raise ValueError(
                f"this optimizer's state was saved without {lacks}; torch.distributed.checkpoint drops {name!r}: save"
                " optimizer.state_dict() itself"
            )
        part.load_state_dict(state[KEY][name])

    if name in (getattr(optimizer, "loaded", None) or {}):
        part.load_state_dict(optimizer.loaded[name])
    optimizer.register_state_dict_post_hook(save)
    optimizer.register_load_state_dict_pre_hook(load)


class Attached:
    """Hooks that count an optimizer's steps from 0, and call `act` before those where it has something to do.

    Where `act` returns true the gradients are then removed, so this step changes no parameter and no momentum. A
    closure is called first, since its gradients decide. The count is saved in the optimizer's `state_dict`, under
    `updater`. A `SparseSGD` may have loaded that before it gets the hooks; another optimizer must load it after.

    Args:
        optimizer: whose `step` is called once per step of the training.
        looks: whether `act` has something to do at a step.
        act: what is done there.
        ask: told the number of the next step, before its gradients are made.

    Raises:
        ConfigError: the optimizer has an attached Updater already: two would each change the masks.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        looks: Callable[[int], bool],
        act: Callable[[int], bool],
        ask: Callable[[int], None],
    ):
        hooks = optimizer._optimizer_step_pre_hooks.values()
        taken = any(isinstance(getattr(hook, "__self__", None), Attached) for hook in hooks)
        require(not taken, "updater", "attach", "this optimizer has an attached Updater already: once is enough")
        self.looks, self.act, self.ask, self.steps = looks, act, ask, 0
        ask(0)
        optimizer.register_step_pre_hook(self.before)
        saved_with(optimizer, "steps", self, "an attached Updater, and has no count of steps")

    @torch.compiler.disable
    def before(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before a step; `args` has the optimizer itself first, as torch passes them."""
        closure: Callable | None = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None and _trains_nothing(optimizer):
            return None
        step, looks = self.steps, self.looks(self.steps)
        if looks and getattr(optimizer, "grad_scale", None) is not None:
            raise ValueError(
                "gradients are still scaled: call scaler.unscale_(optimizer) before scaler.step(optimizer)"
            )
        self.steps += 1
        if not looks:
            self.ask(self.steps)
            return None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            args, kwargs = args[:1], {**kwargs, "closure": lambda: loss}
        self.ask(self.steps)
        if self.act(step):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = None
        return args, kwargs

    def state_dict(self) -> int:
        return self.steps

    def load_state_dict(self, steps: int) -> None:
        self.steps = steps
        self.ask(steps)


def _trains_nothing(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is a step for show, as torch.distributed.checkpoint takes it to have a state to save or fill."""
    grads = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    rates = [group["lr"] for group in optimizer.param_groups]  # reading a tensor would wait for its device
    return not any(isinstance(rate, Tensor) or rate for rate in rates) and not any(stored(grad).any() for grad in grads)
