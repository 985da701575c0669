"""Optimizers that know of no topology."""

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import TYPE_CHECKING

import torch

from sparse_train.errors import require

if TYPE_CHECKING:
    from sparse_train.sparsity.topology import Topology


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
        ConfigError: for what is no optimizer, only wraps one, or needs a closure (`LBFGS` joins all parameters into
            vectors of its own, that masks do not reach).
    """

    precondition = None

    def __init__(self, optimizer: torch.optim.Optimizer, topology: "Topology"):
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
        require_trains(optimizer, topology)
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

    @torch.no_grad()
    def mask_gradients(self, *_) -> None:
        """Zero the gradients of weights that do not exist."""
        self.topology.follow()
        for name, weight in self.topology.weights.items():
            if weight.grad is not None:
                weight.grad.masked_fill_(~self.topology.masks[name], 0)

    @torch.no_grad()
    def mask(self) -> None:
        """Zero the weights that do not exist, and their state."""
        self.topology.apply()
        self.mask_momentum()

    @torch.no_grad()
    def mask_momentum(self) -> None:
        """Zero the state of weights that do not exist."""
        mask_state(self.optimizer.state, self.topology)


def mask_state(state: Mapping[torch.Tensor, dict], topology: "Topology") -> None:
    """Zero what an optimizer keeps for weights that do not exist: tensors of a weight's shape."""
    for name, weight in topology.weights.items():
        for value in state.get(weight, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                value.mul_(topology.masks[name])


def require_trains(optimizer: torch.optim.Optimizer, topology: "Topology") -> None:
    """All weights of the topology that are trained must be the optimizer's, and its topology, if it has one, this one.

    Raises:
        ConfigError: names those that are not.
    """
    own = getattr(optimizer, "topology", topology) is topology
    require(own, "topology", type(topology).__name__, "must be the optimizer's own: give both the same object")
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in topology.weights.items() if p.requires_grad and p not in trained]
    asked = "was the model copied, sharded or loaded with assign=True after the topology was made, or a layer replaced?"
    two = "With two optimizers, give each a topology that excludes the other's weights"
    right = f"does not train {', '.join(missing)}: {asked} {two}"
    require(not missing, "optimizer", type(optimizer).__name__, right)
