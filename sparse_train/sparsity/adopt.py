"""Optimizers that know of no topology."""

from inspect import Parameter, signature
from typing import TYPE_CHECKING

import torch

from sparse_train.errors import require

if TYPE_CHECKING:
    from sparse_train.sparsity.topology import Topology


class Adopted:
    """Makes an optimizer such as `torch.optim.AdamW` train the weights of a topology and no others.

    After each of its steps, weights that do not exist are 0, and so is what it keeps for each of them (tensors of the
    weight's shape: momentum, Adam's moments). So a weight that is grown starts as it does under `SparseSGD`. Counters
    that a tensor's weights share, such as Adam's `step`, go on: its bias correction is not begun anew.

    Args:
        optimizer: any whose step needs no closure, with a state of one entry per parameter.
        topology: of weights among its parameters.

    Raises:
        ConfigError: for what is no optimizer, trains none of the weights, or needs a closure (`LBFGS` joins all
            parameters into vectors of its own, that masks do not reach).
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
        trained = {p for group in optimizer.param_groups for p in group["params"]}
        missing = [weight for weight, p in topology.weights.items() if p.requires_grad and p not in trained]
        right = f"does not train {', '.join(missing)}: was the model copied after the topology was made?"
        require(not missing, "optimizer", name, right)
        self.optimizer, self.topology = optimizer, topology
        optimizer.register_step_post_hook(lambda *_: self.mask())

    @torch.no_grad()
    def mask(self) -> None:
        """Zero the weights that do not exist, and their state."""
        self.topology.apply()
        self.mask_momentum()

    @torch.no_grad()
    def mask_momentum(self) -> None:
        """Zero the state of weights that do not exist."""
        for name, weight in self.topology.weights.items():
            for value in self.optimizer.state.get(weight, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    value.mul_(self.topology.masks[name])
