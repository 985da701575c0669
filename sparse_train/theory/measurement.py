"""What the measurements share: timing, the record, data and first layers."""

import time
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor

from sparse_train.build import pick_device, set_up_torch
from sparse_train.data.memory import Data, Loading
from sparse_train.facts import facts
from sparse_train.log import say
from sparse_train.record import Record
from sparse_train.targets import make


def measure(cfg: DictConfig, record: Record, name: str, work: Callable[[], tuple[list[dict], dict]]) -> None:
    """Run `work`, which returns rows and what they come to, and leave both as a complete record."""
    set_up_torch(cfg)
    about = facts(cfg, f"{name} seed {cfg.seed}", pick_device(cfg))
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


def cross_entropy_gradient(model: torch.nn.Module, weight: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """dL/dweight of the mean cross entropy on one batch; nothing else is touched."""
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    return torch.autograd.grad(loss, weight)[0]
