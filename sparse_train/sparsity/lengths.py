"""SparseOpt before normalization is SGD on weights of other lengths; a mask update can be made with the other's.

With c_i of Eq. 12, SparseOpt's weight w_i = sqrt(c_i) v_i where v_i is that of the SGD run with the same outputs
(`results/theory.md`), and the gradients are g(w_i) = g(v_i) / sqrt(c_i). Only mask updates compare lengths across
neurons, so an SGD run that ranks by sqrt(c)|v| and |g(v)| / sqrt(c) changes its masks as SparseOpt does, and the
other way round. c changes with the mask: w stays, so v becomes v sqrt(c_old / c_new).
"""

import torch
from torch import Tensor

from sparse_train.optim.sparseopt import neuron_scale

POWERS = {"weights": 0, "sparseopt": 1, "sgd": -1}


def lengths(mask: Tensor, rank_as: str) -> Tensor:
    """sqrt(c) or its inverse per neuron, broadcastable over the weight; 1 for a neuron without inputs.

    Args:
        rank_as: "sparseopt", for an SGD run to update its masks as SparseOpt would; "sgd" for the reverse.
    """
    c = neuron_scale(mask)
    return torch.where(c > 0, c, 1.0) ** (POWERS[rank_as] / 2)
