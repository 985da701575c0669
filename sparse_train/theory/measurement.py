"""What the measurements share: timing, the record, batches, masked copies, and a look inside a forward pass."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain, count, islice

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from sparse_train.data.memory import Batch, Data, Loading, Split
from sparse_train.options.targets import make
from sparse_train.process.console import say
from sparse_train.record.metadata import metadata
from sparse_train.record.record import Record
from sparse_train.train.build import pick_device, set_up_torch


def measure(work: Callable[[], tuple[list[dict], dict]], cfg: DictConfig, record: Record, name: str) -> None:
    """Run `work`, which returns rows and their final numbers, and leave both as a complete record."""
    set_up_torch(cfg)
    about = metadata(cfg, f"{name} seed {cfg.seed}", pick_device(cfg))
    with record.held():
        if not record.finished:
            record.start([], **about)
            say(f"{record.dir}: {about['name']}")
            started = time.perf_counter()
            rows, final = work()
            record.measured(rows, final, seconds=round(time.perf_counter() - started, 3))


def load_data(cfg: DictConfig) -> Data:
    """The configured data set."""
    device = pick_device(cfg)
    return make(cfg, "dataset", Loading(cfg.data_dir, cfg.batch_size, cfg.seed, device, cfg.download, cfg.workers))


def first_batches(split: Split, steps: int) -> Iterator[Batch]:
    """So many training batches, epoch after epoch."""
    return islice(chain.from_iterable(map(split.epoch, count())), steps)


def masked(model: nn.Module, layer: str, mask: Tensor) -> nn.Module:
    """A copy of the model with one layer's weight masked."""
    sparse = deepcopy(model)
    with torch.no_grad():
        sparse.get_submodule(layer).weight.mul_(mask)
    return sparse


@contextmanager
def watched(model: nn.Module, *layers: str) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Layer -> its input and output in the forward pass that is made inside."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(layer: str) -> Callable:
        return lambda _module, inputs, output: seen.update({layer: (inputs[0], output)})

    hooks = [model.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def cross_entropy_gradient(model: torch.nn.Module, weight: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """dL/dweight of the mean cross entropy on one batch; nothing else is touched."""
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    return torch.autograd.grad(loss, weight)[0]
