"""The training loop: every effect of a step is a visible line of it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from sparse_train import checkpoint
from sparse_train.data.memory import Data
from sparse_train.environment import peak_memory_mib
from sparse_train.errors import DivergedError
from sparse_train.log import EpochLog, progress, say
from sparse_train.optim.sgd import SparseSGD
from sparse_train.randomness import derive
from sparse_train.record import Record
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater

NORM_EVERY = 10  # the gradient norm in the history is the mean over every tenth step of the epoch


class Sink(Protocol):
    """Somebody else who wants the record's rows, such as W&B."""

    def log(self, row: dict) -> None: ...

    def finish(self, record: Record) -> None: ...


@dataclass
class Run:
    """All parts of one run, as `build` assembles them.

    Attributes:
        forward: the model as it is called: compiled, parallel, or the model itself.
        updater: None where the topology stays as it is.
        schedule: step -> learning rate.
        autocast: whether forward passes run in bfloat16.
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

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy and the number of correct answers."""
        images = images.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.forward(images)
        return F.cross_entropy(logits.float(), labels), (logits.detach().argmax(1) == labels).sum()

    def state_dict(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer, "topology": self.topology}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.topology.load_state_dict(state["topology"])
        self.optimizer.load_state_dict(state["optimizer"])  # after the topology, whose masks its momentum obeys


class Meter:
    """Sums over an epoch, kept on the device: reading them is the epoch's one synchronisation."""

    def __init__(self, device: torch.device):
        self.loss, self.correct, self.norm = (torch.zeros((), device=device, dtype=torch.float64) for _ in range(3))
        self.samples = self.norms = 0

    def add(self, loss: Tensor, correct: Tensor, samples: int) -> None:
        self.loss += loss.detach() * samples
        self.correct += correct
        self.samples += samples

    def add_norm(self, norm: Tensor) -> None:
        self.norm += norm
        self.norms += 1

    def mean_loss(self) -> float:
        return self.loss.item() / self.samples

    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.correct.item() / self.samples

    def mean_norm(self) -> float | None:
        return self.norm.item() / self.norms if self.norms else None


def train(run: Run, record: Record, sinks: list[Sink]) -> None:
    """Train to the last epoch, from the checkpoint if there is one; leaves a finished record.

    Raises:
        DivergedError: the loss is not finite; the record says so.
    """
    record.start(restore(run, record), **run.facts)
    log = EpochLog(run.epochs)
    say(f"{record.dir}: {run.facts['name']}")
    for row in record.history:
        tell(sinks, row)
    for epoch in range(len(record.history), run.epochs):
        started = time.perf_counter()
        row = {"epoch": epoch + 1, **train_epoch(run, epoch), **evaluate(run), **look(run)}
        for key in ("train_loss", "test_loss"):
            if not math.isfinite(row[key]):
                record.finish("diverged", reason=f"the {key.replace('_', ' ')} is {row[key]} in epoch {epoch + 1}")
                raise DivergedError(f"{record.dir}: {record.content['reason']}")
        row["seconds"] = round(time.perf_counter() - started, 3)
        record.append(row)
        checkpoint.save(record.checkpoint, {"id": record.id, "history": record.history, **run.state_dict()})
        tell(sinks, row)
        log.tell(row)
    record.finish("complete", peak_memory_mib=round(peak_memory_mib(run.device), 1))


def train_epoch(run: Run, epoch: int) -> dict:
    """One pass over the training set."""
    torch.manual_seed(derive(run.seed, "forward", epoch))  # for models with dropout: torch knows no other source
    run.forward.train()
    meter, first = Meter(run.device), epoch * len(run.data.train)
    started = time.perf_counter()
    batches = progress(run.data.train.epoch(epoch), len(run.data.train), f"epoch {epoch + 1}/{run.epochs}")
    for step, (images, labels) in enumerate(batches, start=first):
        for group in run.optimizer.param_groups:
            group["lr"] = run.schedule(step)
        run.optimizer.zero_grad()
        loss, correct = run.loss(images, labels)
        loss.backward()
        meter.add(loss, correct, len(labels))
        if (step - first) % NORM_EVERY == 0:
            meter.add_norm(get_total_norm([p.grad for p in run.model.parameters() if p.grad is not None]))

        update = run.updater is not None and run.updater.due(step)
        if update:
            run.updater.update(step)
        if not (update and run.updater.skip_step):
            run.optimizer.step()
    train_loss = meter.mean_loss()  # waits for the device, so the time below is that of the work
    return {
        "step": first + len(run.data.train),
        "lr": run.optimizer.param_groups[0]["lr"],
        "train_loss": train_loss,
        "train_acc": meter.accuracy(),
        "grad_norm": meter.mean_norm(),
        "clipped_share": run.optimizer.renorm.clipped_share() if run.optimizer.renorm else None,
        "images_per_second": round(meter.samples / (time.perf_counter() - started), 1),
    }


@torch.no_grad()
def evaluate(run: Run) -> dict:
    """Loss and accuracy on the whole test set."""
    run.forward.eval()
    meter = Meter(run.device)
    for images, labels in progress(run.data.test.epoch(0), len(run.data.test), "test"):
        loss, correct = run.loss(images, labels)
        meter.add(loss, correct, len(labels))
    return {"test_loss": meter.mean_loss(), "test_acc": meter.accuracy()}


def look(run: Run) -> dict:
    """What the topology is like now."""
    return {"realised_sparsity": run.topology.sparsity(), "itop_rate": run.topology.itop_rate()}


def restore(run: Run, record: Record) -> list[dict]:
    """Put the run where its checkpoint left it; returns the epochs done."""
    state = None if record.fresh else checkpoint.load(record.checkpoint, run.device)
    if state is None or state["id"] != record.id:
        return []
    run.load_state_dict(state)
    say(f"{record.dir}: going on after epoch {len(state['history'])} of {run.epochs}")
    return state["history"]


def tell(sinks: list[Sink], row: dict) -> None:
    for sink in sinks:
        sink.log(row)
