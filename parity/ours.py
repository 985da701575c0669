"""Our side: a short run that gives the inputs, and what our code makes of them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from parity.updates import Update, torch_layer
from sparse_train import HAM, Method, RigL, SparseSGD, Topology, Updater
from sparse_train.models.init import kaiming_normal
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.sparsity.masks import drop, grow

SPARSITIES = (0.9, 0.97)
EVERY, UPDATES, BATCH = 4, 5, 16
TOTAL = (UPDATES + 1) * EVERY * 4 // 3
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def trace() -> list[Update]:
    """Every layer of ResNet20 at five mask updates of RigL on the digits, at each sparsity.

    The network trains in float64 and the arrays are rounded to float32. So another machine, whose sums differ in the
    last bits, has the same inputs.
    """
    return [update for sparsity in SPARSITIES for update in _run(sparsity)]


def _run(
    sparsity: float, initial: str = "random", distribution: str = "erk", method: Method | None = None
) -> Iterator[Update]:
    raw = load_digits()
    images, labels = torch.from_numpy(raw.images / 16)[:, None], torch.from_numpy(raw.target).long()
    model = ResNet20(10, in_channels=1)
    kaiming_normal(model, 0)
    model.double()
    topology = Topology(model, sparsity, distribution, initial=initial)
    optimizer = SparseSGD(model.parameters(), topology, **SGD)
    # The topology stays after three quarters of the run, and one more period has no update of its own.
    updater = Updater(topology, optimizer, method or RigL(), total_steps=TOTAL, every=EVERY)
    for step in range(UPDATES * EVERY + 1):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        if not updater.due(step):
            optimizer.step()
            continue
        fraction = np.float64(updater.fraction(step))
        for name, weight in topology.weights.items():
            arrays = (weight.detach().float(), weight.grad.float(), topology.masks[name])
            yield Update(*(array.clone().numpy() for array in arrays), fraction)
        updater.update(step)


def updated(update: Update) -> np.ndarray:
    """The mask after `Updater.update`."""
    layer = torch_layer(update.weight, update.grad)
    topology = Topology(layer, 0.0)
    topology.replace("weight", torch.from_numpy(update.mask))
    options = {"total_steps": 2, "drop_fraction": float(update.fraction), "every": 1, "stop_fraction": 1}
    Updater(topology, SparseSGD([layer.weight], topology, lr=0), RigL(), decay="constant", **options).update(1)
    return topology.masks["weight"].numpy()


def replaced(update: Update, more: int) -> np.ndarray:
    """The mask after `drop` and `grow` of so many weights more than the `Updater` takes."""
    count = int(update.fraction * update.mask.sum() * (1 + 1e-9)) + more
    weight, grad, mask = map(torch.from_numpy, update[:3])
    return grow(drop(mask, weight.abs(), count), grad.abs(), count).numpy()


def more(update: Update, mask: np.ndarray) -> int | None:
    """How many weights more than ours this mask's maker took, be it -1, 0 or 1; None if no count of ours gives it."""
    if np.array_equal(updated(update), mask):
        return 0
    return next((by for by in (-1, 1) if np.array_equal(replaced(update, by), mask)), None)


class Steps(NamedTuple):
    """What HAM is given: weights, the mask they have already, a gradient for each step, and its settings."""

    weight: np.ndarray
    mask: np.ndarray
    grads: np.ndarray
    alpha: float
    beta: float


def steps(seed: int = 0, count: int = 50) -> Steps:
    """A matrix of 1,000 weights at 90% and normal gradients, at step 10 so large that the exponent is clamped."""
    draw = np.random.default_rng(seed)
    mask = draw.random((20, 50)) < 0.1
    weight = 0.1 * draw.standard_normal((20, 50), dtype=np.float32) * mask
    grads = 0.03 * draw.standard_normal((count, 20, 50), dtype=np.float32)
    grads[10] *= 10
    return Steps(weight, mask, grads, 80.0, 1e-3)


def mirrored(given: Steps) -> np.ndarray:
    """The weights after these steps of SGD with HAM."""
    layer = torch_layer(given.weight, given.grads[0])
    topology = Topology(layer, 0.0)
    topology.replace("weight", torch.from_numpy(given.mask))
    optimizer = SparseSGD([layer.weight], topology, mirror=HAM(float(given.alpha), float(given.beta)), **SGD)
    for grad in given.grads:
        layer.weight.grad = torch.from_numpy(grad)
        optimizer.step()
    return layer.weight.detach().numpy()
