"""RigL (Evci et al. 2020, arXiv 1911.11134)."""

from torch import Tensor

from sparse_train.sparsity.method import Layer, Method


class RigL(Method):
    """Drop the smallest weights, and grow where the dense gradient is largest (Algorithm 1).

    An update at step t replaces k of a layer's n weights w:

        k = floor(f_t n)
        drop   the k active weights with the smallest |w|
        grow   the k inactive positions with the largest |dL/dw|

    dL/dw is the gradient of the step's batch, also where no weight is. f_t decays by a cosine (`Updater`). Weights that
    are grown start at 0. Positions just dropped are inactive too; one that is grown at once keeps its value.

        topology = Topology(model, sparsity=0.9)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9)
        Updater(topology, optimizer, RigL(), total_steps=10_000, every=100).attach()
    """

    needs_gradient = True

    def growth_score(self, layer: Layer) -> Tensor:
        return layer.gradient.abs()
