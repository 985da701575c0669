"""A stretch of CIFAR-100 training: by the project's own loop, and by the one that everybody writes first."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR100

from sparse_train.__main__ import CONF
from sparse_train.data.memory import Batch, Split
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.process.console import RunBar
from sparse_train.process.signals import SignalHandler
from sparse_train.record.record import Record
from sparse_train.train.build import build
from sparse_train.train.checkpointing import Checkpointing, Interval, Progress
from sparse_train.train.loop import train_epoch

STEPS, BATCH = 10, 256
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class Stretch:
    """The first batches of an epoch."""

    def __init__(self, split: Split, batch: int):
        self.split, self.samples = split, STEPS * batch

    def __len__(self) -> int:
        return STEPS

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return islice(self.split.epoch(epoch, start), STEPS)


def entrypoint(
    device: torch.device, data_dir: str, *overrides: str, dataset: str = "cifar100", batch: int | None = None
) -> Callable[[], object]:
    """RigL + SparseOpt as `python -m sparse_train dataset=cifar100` trains it."""
    batch = batch or BATCH
    options = [f"dataset={dataset}", f"device={device.type}", f"data_dir={data_dir}", f"batch_size={batch}", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        run = build(compose("config", overrides=options))
    run = replace(run, data=run.data._replace(train=Stretch(run.data.train, batch)))
    keeper = Checkpointing(run, Record(tempfile.mkdtemp(), "benchmark"), Interval(), SignalHandler())

    def train() -> object:
        return train_epoch(run, 0, Progress([], 0, run.meter(), 0.0), keeper, time.perf_counter(), RunBar(1, STEPS))

    return train


def plain_loop(device: torch.device, data_dir: str, workers: int) -> Callable[[], object]:
    """Eager fp32 and dense: torchvision's data set and transforms, a DataLoader, SGD, the loss read at every step."""
    steps = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = CIFAR100(data_dir, transform=transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True, num_workers=workers)
    model = ResNet20(100).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def endless() -> Iterator[Batch]:
        while True:
            yield from loader

    batches = endless()

    def train() -> float:
        total = 0.0
        for inputs, labels in islice(batches, STEPS):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total

    return train
