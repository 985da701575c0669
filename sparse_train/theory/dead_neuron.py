"""The dense gradient of a neuron before batch normalization as its weights vanish: why RigL revives dead neurons."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import islice
from math import prod

import torch
import torch.nn.functional as F
from omegaconf import DictConfig

from sparse_train.errors import require
from sparse_train.models.init import kaiming_normal
from sparse_train.models.mlp import MLP
from sparse_train.randomness import generator
from sparse_train.sparsity.masks import random_mask
from sparse_train.theory.measurement import Measured, load_data, masked, measurement


def _check(lengths: Sequence[float], shift: float, neurons: int, hidden: int, **_: object) -> None:
    require(1.0 in lengths, "lengths", list(lengths), "must have 1, the neuron as it is")
    require(shift > 0, "shift", shift, "must be above 0, or ReLU passes no gradient to a neuron without weights")
    require(0 < neurons <= hidden, "neurons", neurons, f"must be at least 1 and at most hidden={hidden}")


@measurement("dead neuron, eps {eps:g}", check=_check)
def dead_neuron(
    cfg: DictConfig,
    hidden: int,
    eps: float,
    shift: float,
    lengths: Sequence[float],
    sparsity: float,
    neurons: int,
    batches: int,
) -> Measured:
    """One neuron of a sparse layer before batch normalization has its weights multiplied by t, the others keep theirs.

    With z = w x of variance v, and u the gradient of the loss by the normalization's output, the neuron's dense
    gradient at t w is

        gamma / sqrt(t^2 v + eps) * < u - mean(u) - xhat mean(u xhat), x >,   xhat = t (z - mean(z)) / sqrt(t^2 v + eps)

    The first factor is Eq. 10's 1/sqrt(1-s) where a neuron's variance is in proportion to its fan-in and eps is
    negligible. As t falls it grows: over its value at t = 1 it is sqrt((v + eps) / (t^2 v + eps)), first as 1/t, up to
    sqrt(1 + v / eps) for a neuron without weights, 316 where v is 1 and eps 1e-5. RigL grows where the dense gradient
    is largest, so such a neuron takes most of what its layer grows.

    (Unless the activation behind it is shut: without weights the neuron's output is the shift beta, and ReLU passes no
    gradient where beta <= 0. Such a neuron stays dead.)

    Measured on a two-layer MLP in float64: for each t the norm of that gradient over its norm at t = 1, the geometric
    mean over neurons and mini-batches, beside the factor.

    Args:
        hidden: units of the layer.
        eps, shift: of the normalization; the shift is beta, the same for all neurons.
        lengths: the values of t, 1 among them.
        sparsity: of the layer, at random.
        neurons: how many are measured, one at a time.
        batches: mini-batches.
    """
    data = load_data(cfg)
    model = MLP(data.num_classes, data.in_channels, data.image_size, [hidden], "batch").double()
    kaiming_normal(model, cfg.seed)
    model.layers[2].eps = eps
    torch.nn.init.constant_(model.layers[2].bias, shift)
    shape = model.layers[1].weight.shape
    mask = random_mask(tuple(shape), round((1 - sparsity) * prod(shape)), generator(cfg.seed, "mask", "layers.1"))
    model = masked(model, "layers.1", mask)
    norms, factors = (torch.zeros(len(lengths), neurons, batches, dtype=torch.float64) for _ in range(2))
    for batch, (images, labels) in enumerate(islice(data.train.epoch(0), batches)):
        variances = model.layers[1](images.double().flatten(1)).detach().var(0, correction=0)
        for place, length in enumerate(lengths):
            factors[place, :, batch] = ((variances + eps) / (length**2 * variances + eps)).sqrt()[:neurons]
            for neuron in range(neurons):
                scaled = deepcopy(model)
                with torch.no_grad():
                    scaled.layers[1].weight[neuron] *= length
                    scaled.layers[1].bias[neuron] *= length
                loss = F.cross_entropy(scaled(images.double()), labels)
                gradient = torch.autograd.grad(loss, scaled.layers[1].weight)[0]
                norms[place, neuron, batch] = gradient[neuron].norm()
    ratios = norms / norms[list(lengths).index(1.0)]
    seen = (norms > 0).all(0)  # a neuron that no image of the batch activates has no gradient at all
    rows = [
        {"length": length, "ratio": _geometric(ratios[i][seen]), "theory": _geometric(factors[i][seen])}
        for i, length in enumerate(lengths)
    ]
    smallest = min(rows, key=lambda row: row["length"])
    worst = max(abs(row["ratio"] / row["theory"] - 1) for row in rows)
    return rows, {"factor": smallest["ratio"], "factor_theory": smallest["theory"], "largest_relative_error": worst}


def _geometric(values: torch.Tensor) -> float:
    return float(values.log().mean().exp())
