"""Figure 2: how much sparsity amplifies the gradients of a layer before batch normalization (Appendix E.3)."""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from math import prod

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from sparse_train.models.init import kaiming_normal, library_default
from sparse_train.models.mlp import MLP
from sparse_train.randomness import generator
from sparse_train.sparsity.masks import random_mask
from sparse_train.theory.measurement import Measured, load_data, masked, measurement

INITS = {"library_default": library_default, "kaiming_normal": kaiming_normal}


@measurement("Figure 2, norm {norm}", init=INITS)
def bn_gradient(
    cfg: DictConfig, norm: str, hidden: int, init: str, sparsities: Sequence[float], batches: int
) -> Measured:
    """At initialization, for each sparsity s of the first layer of a two-layer MLP:

        ratio = mean |g_sparse| / mean |g_dense|

    over the entries that the random mask keeps and over `batches` mini-batches, against 1 / sqrt(1 - s) (Eq. 11). The
    dense and the sparse network share their initial weights.

    Args:
        norm: "batch" or "none" after the first layer.
        hidden: its units.
        init: "library_default", torch's own, or "kaiming_normal"; biases are 0. It moves the curve without BN.
    """
    data = load_data(cfg)
    dense = MLP(data.num_classes, data.in_channels, data.image_size, [hidden], norm)
    INITS[init](dense, cfg.seed)
    shape = tuple(dense.layers[1].weight.shape)
    counts = [round((1 - s) * prod(shape)) for s in sparsities]
    draws = [generator(cfg.seed, "mask", str(s)) for s in sparsities]
    masks = list(map(partial(random_mask, shape), counts, draws))
    sparse = [masked(dense, "layers.1", mask) for mask in masks]
    sums = torch.zeros(2, len(masks), dtype=torch.float64)
    for images, labels in islice(data.train.epoch(0), batches):
        reference = _first_gradient(dense, images, labels)
        for i, (model, mask) in enumerate(zip(sparse, masks, strict=True)):
            gradient = _first_gradient(model, images, labels)
            sums[:, i] += torch.stack([gradient[mask].mean(), reference[mask].mean()])
    rows = [
        {"sparsity": s, "ratio": float(of_sparse / of_dense), "theory": (1 - s) ** -0.5}
        for s, of_sparse, of_dense in zip(sparsities, *sums, strict=True)
    ]
    worst = max(abs(row["ratio"] / row["theory"] - 1) for row in rows)
    return rows, {"largest_relative_error": worst}


def _first_gradient(model: MLP, images: Tensor, labels: Tensor) -> Tensor:
    """|dL/dW| of the first layer, L being the mean cross entropy."""
    return torch.autograd.grad(F.cross_entropy(model(images), labels), model.layers[1].weight)[0].abs()
