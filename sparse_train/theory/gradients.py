"""How normalization layers pass gradients back, by formula, independent of autograd."""

import torch
from torch import Tensor


def batch_norm_input_gradient(x: Tensor, grad_xhat: Tensor, eps: float = 0.0) -> Tensor:
    """dL/dx of batch normalization, Section 3 before Eq. 9, for each neuron i over its batch of m samples:

        dL/dx = 1 / sigma_i * ( g - mean(g) - xhat * mean(g * xhat) ),    g = dL/dxhat

    Args:
        x: pre-activations, (m, neurons), any dimensions before.
        grad_xhat: dL/dxhat, of x's shape.
        eps: added to the variance.
    """
    return _normalized_gradient(x, grad_xhat, -2, eps)


def layer_norm_input_gradient(x: Tensor, grad_y: Tensor, gamma: Tensor | float, eps: float = 0.0) -> Tensor:
    """dL/dx of layer normalization over its N features: Appendix D's first display with its misprint mended:

        dL/dx_i = sum_j dL/dy_j gamma_j [ (N delta_ij - 1) / (N sigma) - (x_i - mu)(x_j - mu) / (N sigma^3) ]

    Args:
        x: features, (..., N).
        grad_y: dL/dy, of x's shape.
        gamma: the scale, (N,) or a number.
        eps: added to the variance.
    """
    return _normalized_gradient(x, grad_y * gamma, -1, eps)


def _normalized_gradient(x: Tensor, grad_xhat: Tensor, dim: int, eps: float) -> Tensor:
    centred = x - x.mean(dim, keepdim=True)
    sigma = (centred.square().mean(dim, keepdim=True) + eps).sqrt()
    xhat = centred / sigma
    along = (grad_xhat * xhat).mean(dim, keepdim=True)
    return (grad_xhat - grad_xhat.mean(dim, keepdim=True) - xhat * along) / sigma


def angle(a: Tensor, b: Tensor) -> float:
    """The angle between two gradients, in degrees."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))


def slope(x: Tensor, y: Tensor) -> float:
    """Of the least-squares line through (log x, log y): the exponent of a power law."""
    x, y = x.double().log(), y.double().log()
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())
