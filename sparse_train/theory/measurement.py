"""What the measurements share: their record, batches, masked copies, and a look inside a network."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import wraps
from inspect import Parameter, signature
from itertools import chain, count, islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from sparse_train.data.memory import Batch, Data, Split
from sparse_train.errors import require_one_of
from sparse_train.options.targets import make
from sparse_train.process.console import say
from sparse_train.process.distributed import Ranks
from sparse_train.record.metadata import metadata
from sparse_train.record.record import Record
from sparse_train.train.build import loading
from sparse_train.train.device import pick_device, set_up_torch
from sparse_train.train.tasks import released

Measured = tuple[list[dict], dict]  # rows, and their final numbers


def measurement(
    name: str, check: Callable[..., None] = lambda **_: None, **words: Collection[str]
) -> Callable[[Callable[..., Measured]], Callable[..., None]]:
    """Make a task of a function that takes `cfg` and options of its own: what it returns becomes a complete record.

    Args:
        name: of the record; a format of the function's options and of `cfg`.
        check: raises an error for options that cannot work, before a record is begun.
        words: option -> the values that it may have; another is refused, as `check` does.
    """

    def task_of(work: Callable[..., Measured]) -> Callable[..., None]:
        @wraps(work)
        def task(cfg: DictConfig, record: Record, **options: object) -> None:
            for key, known in words.items():
                require_one_of(key, options[key], known)
            check(**options)
            device = pick_device(cfg)
            set_up_torch(cfg, device, tf32=False)  # slopes of small numbers are measured
            about = metadata(cfg, f"{name.format(cfg=cfg, **options)} seed {cfg.seed}", device)
            with released(), record.held():
                if not record.finished:
                    record.start([], **about)
                    say(f"{about['name']} (run {record.id})")
                    started = time.perf_counter()
                    rows, final = work(cfg, **options)
                    record.measured(rows, final, seconds=round(time.perf_counter() - started, 3))

        first, *options = signature(work).parameters.values()
        second = Parameter("record", Parameter.POSITIONAL_OR_KEYWORD, annotation=Record)
        task.__signature__ = signature(work).replace(parameters=[first, second, *options], return_annotation=None)
        return task

    return task_of


def load_data(cfg: DictConfig) -> Data:
    """The configured data set."""
    return make(cfg, "dataset", loading(cfg, pick_device(cfg), Ranks()))


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


class Look(NamedTuple):
    """Of one pass through a network: a layer, and the normalization after it.

    Attributes:
        gradient: dL/dW of the layer.
        inputs, output: of the layer.
        normalized: what the normalization reads.
        grad_y: dL of what the normalization gives.
    """

    gradient: Tensor
    inputs: Tensor
    output: Tensor
    normalized: Tensor
    grad_y: Tensor


def look(model: nn.Module, layer: str, norm: str, images: Tensor, labels: Tensor) -> Look:
    """With the mean cross entropy as L; no gradient is left in the model."""
    with watched(model, layer, norm) as seen:
        loss = F.cross_entropy(model(images), labels)
    (inputs, output), (into, y) = seen[layer], seen[norm]
    gradient, grad_y = torch.autograd.grad(loss, (model.get_submodule(layer).weight, y))
    return Look(gradient, inputs.detach(), output.detach(), into.detach(), grad_y)
