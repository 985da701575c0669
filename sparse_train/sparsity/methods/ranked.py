"""Any method, with its weights ranked as under another optimizer, or in units of each neuron's length."""

from dataclasses import replace

import torch
from torch import Tensor

from sparse_train.errors import require, require_one_of
from sparse_train.sparsity.lengths import RANKINGS, ranked, rescaling
from sparse_train.sparsity.method import Layer, Method, Wrapper
from sparse_train.sparsity.topology import Topology


class Ranked(Wrapper):
    """Change what another method sees of weights and gradients (`sparsity.lengths`). For experiments.

    Args:
        method: such as `RigL()`.
        rank_as: "weights": as they are. "sparseopt", where SGD trains, or "sgd", where SparseOpt does: at that
            optimizer's scale. "invariant": relative to each neuron's norm.
        rescale: with another `rank_as`, multiply weights and momentum as the new masks would change the norms of
            neurons under the other optimizer. With "invariant" that is SGD if gradients are corrected, else SparseOpt.
        gradient: "raw", the loss gradient (Section 5), or "corrected", SparseOpt's (bottom rows of Figures 5 and 10).
    """

    def __init__(self, method: Method, rank_as: str = "weights", rescale: bool = False, gradient: str = "raw"):
        super().__init__(method)
        require_one_of("rank_as", rank_as, RANKINGS)
        require_one_of("gradient", gradient, ("raw", "corrected"))
        self.rank_as, self.rescale, self.gradient = rank_as, rescale, gradient

    def begin(self, topology: Topology, optimizer: torch.optim.Optimizer) -> None:
        self.method.begin(topology, optimizer)
        ours = hasattr(optimizer, "multiply")
        require(ours or not self.rescale, "rescale", self.rescale, "needs SparseSGD, which rescales momentum too")
        corrects = ours and bool(optimizer.corrections())
        right = "needs an optimizer that corrects gradients, such as optimizer=sparseopt"
        require(corrects or self.gradient == "raw", "gradient", self.gradient, right)
        self.lengths_of = self.rank_as if self.rank_as != "invariant" else "sgd" if corrects else "sparseopt"
        self.topology, self.optimizer = topology, optimizer

    def seen(self, layer: Layer) -> Layer:
        layer = self.method.seen(layer)
        grad = layer.gradient
        if self.gradient == "corrected" and layer.name in (corrections := self.optimizer.corrections()):
            grad = grad * self.topology.rows(layer.name, corrections[layer.name])
        weight, grad = ranked(layer.weight, grad, layer.mask, self.rank_as, self.topology.ablates)
        return replace(layer, weight=weight, gradient=grad)

    def replaced(self, layer: Layer, mask: Tensor) -> None:
        self.method.replaced(layer, mask)
        if self.rank_as != "weights" and self.rescale:
            weight, ablates = self.topology.weights[layer.name], self.topology.ablates
            factor = rescaling(layer.mask, mask, self.lengths_of, ablates, weight.dtype)
            self.optimizer.multiply(weight, self.topology.rows(layer.name, factor))
