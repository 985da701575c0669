"""Before normalization SparseOpt is SGD on rescaled weights: the scales by which a mask update may rank weights.

With c_i of Eq. 12, SparseOpt's weight w_i = sqrt(c_i) v_i where v_i is that of the SGD run with the same outputs
(`results/theory.md`), and the gradients are g(w_i) = g(v_i) / sqrt(c_i). Only mask updates compare lengths across
neurons, so an SGD run that ranks by sqrt(c)|v| and |g(v)| / sqrt(c) changes its masks as SparseOpt does, and the
other way round. Where weights are ranked by |w_ij| / |w_i| and gradients by |g_ij| |w_i|, no length is compared at all,
and both runs choose the same masks. c changes with the mask: w stays, so v becomes v sqrt(c_old / c_new).
"""

import torch
from torch import Tensor

from sparse_train.optim.equal_angle import neuron_norms
from sparse_train.optim.sparseopt import neuron_scale

POWERS = {"sparseopt": 1, "sgd": -1}
RANKINGS = ("weights", *POWERS, "invariant")


def lengths(mask: Tensor, of: str, ablates: bool = False) -> Tensor:
    """sqrt(c) or its inverse per neuron, broadcastable over the weight; 1 for a neuron without inputs.

    Args:
        of: "sparseopt", by which an SGD run's weights become those that SparseOpt would have; "sgd" for the reverse.
        ablates: as `neuron_scale` has it.
    """
    c = neuron_scale(mask, ablates=ablates)
    return torch.where(c > 0, c, 1.0) ** (POWERS[of] / 2)


def rescaling(old: Tensor, new: Tensor, of: str, ablates: bool, dtype: torch.dtype) -> Tensor:
    """The factor on weights that stay, as a mask update changes the lengths: the old ones over the new, by neuron."""
    return lengths(old, of, ablates).to(dtype) / lengths(new, of, ablates).to(dtype)


def ranked(weight: Tensor, grad: Tensor, mask: Tensor, rank_as: str, ablates: bool) -> tuple[Tensor, Tensor]:
    """The weight and the gradient that a mask update compares.

    "invariant": w_ij / |w_i| and g_ij |w_i|, neither of which changes when neuron i is rescaled before a normalization.
    A neuron of length 0, one without weights say, has neither: its weights count as 0 and are dropped before others,
    its gradients count as 0 and are grown after others. (Any gradient it has comes from the normalization's eps.)

    Args:
        weight: 0 off the mask.
        rank_as: one of `RANKINGS`.
        ablates: as `neuron_scale` has it.
    """
    if rank_as == "weights":
        return weight, grad
    if rank_as == "invariant":
        length = neuron_norms(weight)
        return weight / torch.where(length > 0, length, 1.0), grad * length
    length = lengths(mask, rank_as, ablates).to(weight.dtype)
    return weight * length, grad / length
