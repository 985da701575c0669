"""Gradient averages that a mask update can use instead of its own step's gradient."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from sparse_train.errors import require


class Average(Protocol):
    """What `Updater` needs of an average, which is saved with the run."""

    def wants(self, until_update: int) -> bool:
        """Whether to observe the gradient `until_update` steps before the next update (0: the update's own step)."""
        ...

    def see(self, grads: Mapping[str, Tensor]) -> None: ...

    def of(self, name: str) -> Tensor | None:
        """The average; None before it has seen one."""
        ...

    def updated(self) -> None:
        """The masks have just been updated."""
        ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Mean:
    """The mean over the last `batches` steps before an update, its own included: as of one large batch.

    Steps before the last update do not count, since the masks were others: `batches` above `every` changes nothing.
    """

    def __init__(self, batches: int):
        require(batches >= 1, "batches", batches, "must be at least 1: gradients to average before a mask update")
        self.batches = batches
        self.updated()

    def wants(self, until_update: int) -> bool:
        return until_update < self.batches

    def see(self, grads: Mapping[str, Tensor]) -> None:
        self.seen += 1
        for name, grad in grads.items():
            self.sums[name] = self.sums[name] + grad if name in self.sums else grad.clone()

    def of(self, name: str) -> Tensor | None:
        return self.sums[name] / self.seen if name in self.sums else None

    def updated(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.seen = 0

    def state_dict(self) -> dict:
        return {"sums": self.sums, "seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.sums, self.seen = dict(state["sums"]), state["seen"]


class Running:
    """M <- beta M + (1 - beta) g at every step, from 0 (Dettmers & Zettlemoyer 2019, Section 3).

    It is the dense momentum, without weight decay. The optimizer's own is 0 where weights do not exist. A gradient that
    is not finite is left out, as a `GradScaler` leaves out its step.
    """

    def __init__(self, beta: float = 0.9):
        require(0 <= beta < 1, "beta", beta, "must be in [0, 1): the share of the average that a step keeps")
        self.beta, self.averages = beta, {}

    def wants(self, until_update: int) -> bool:
        return True

    def see(self, grads: Mapping[str, Tensor]) -> None:
        for name, grad in grads.items():
            before = self.averages.get(name, torch.zeros_like(grad))
            self.averages[name] = torch.where(grad.isfinite().all(), before.lerp(grad, 1 - self.beta), before)

    def of(self, name: str) -> Tensor | None:
        return self.averages.get(name)

    def updated(self) -> None:
        pass

    def state_dict(self) -> dict:
        return {"averages": self.averages}

    def load_state_dict(self, state: dict) -> None:
        self.averages = dict(state["averages"])
