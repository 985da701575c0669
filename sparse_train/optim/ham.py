"""Hyperbolic Aware Minimization (Jacobs et al., ICLR 2026, arXiv 2506.02630): a mirror step after the base step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_train.errors import require


def mirror_factor(weight: Tensor, grad: Tensor, lr: float | Tensor, alpha: float, beta: float) -> Tensor:
    """The factor that multiplies the weight:

        exp( clamp( lr * (-alpha * sign(w) * g - beta), -5, 5 ) )

    In the small-step limit the inverse metric is 1 + alpha |w| (Appendix A.1). A weight never changes its sign in
    this step, and one that is 0 stays 0.

    >>> mirror_factor(torch.tensor([0.5, 0.0]), torch.tensor([-1.0, -1.0]), lr=0.1, alpha=10.0, beta=0.0)
    tensor([2.7183, 1.0000])

    Args:
        weight: w, as the base step left it.
        grad: g, the gradient that the base step received: without momentum and weight decay.
        lr: the scheduled learning rate.
        alpha: strength of the hyperbolic geometry.
        beta: decay towards 0, per unit of learning rate.
    """
    return mirror_factors([weight], [grad], lr, alpha, beta)[0]


def mirror_factors(
    weights: Sequence[Tensor], grads: Sequence[Tensor], lr: float | Tensor, alpha: float, beta: float
) -> list[Tensor]:
    """`mirror_factor` of several weights, in a few operations on lists."""
    exponents = list(torch._foreach_sign(weights))
    torch._foreach_mul_(exponents, grads)
    torch._foreach_mul_(exponents, -alpha)
    torch._foreach_sub_(exponents, beta)
    torch._foreach_mul_(exponents, lr.squeeze() if isinstance(lr, Tensor) else lr)
    torch._foreach_clamp_min_(exponents, -5.0)
    torch._foreach_clamp_max_(exponents, 5.0)
    torch._foreach_exp_(exponents)
    return exponents


class HAM:
    """The mirror slot of `SparseSGD`: w <- w * mirror_factor(w, g), for weights of two or more dimensions.

    Args:
        alpha, beta: see `mirror_factor`. Table 4's "HAM hyperparameter h1 = 80" is read as alpha; the paper names no
            beta (HAM's own default is 1e-3).
    """

    def __init__(self, alpha: float = 80.0, beta: float = 0.0):
        for key, value in (("alpha", alpha), ("beta", beta)):
            require(value >= 0, key, value, "must be at least 0")
        self.alpha, self.beta = alpha, beta

    @torch.no_grad()
    def step(self, weights: Sequence[Tensor], grads: Sequence[Tensor], lr: float | Tensor) -> None:
        """Take the mirror step in place on weights whose base step used `grads`."""
        if weights:
            torch._foreach_mul_(weights, mirror_factors(weights, grads, lr, self.alpha, self.beta))
