"""All parts of one run, and what can be asked of them together."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_train.data.memory import Data
from sparse_train.optim.sgd import SparseSGD
from sparse_train.process.distributed import Ranks
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.train.diagnostics import Diagnostics
from sparse_train.train.meter import Meter


@dataclass
class Run:
    """All parts of one run, as `build` assembles them.

    Attributes:
        forward: the model as it is called: compiled, parallel, or the model itself.
        updater: None where the topology stays as it is.
        schedule: step -> learning rate.
        autocast: whether forward passes run in bfloat16.
        label_smoothing: in training, the share of each target that is spread over all classes.
        metadata: what the record says of the run besides its results.
    """

    epochs: int
    seed: int
    data: Data
    model: nn.Module
    forward: nn.Module
    topology: Topology
    optimizer: SparseSGD
    updater: Updater | None
    schedule: Callable[[int], float]
    device: torch.device
    memory_format: torch.memory_format
    autocast: bool
    metadata: dict
    label_smoothing: float = 0.0
    ranks: Ranks = field(default_factory=Ranks)

    def meter(self) -> Meter:
        return Meter(self.device, self.ranks)

    @cached_property
    def diagnostics(self) -> Diagnostics:
        return Diagnostics(self.model, self.topology, self.optimizer)

    @torch.no_grad()
    def average_statistics(self) -> None:
        """Average the running statistics over ranks: each rank trains with its own, and all ranks test one network."""
        if self.ranks.world > 1:
            for statistic in self.statistics().values():
                statistic.copy_(self.ranks.sum(statistic) / self.ranks.world)

    def statistics(self) -> dict[str, Tensor]:
        """The running statistics of batch normalization, by name."""
        return {name: buffer for name, buffer in self.model.named_buffers() if buffer.is_floating_point()}

    def set_lr(self, step: int) -> None:
        """Give every parameter group the learning rate of this step, times its `lr_scale` if it has one."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(step) * group.get("lr_scale", 1)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy, to smoothed targets in training, and the number of correct answers."""
        images = images.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.forward(images)
        smoothing = self.label_smoothing if self.model.training else 0.0
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        return loss, (logits.detach().argmax(1) == labels).sum()

    def state_dict(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer}  # the topology is part of the optimizer's state
        renorm = self.optimizer.renorm
        return {name: part.state_dict() for name, part in parts.items()} | (
            {} if renorm is None else {"renorm": renorm.state_dict()}
        )

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.optimizer.renorm is not None:
            self.optimizer.renorm.load_state_dict(state["renorm"])
