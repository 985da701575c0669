"""MEST (Yuan et al. 2021, arXiv 2110.14032, elastic mutation): weights that still have a large gradient stay."""

from torch import Tensor

from sparse_train.errors import require
from sparse_train.sparsity.method import Layer
from sparse_train.sparsity.methods.set import SET


class MEST(SET):
    """Drop by |w| + gamma |g|, gamma being the paper's lambda; growth is random.

    The soft memory bound (EM&S), under which more weights are there between growth and removal, is not
    part of it.
    """

    def __init__(self, gamma: float = 1.0):
        require(gamma >= 0, "gamma", gamma, "must be at least 0: what the gradient counts beside the weight")
        self.gamma = gamma

    def drop_score(self, layer: Layer) -> Tensor:
        return layer.weight.abs() + self.gamma * layer.gradient.abs()
