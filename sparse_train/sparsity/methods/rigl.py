"""RigL (Evci et al. 2020, arXiv 1911.11134)."""

from torch import Tensor

from sparse_train.sparsity.method import Layer, Method


class RigL(Method):
    """Grow where |dL/dw| of the dense gradient is largest (Algorithm 1)."""

    needs_gradient = True

    def growth_score(self, layer: Layer) -> Tensor:
        return layer.gradient.abs()
