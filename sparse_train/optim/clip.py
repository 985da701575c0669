"""Clipping by the norm of what is trained."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from sparse_train.errors import require
from sparse_train.sparsity.masks import stored
from sparse_train.sparsity.topology import Topology


@torch.no_grad()
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], topology: Topology, max_norm: float) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` by the norm over weights that exist and dense parameters.

    torch's function also counts the gradients of masked weights, which are the majority. Its norm is then several times
    too large, and clipped steps are too short by the same factor. All gradients are scaled equally and stay dense, so
    clipping does not change which weights a mask update grows.

    Args:
        parameters: all that the optimizer trains.
        topology: the masks of the sparse weights among them.
        max_norm: the largest norm left alone.

    Returns:
        The norm before clipping, on the device.
    """
    require(max_norm > 0, "max_norm", max_norm, "must be above 0")
    topology.follow()
    masks = {weight: topology.masks[name] for name, weight in topology.weights.items()}
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    trained = [p for p in given if p.grad is not None]
    graded = [_values_alone(p) if p.grad.is_sparse else p for p in trained]
    norm = get_total_norm([torch.where(masks[p], p.grad, 0) if p in masks else p.grad for p in graded])
    clip_grads_with_norm_(graded, max_norm, norm)
    return norm


def _values_alone(p: Tensor) -> Tensor:
    """What stands for a parameter whose gradient has values where weights exist alone (`sparsity.csr`)."""
    stand_in = torch.empty_like(stored(p.grad))
    stand_in.grad = stored(p.grad)
    return stand_in
