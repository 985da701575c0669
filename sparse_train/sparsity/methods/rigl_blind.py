"""RigL that sees no gradient of neurons without weights."""

from torch import Tensor

from sparse_train.sparsity.method import Layer
from sparse_train.sparsity.methods.rigl import RigL


class RigLBlind(RigL):
    """RigL whose growth scores are 0 for neurons without any active weight: these positions are grown last.

    A neuron whose last weight is dropped has output 0, so batch normalization's variance is 0 and its dense gradient
    is multiplied by up to 1/sqrt(eps). Plain RigL then gives it most of what its layer grows.
    """

    def growth_score(self, layer: Layer) -> Tensor:
        alive = layer.mask.flatten(1).any(1)
        return super().growth_score(layer) * alive.view(-1, *[1] * (layer.mask.ndim - 1))
