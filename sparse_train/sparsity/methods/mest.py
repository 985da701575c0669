"""MEST (Yuan et al. 2021, arXiv 2110.14032, elastic mutation): weights that still have a large gradient stay."""

from torch import Tensor

from sparse_train.errors import require


class MEST:
    """A drop score: |w| + gamma |g|, gamma being the paper's lambda. Growth is random, as SET's.

    The soft memory bound (EM&S), under which more weights are there between growth and removal, is not
    part of it.
    """

    def __init__(self, gamma: float = 1.0):
        require(gamma >= 0, "gamma", gamma, "must be at least 0: what the gradient counts beside the weight")
        self.gamma = gamma

    def __call__(self, weight: Tensor, grad: Tensor) -> Tensor:
        return weight.abs() + self.gamma * grad.abs()
