"""Which layers a normalization makes indifferent to their own scale."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparse_train.errors import require
from sparse_train.randomness import generator
from sparse_train.sparsity.layers import owners, parameters, stripped

SAMPLES = 4  # two samples of one value a channel would be normalized to 1 and -1, whatever they are
NONE = 1e-10  # of |w| |g|: in twenty families normalized layers are below 1e-15, others above 1e-6
ROUNDING = 1e-13  # of the largest |w| |g|: a neuron of one weight has no other gradient before normalization


def normalized(model: nn.Module, names: Collection[str], example: Any) -> list[str]:
    """Those of the named weights whose layer is normalized: a factor on its weight and bias leaves the outputs.

    By Euler's theorem that is so where the outputs' derivative by the factor a vanishes,

        d f(a w, a b) / da at a = 1  =  <w, df/dw> + <b, df/db>  =  0,

    which one forward and one backward pass measure for all layers, in whatever way the model is written. They run in
    float64 on a copy of the model with random parameters, random inputs and random weights of the outputs; with batch
    statistics, an eps of 0 and without dropout. So nothing depends on masks or training, or changes in the model.

    Args:
        names: as in `Topology.weights`.
        example: an input of the model with its batch dimension: a tensor, or a mapping of keywords. Only shapes of real
            numbers count; whole numbers, as of tokens, are taken as they are.

    Raises:
        ConfigError: no gradient of the outputs is finite.
    """
    draw = generator(0, "normalized")
    probe = deepcopy(stripped(model)).double().eval()
    for module in probe.modules():
        if hasattr(module, "running_mean"):
            module.training = True
        if isinstance(getattr(module, "eps", None), float):
            module.eps = 1e-30
    for p in probe.parameters():
        values = torch.rand(p.shape, generator=draw, dtype=torch.float64) + 0.5
        if p.ndim > 1:
            values = torch.randn(p.shape, generator=draw, dtype=torch.float64) / sqrt(p[0].numel())
        p.data.copy_(values)
        p.requires_grad_()
        p.grad = None
    with torch.enable_grad():
        if isinstance(example, Mapping):
            outputs = probe(**{key: _several(value, draw) for key, value in example.items()})
        else:
            outputs = probe(_several(example, draw))
        leaves = [each for each in tree_leaves(outputs) if isinstance(each, Tensor)]
        weighted = [(each * _like(each, draw)).sum() for each in leaves if each.requires_grad]
        require(bool(weighted), "example", type(example).__name__, "gives outputs of the model that have no gradient")
        sum(weighted).backward()
    held, slopes, sizes = owners(probe), {}, {}
    for name, weight in parameters(probe).items():
        if name in names and weight.grad is not None:
            biases = {getattr(module, key.replace("weight", "bias"), None) for module, key in held[weight]} - {weight}
            layer = [weight, *(b for b in biases if isinstance(b, Tensor) and b.grad is not None)]
            slopes[name] = abs(sum(float((p.detach() * p.grad).sum()) for p in layer))
            sizes[name] = sum(float(p.detach().norm() * p.grad.norm()) for p in layer)
            right = f"gives {name} a gradient that is not finite"
            require(isfinite(sizes[name]), "example", type(example).__name__, right)
    rounding = ROUNDING * max(sizes.values(), default=0.0)
    return [name for name, slope in slopes.items() if slope <= max(NONE * sizes[name], rounding)]


def _several(example: Tensor, draw: torch.Generator) -> Tensor:
    if not isinstance(example, Tensor) or not example.is_floating_point():
        return example
    return _like(example[:1].expand(SAMPLES, *example.shape[1:]), draw)


def _like(tensor: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=draw, dtype=torch.float64).to(tensor.device)
