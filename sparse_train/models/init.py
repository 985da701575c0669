"""Initial weights, drawn from named generators: the same on every rank, device and library version."""

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor, nn

from sparse_train.randomness import generator
from sparse_train.sparsity.layers import by_column
from sparse_train.sparsity.lengths import lengths
from sparse_train.sparsity.topology import Topology

CUT_STD = 0.87962566103423978  # the standard deviation of a standard normal that is cut off at -2 and 2


def kaiming_normal(model: nn.Module, seed: int) -> None:
    """Every weight with ndim > 1 from N(0, 2 / fan_in), fan_in = in x k_h x k_w (He et al. 2015); its biases to 0.

    Normalization parameters stay as the model made them.
    """
    _fill(model, seed, lambda w, drawn_by: torch.randn(w.shape, generator=drawn_by) * sqrt(2 / w[0].numel()))


def lecun_normal(model: nn.Module, seed: int) -> None:
    """flax's default: variance 1 / fan_in, of a normal that is cut off at two of its standard deviations; biases 0."""

    def drawn(weight: Tensor, drawn_by: torch.Generator) -> Tensor:
        std = 1 / sqrt(weight[0].numel()) / CUT_STD
        return nn.init.trunc_normal_(torch.empty(weight.shape), 0, std, -2 * std, 2 * std, drawn_by)

    _fill(model, seed, drawn)


def library_default(model: nn.Module, seed: int) -> None:
    """torch's own default for linear layers and convolutions, U(-1, 1) / sqrt(fan_in); biases 0. Named generators."""

    def drawn(weight: Tensor, drawn_by: torch.Generator) -> Tensor:
        return (2 * torch.rand(weight.shape, generator=drawn_by) - 1) * (1 / sqrt(weight[0].numel()))

    _fill(model, seed, drawn)


@torch.no_grad()
def _fill(model: nn.Module, seed: int, drawn: Callable[[Tensor, torch.Generator], Tensor]) -> None:
    columns = by_column(model)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            rows = weight.T if weight in columns else weight
            rows.copy_(drawn(rows, generator(seed, "init", name)))
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            module.bias.zero_()


@torch.no_grad()
def own_fan_in(topology: Topology) -> None:
    """Scale each neuron's weights by sqrt(N / fan_in_i), so that their variance is 2 / fan_in_i (Evci et al. 2022).

    This removes the differences in pre-activation variance between neurons from which Eq. 8 starts.
    """
    for name, weight in topology.weights.items():
        mask = topology.rows(name, topology.masks[name])
        scale = (mask[0].numel() / mask.flatten(1).sum(1).clamp(min=1)).sqrt()
        weight.mul_(topology.rows(name, scale.view(-1, *[1] * (weight.ndim - 1))))


@torch.no_grad()
def over_sqrt_c(topology: Topology) -> None:
    """Divide each neuron's weights by sqrt(c_i) (Eq. 12).

    With static masks, SGD from here has the outputs of SparseOpt from the dense initialization (`results/theory.md`).
    """
    for name, weight in topology.weights.items():
        weight.div_(topology.rows(name, lengths(topology.rows(name, topology.masks[name]), "sparseopt")))
