"""SET, sparse evolutionary training (Mocanu et al. 2018, arXiv 1707.04780)."""

import torch
from torch import Tensor

from sparse_train.sparsity.method import Layer, Method


class SET(Method):
    """Grow uniformly at random."""

    def growth_score(self, layer: Layer) -> Tensor:
        return torch.rand(layer.weight.shape, generator=layer.generator).to(layer.weight.device)
