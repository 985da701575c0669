"""SET, sparse evolutionary training (Mocanu et al. 2018, arXiv 1707.04780)."""

import torch
from torch import Tensor

from sparse_train.sparsity.method import Layer, Method


class SET(Method):
    """Drop the smallest weights, and grow as many at places drawn uniformly at random.

    An update at step t replaces k of a layer's n weights w:

        k = floor(f_t n)
        drop   the k active weights with the smallest |w|
        grow   k inactive positions, drawn uniformly without replacement

    The paper drops the largest negative and smallest positive weights, a share of each.
    Weights that are grown start at 0.
    """

    def growth_score(self, layer: Layer) -> Tensor:
        return torch.rand(layer.weight.shape, generator=layer.generator).to(layer.weight.device)
