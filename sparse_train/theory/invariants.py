"""The balance equations of Appendix A.1: what the two flows keep, and when the outer weight may change its sign."""

import torch
from torch import Tensor


def potential(a: Tensor, alpha: float) -> Tensor:
    """Lemma A.3's integral of p / (1 + alpha |p|) from 0 to a: (alpha |a| - ln(1 + alpha |a|)) / alpha^2."""
    scaled = alpha * a.abs()
    return (scaled - torch.log1p(scaled)) / alpha**2


def invariant(a: Tensor, gamma: Tensor, beta: Tensor, alpha: float | None) -> Tensor:
    """What stays along the flow.

    Gradient flow (`alpha` None), Lemma A.1: a^2 - gamma^2 - beta^2.
    HAM's flow, Lemma A.3: potential(a) - (gamma^2 + beta^2) / 2.
    """
    if alpha is None:
        return a.square() - gamma.square() - beta.square()
    return potential(a, alpha) - (gamma.square() + beta.square()) / 2


def flip_forbidden(a0: Tensor, gamma0: Tensor, beta0: Tensor, alpha: float | None) -> Tensor:
    """Whether the invariant keeps a from passing 0.

    At a = 0 the invariant is -(gamma^2 + beta^2) (times 1/2 for HAM), which is at most 0 and is 0 only where the
    gradient of a vanishes too. So a flip needs a negative invariant: gamma0^2 + beta0^2 > a0^2 for gradient flow, and
    Corollary A.4 for HAM. The sentence after Lemma A.1 has this the wrong way round. The condition is necessary, not
    sufficient.
    """
    return invariant(a0, gamma0, beta0, alpha) >= 0
