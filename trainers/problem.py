"""What every loop trains: a small convolutional network, for two epochs of the same twelve batches."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_train import RigL, SparseOpt, SparseSGD, Topology, Updater

BATCHES, BATCH, EPOCHS, CLASSES = 12, 16, 2, 5


@dataclass
class Parts:
    """A model and what trains it. With the same seed they are the same every time."""

    model: nn.Module
    topology: Topology
    optimizer: torch.optim.Optimizer
    updater: Updater


class Network(nn.Module):
    """Returns the loss beside the logits where labels are given, as Hugging Face's Trainer wants."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
        )

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        logits = self.body(x)
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def network(seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network()


def optimizer_of(kind: str, model: nn.Module, topology: Topology) -> torch.optim.Optimizer:
    if kind == "SparseSGD":
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "precondition": SparseOpt()}
        return SparseSGD(model.parameters(), topology, **options)
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def updater_of(topology: Topology, optimizer: torch.optim.Optimizer) -> Updater:
    return Updater(topology, optimizer, RigL(), total_steps=BATCHES * EPOCHS, drop_fraction=0.5, every=4)


def parts(kind: str, attached: bool = True) -> Parts:
    model = network()
    topology = Topology(model, 0.8)
    optimizer = optimizer_of(kind, model, topology)
    updater = updater_of(topology, optimizer)
    return Parts(model, topology, optimizer, updater.attach() if attached else updater)


def dataset() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCHES * BATCH, 3, 8, 8, generator=generator)
    labels = torch.randint(CLASSES, (BATCHES * BATCH,), generator=generator)
    return [{"x": x, "labels": y} for x, y in zip(images, labels, strict=True)]


def loader() -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(dataset(), batch_size=BATCH)


def reference(kind: str) -> Parts:
    """The visible loop, in one go."""
    made, step = parts(kind, attached=False), 0
    for _ in range(EPOCHS):
        for batch in loader():
            made.optimizer.zero_grad()
            made.model(**batch)["loss"].backward()
            made.updater.update(step) if made.updater.due(step) else made.optimizer.step()
            step += 1
    return made
