"""The training loop: every effect of a step is a visible line of it."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_train.data.memory import Data
from sparse_train.diagnostics import Diagnostics
from sparse_train.distributed import Ranks
from sparse_train.environment import peak_memory_mib
from sparse_train.export import export
from sparse_train.interruption import Interruption
from sparse_train.keeper import Keeper, Pace, Place
from sparse_train.log import EpochLog, progress, say
from sparse_train.meter import NORM_EVERY, Meter
from sparse_train.optim.sgd import SparseSGD
from sparse_train.randomness import derive
from sparse_train.record import Record
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater


class Sink(Protocol):
    """Somebody else who wants the record's rows, such as W&B."""

    def log(self, row: dict, topology: Topology | None = None) -> None: ...

    def finish(self, record: Record) -> None: ...


@dataclass
class Run:
    """All parts of one run, as `build` assembles them.

    Attributes:
        forward: the model as it is called: compiled, parallel, or the model itself.
        updater: None where the topology stays as it is.
        schedule: step -> learning rate.
        autocast: whether forward passes run in bfloat16.
        label_smoothing: in training, the share of each target that is spread over all classes.
        facts: what the record says of the run besides its results.
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
    facts: dict
    label_smoothing: float = 0.0
    ranks: Ranks = field(default_factory=Ranks)

    def meter(self) -> Meter:
        return Meter(self.device, self.ranks)

    def diagnostics(self) -> Diagnostics:
        return Diagnostics(self.model, self.topology, self.optimizer)

    @torch.no_grad()
    def average_statistics(self) -> None:
        """Bring the ranks' running statistics together: what each normalized by is its own, what is tested is one."""
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
        parts = {"model": self.model, "optimizer": self.optimizer, "topology": self.topology}
        renorm = self.optimizer.renorm
        return {name: part.state_dict() for name, part in parts.items()} | (
            {} if renorm is None else {"renorm": renorm.state_dict()}
        )

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.topology.load_state_dict(state["topology"])
        self.optimizer.load_state_dict(state["optimizer"])  # after the topology, whose masks its momentum obeys
        if self.optimizer.renorm is not None:
            self.optimizer.renorm.load_state_dict(state["renorm"])


def train(run: Run, record: Record, sinks: list[Sink], pace: Pace) -> None:
    """Train to the last epoch, from the checkpoint if there is one; leaves a finished record.

    Raises:
        DivergedError: a loss or gradient is not finite; the record says where.
    """
    with Interruption() as interruption:
        keeper = Keeper(run, record, pace, interruption)
        place = keeper.restore()
        record.start(place.history, place.steps, **run.facts)
        log = EpochLog(run.epochs)
        say(f"{record.dir}: {run.facts['name']}")
        for row in record.history:
            tell(sinks, row)
        for epoch in range(len(place.history), run.epochs):
            started = time.perf_counter() - place.seconds
            trained = train_epoch(run, epoch, place, keeper, started)
            row = {"epoch": epoch + 1, **trained, **evaluate(run), **look(run)}
            if not math.isfinite(row["test_loss"]):
                keeper.diverged(f"the test loss is {row['test_loss']} in epoch {epoch + 1}")
            row["seconds"] = round(time.perf_counter() - started, 3)
            record.append(row)
            keeper.after_epoch(last=epoch + 1 == run.epochs)
            place = Place(record.history, 0, run.meter(), 0.0)
            tell(sinks, row, run.topology)
            log.tell(row)
        keeper.files.tidy()
        if run.ranks.main:
            export(run.model, run.topology, record.dir)
        record.finish("complete", peak_memory_mib=round(peak_memory_mib(run.device), 1))
        keeper.finished()


def train_epoch(run: Run, epoch: int, place: Place, keeper: Keeper, started: float) -> dict:
    """One pass over the training set, or what `place` leaves of it; `started` is when it began."""
    if place.steps == 0:  # for models with dropout: torch knows no other source; in mid-epoch it is restored
        torch.manual_seed(derive(run.seed, "forward", epoch))
    run.forward.train()
    diagnostics = run.diagnostics()
    meter, first, last = place.meter, epoch * len(run.data.train), (epoch + 1) * len(run.data.train) - 1
    batches = run.data.train.epoch(epoch, place.steps)
    shown = progress(batches, len(run.data.train), f"epoch {epoch + 1}/{run.epochs}", place.steps)
    for step, (images, labels) in enumerate(shown, start=first + place.steps):
        run.set_lr(step)
        run.optimizer.zero_grad()
        loss, correct = run.loss(images, labels)
        loss.backward()
        meter.add(loss, correct, len(labels))
        meter.look(loss, [p.grad for p in run.model.parameters() if p.grad is not None], step, step - first)

        update = run.updater is not None and run.updater.due(step)
        if update:
            keeper.check(meter)
            with diagnostics.update(meter, run.updater, step):
                run.updater.update(step)
        if not (update and run.updater.skip_step):
            with diagnostics.step(meter) if (step - first) % NORM_EVERY == 0 else nullcontext():
                run.optimizer.step()
        if step < last:
            keeper.after_step(step + 1 - first, meter, time.perf_counter() - started)
    keeper.check(meter)  # waits for the device, so the time below is that of the work
    return {
        "step": last + 1,
        "lr": run.optimizer.param_groups[0]["lr"],
        "train_loss": meter.mean_loss(),
        "train_acc": meter.accuracy(),
        "grad_norm": meter.mean_norm(),
        "clipped_share": run.optimizer.renorm.clipped_share() if run.optimizer.renorm else None,
        "images_per_second": round(meter.images() / (time.perf_counter() - started), 1),
        **diagnostics.trained(meter),
    }


@torch.no_grad()
def evaluate(run: Run) -> dict:
    """Loss and accuracy on the whole test set, and on the images that are held out of training, if any."""
    run.average_statistics()
    run.forward.eval()
    row = {}
    for name, split in (("test", run.data.test), ("val", run.data.validation)):
        if split is not None:
            meter = run.meter()
            for images, labels in progress(split.epoch(0), len(split), name):
                loss, correct = run.loss(images, labels)
                meter.add(loss, correct, len(labels))
            row |= {f"{name}_loss": meter.mean_loss(), f"{name}_acc": meter.accuracy()}
    return row


def look(run: Run) -> dict:
    """What the topology is like now."""
    shares = {"realised_sparsity": run.topology.sparsity(), "itop_rate": run.topology.itop_rate()}
    return {**shares, **run.diagnostics().masks()}


def tell(sinks: list[Sink], row: dict, topology: Topology | None = None) -> None:
    for sink in sinks:
        sink.log(row, topology)
