"""One or two student neurons with batch normalization and a teacher without (Appendix A.1), many seeds at once.

    f(z) = sum_k a_k relu(y_k),    y_k = gamma_k xhat_k + beta_k,    xhat_k = BN(w_k . z)
    L = 1 / (2 m) sum_j (yhat_j - f(z_j))^2

Gradients by formula (`theory.gradients`), in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_train.optim.ham import mirror_factor
from sparse_train.randomness import generator
from sparse_train.theory.gradients import batch_norm_input_gradient

EPS = 1e-5
OPTIMIZERS = ("gd", "ham", "ham_flow")


@dataclass
class Students:
    """S independent students of K neurons with n inputs: w (S, K, n); a, gamma, beta (S, K)."""

    w: Tensor
    a: Tensor
    gamma: Tensor
    beta: Tensor


@dataclass
class Problem:
    """Inputs z (S, m, n), targets (S, m), masks (K, n) of what each neuron sees."""

    z: Tensor
    target: Tensor
    mask: Tensor


def problem(seeds: int, seed: int, masks: list[list[int]], inputs: int = 10, samples: int = 200) -> Problem:
    """z ~ N(0, 1); the teacher relu(w* . z) has two weights ~ N(0, 1), on the first two inputs, and a* = 1."""
    z = torch.randn(seeds, samples, inputs, generator=generator(seed, "inputs"), dtype=torch.float64)
    teacher = torch.randn(seeds, 2, generator=generator(seed, "teacher"), dtype=torch.float64)
    target = torch.relu((z[..., :2] * teacher[:, None]).sum(-1))
    return Problem(z, target, torch.tensor(masks, dtype=torch.float64))


def students(on: Problem, seed: int, law: float, a0: Tensor, gamma0: Tensor, beta0: Tensor) -> Students:
    """w0 ~ law * N(0, 1) on the inputs that each neuron sees; the others as given, broadcast to (S, K)."""
    shape = (len(on.z), *on.mask.shape)
    w = law * torch.randn(shape, generator=generator(seed, "student"), dtype=torch.float64) * on.mask
    return Students(w, *(value.double().expand(shape[:2]).clone() for value in (a0, gamma0, beta0)))


def forward(on: Problem, s: Students) -> tuple[Tensor, Tensor, Tensor]:
    """Pre-activations x, normalized xhat and y, each (S, m, K)."""
    x = torch.einsum("smn,skn->smk", on.z, s.w)
    centred = x - x.mean(1, keepdim=True)
    xhat = centred / (centred.square().mean(1, keepdim=True) + EPS).sqrt()
    return x, xhat, s.gamma[:, None] * xhat + s.beta[:, None]


def loss(on: Problem, s: Students) -> Tensor:
    """L of every student, (S,)."""
    output = (s.a[:, None] * torch.relu(forward(on, s)[2])).sum(-1)
    return (output - on.target).square().mean(1) / 2


def gradients(on: Problem, s: Students) -> Students:
    """dL of every parameter; that of w masked."""
    x, xhat, y = forward(on, s)
    active = torch.relu(y)
    residual = ((s.a[:, None] * active).sum(-1) - on.target)[..., None] / on.z.shape[1]
    grad_y = residual * s.a[:, None] * (y > 0)
    grad_x = batch_norm_input_gradient(x, grad_y * s.gamma[:, None], EPS)
    grad_w = torch.einsum("smk,smn->skn", grad_x, on.z) * on.mask
    return Students(grad_w, (residual * active).sum(1), (grad_y * xhat).sum(1), grad_y.sum(1))


def step(on: Problem, s: Students, eta: float, optimizer: str, alpha: float, scale: Tensor) -> None:
    """One iteration in place.

    Args:
        optimizer: "gd"; "ham_flow", an Euler step of HAM's flow, whose inverse metric is 1 + alpha |w| for w and a and
            1 for gamma and beta; or "ham", gradient descent and then the mirror step of `optim.ham` on w and a.
        scale: (K,), what w's gradient is multiplied by: 1, D = sqrt(1 - s_k), or Eq. 12.
    """
    g = gradients(on, s)
    g.w *= scale[:, None]
    flow = optimizer == "ham_flow"
    for weight, grad in ((s.w, g.w), (s.a, g.a)):
        weight -= eta * (1 + alpha * weight.abs()) * grad if flow else eta * grad
        if optimizer == "ham":
            weight *= mirror_factor(weight, grad, eta, alpha, 0.0)
    s.gamma -= eta * g.gamma
    s.beta -= eta * g.beta


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
