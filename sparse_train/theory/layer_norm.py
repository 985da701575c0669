"""Appendix D measured: what sparsity does to gradients before layer normalization, uniform or not."""

from collections.abc import Sequence
from itertools import islice

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from sparse_train.models.init import kaiming_normal
from sparse_train.models.mlp import MLP
from sparse_train.randomness import generator
from sparse_train.sparsity.masks import random_mask
from sparse_train.theory.gradients import batch_norm_input_gradient, layer_norm_input_gradient, slope
from sparse_train.theory.measurement import Measured, load_data, look, masked, measurement


class Block(nn.Module):
    """A post-LN transformer block on rows of pixels: its embedding feeds a layer norm, its output via a residual."""

    def __init__(self, num_classes: int, image_size: int, width: int = 64, heads: int = 4):
        super().__init__()
        self.embed, self.norm0 = nn.Linear(image_size, width), nn.LayerNorm(width)
        self.attention, self.norm1 = nn.MultiheadAttention(width, heads, batch_first=True), nn.LayerNorm(width)
        self.up, self.down, self.norm2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.embed(x.flatten(1, 2)))
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        x = self.norm2(x + self.down(torch.relu(self.up(x))))
        return self.classifier(x.mean(1))


# where -> (network, the layer that is masked, what normalizes its output)
PLACES = {
    "mlp": (
        lambda data: MLP(data.num_classes, data.in_channels, data.image_size, [256], "layer"),
        "layers.1",
        "layers.2",
    ),
    "mlp_bn": (lambda data: MLP(data.num_classes, data.in_channels, data.image_size, [256]), "layers.1", "layers.2"),
    "block_embedding": (lambda data: Block(data.num_classes, data.image_size), "embed", "norm0"),
    "block_output": (lambda data: Block(data.num_classes, data.image_size), "down", "norm2"),
}
FAN_INS = ("uniform", "random", "graded")


@measurement("layer norm, {place}, {fan_ins} fan-ins", place=PLACES, fan_ins=FAN_INS)
def layer_norm(cfg: DictConfig, place: str, fan_ins: str, sparsities: Sequence[float], batches: int) -> Measured:
    """For each sparsity s of one layer, against its dense twin at initialization:

    - `ratio`: mean |g_sparse| / mean |g_dense| of the kept weights, against 1 / sqrt(1 - s)
    - `variance_ratio`, `sigma_ratio`: Eq. 15 and 16, Var(x') / Var(x) and sigma_LN'^2 / sigma_LN^2, against 1 - s
    - `exponent`: of (1 - s_i) in the factor by which each neuron's own gradient is amplified, dL/dxhat held fixed: -1/2
      for batch normalization, 0 where one sigma serves all neurons

    Args:
        place: "mlp", its first layer before LN; "mlp_bn", before BN, for comparison; "block_embedding", before LN in a
            transformer block; "block_output", its last layer, whose output joins a residual before LN.
        fan_ins: "uniform", every neuron with the same fan-in, as Appendix D assumes; "random", a random mask;
            "graded", fan-ins spread evenly between 0 and twice the mean, which the paper leaves to future work.
    """
    data = load_data(cfg)
    make, layer, _ = PLACES[place]
    dense = make(data)
    kaiming_normal(dense, cfg.seed)
    images, labels = zip(*islice(data.train.epoch(0), batches), strict=True)
    rows = []
    for s in sparsities:
        mask = masks(tuple(dense.get_submodule(layer).weight.shape), s, fan_ins, cfg.seed)
        found = _compare(dense, masked(dense, layer, mask), place, mask, images, labels)
        rows.append({"sparsity": s, "theory": (1 - s) ** -0.5, **found})
    return rows, {"largest_relative_error": max(abs(row["ratio"] / row["theory"] - 1) for row in rows)}


def masks(shape: tuple[int, ...], sparsity: float, fan_ins: str, seed: int) -> Tensor:
    """A mask whose neurons have `uniform`, `random` or `graded` fan-ins, about (1 - sparsity) of all weights."""
    draw = generator(seed, "mask", str(sparsity))
    neurons, inputs = shape
    mean = (1 - sparsity) * inputs
    if fan_ins == "random":
        return random_mask(shape, round(mean * neurons), draw)
    spread = min(mean, inputs - mean) if fan_ins == "graded" else 0.0
    counts = (mean + spread * torch.linspace(-1, 1, neurons)).round().clamp(1, inputs).int().tolist()
    return torch.stack([random_mask((inputs,), count, draw) for count in counts])


def _compare(dense: nn.Module, sparse: nn.Module, place: str, mask: Tensor, images: tuple, labels: tuple) -> dict:
    _, layer, norm = PLACES[place]
    formula = batch_norm_input_gradient if place == "mlp_bn" else lambda x, g: layer_norm_input_gradient(x, g, 1.0)
    sums, exponents = torch.zeros(4, dtype=torch.float64), []
    for x, y in zip(images, labels, strict=True):
        of_dense, of_sparse = (look(model, layer, norm, x, y) for model in (dense, sparse))
        grad = of_sparse.grad_y.flatten(0, -2)
        amplified, plain = (formula(of.normalized.flatten(0, -2), grad).norm(dim=0) for of in (of_sparse, of_dense))
        if mask.sum(1).unique().numel() > 1:
            exponents.append(slope(mask.double().mean(1), amplified / plain))
        x_sparse, x_dense = (of.output.flatten(0, -2) for of in (of_sparse, of_dense))
        variances = [x_sparse.var(dim).mean() / x_dense.var(dim).mean() for dim in (0, -1)]
        kept = [of.gradient.abs()[mask].mean() for of in (of_sparse, of_dense)]
        sums += torch.stack([*kept, *variances]).double()
    row = {"ratio": float(sums[0] / sums[1])}
    row |= {"variance_ratio": float(sums[2]) / len(images), "sigma_ratio": float(sums[3]) / len(images)}
    return row | {"exponent": sum(exponents) / len(exponents) if exponents else None}
