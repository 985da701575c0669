"""A method's hooks in its optimizer: mask updates inside `step`, for unmodified training loops, and saved state."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.sparsity.adopt import Adopted

if TYPE_CHECKING:
    from sparse_train.sparsity.updater import Updater

KEY = "updater"  # in the optimizer's state, as masks are: model and optimizer are all that is saved


def saved_with(optimizer: torch.optim.Optimizer, name: str, part: Any, lacks: str | None = None) -> None:
    """Save what `part.state_dict()` gives with the optimizer, and load it with it.

    If a `SparseSGD` has loaded its state before, the part takes its own over now. Loading raises ValueError for a state
    without it, from which the method could not resume; `lacks` says what that state is without.
    """
    lacks = lacks or f"an Updater's {name}, so it cannot resume"

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
    """Hooks that count an optimizer's steps from 0, and update the masks before the step where an update is due.

    With `skip_step` the gradients are then removed, so this step changes no parameter and no momentum. A closure is
    called first, since its gradients decide. The count is saved in the optimizer's `state_dict`, under `updater`. A
    `SparseSGD` may have loaded that before it gets the hooks; another optimizer must load it after.

    Args:
        optimizer: whose `step` is called once per step of the training.
        updater: of the topology that it trains.

    Raises:
        ConfigError: the optimizer has an attached Updater already: two would each change the masks.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, updater: "Updater"):
        hooks = optimizer._optimizer_step_pre_hooks.values()
        taken = any(isinstance(getattr(hook, "__self__", None), Attached) for hook in hooks)
        require(not taken, "updater", "attach", "this optimizer has an attached Updater already: once is enough")
        self.updater, self.steps = updater, 0
        if warning := idle(updater):
            warnings.warn(warning, stacklevel=3)
        optimizer.register_step_pre_hook(self.before)
        if isinstance(updater.optimizer, Adopted):
            updater.optimizer.run_last()
        saved_with(optimizer, "steps", self, "an attached Updater, and has no count of steps")

    def before(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before a step; `args` has the optimizer itself first, as torch passes them."""
        closure: Callable | None = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None and _trains_nothing(optimizer):
            return None
        step = self.steps
        looks = self.updater.due(step) or self.updater.observes(step)
        if looks and getattr(optimizer, "grad_scale", None) is not None:
            raise ValueError(
                "gradients are still scaled: call scaler.unscale_(optimizer) before scaler.step(optimizer)"
            )
        self.steps += 1
        if not looks:
            return None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            args, kwargs = args[:1], {**kwargs, "closure": lambda: loss}
        self.updater.observe(step)
        if not self.updater.due(step):
            return args, kwargs
        self.updater.update(step)
        if self.updater.skip_step:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = None
        return args, kwargs

    def state_dict(self) -> int:
        return self.steps

    def load_state_dict(self, steps: int) -> None:
        self.steps = steps


def idle(updater: "Updater") -> str:
    """A warning if no mask update of the run replaces a weight, though some are to be replaced; else nothing."""
    most = updater.fraction(updater.every) * max(updater.topology.counts.values())  # of all updates: f_t decays
    if not updater.drop_fraction or updater.budget.gradual or (updater.due(updater.every) and most >= 1):
        return ""
    return f"every={updater.every}: no mask update of this run replaces a weight, so its masks stay"


def _trains_nothing(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is a step for show, as torch.distributed.checkpoint takes it to have a state to save or fill."""
    grads = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    rates = [group["lr"] for group in optimizer.param_groups]  # reading a tensor would wait for its device
    return not any(isinstance(rate, Tensor) or rate for rate in rates) and not any(grad.any() for grad in grads)
