"""A ceiling for corrections by neuron: every neuron turns by the same angle in a step."""

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.sparsity.topology import Topology


class EqualAngle:
    """The preconditioning slot of `SparseSGD` with the gradient's own length taken out, before a normalization layer:

        g_i <- radians * |w_i| * g_i / |g_i|

    with w_i and g_i the existing weights of neuron i and their gradients. A gradient before normalization is orthogonal
    to its weight, so without momentum each neuron turns by arctan(lr * radians). Momentum multiplies
    that by 1 / sqrt(1 - momentum^2) for uncorrelated gradients, by 1 / (1 - momentum) for equal ones.

    A correction such as SparseOpt's is meant to make steps of neurons comparable. Here they are equal at every step, so
    if this does not help, equalizing neurons does not. Other layers, such as the classifier, keep their gradients. So
    does a neuron of length 0, which has no angle; one without a gradient does not move. Decay comes afterwards and
    changes lengths alone.

    Args:
        radians: the angle, per unit of learning rate. SGD in its equilibrium (`results/theory.md`) turns by
            sqrt(2 lr decay / (1 + momentum)); this is the same at sqrt(2 decay (1 - momentum) / lr).
    """

    scale_decay = False

    def __init__(self, radians: float = 0.03):
        require(radians > 0, "radians", radians, "must be above 0")
        self.radians = radians

    def scales(self, topology: Topology) -> dict[str, Tensor]:
        """Empty: no factor follows from the masks alone.

        Raises:
            ConfigError: for a model without a layer that is normalized, or without an example of its inputs.
        """
        require(bool(topology.normalized), "precondition", "EqualAngle", "the model has no layer that is normalized")
        return {}

    @torch.no_grad()
    def turn(self, weight: Tensor, grad: Tensor, mask: Tensor) -> None:
        """Set the length of each neuron's gradient in place.

        Args:
            weight: 0 off the mask.
            grad: dense or masked; its length is that of the existing weights' part.
            mask: of ones and zeros.
        """
        length, slope = (neuron_norms(tensor) for tensor in (weight, grad * mask))
        factor = torch.where(slope > 0, self.radians * length / slope, 0.0)
        grad.mul_(torch.where(length > 0, factor, 1.0))


def neuron_norms(rows: Tensor) -> Tensor:
    """The norm of each neuron's row, of shape (out, 1, ..., 1), broadcastable over it."""
    return rows.flatten(1).norm(dim=1).view(-1, *[1] * (rows.ndim - 1))
