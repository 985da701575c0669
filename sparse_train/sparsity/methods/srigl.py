"""SRigL (Lasby et al. 2024, arXiv 2305.02299, Section 3): RigL with a constant fan-in, and neurons taken away."""

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.sparsity import masks
from sparse_train.sparsity.density import whole
from sparse_train.sparsity.method import Layer
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.topology import Topology


class SRigL(RigL):
    """Every neuron of a layer has as many weights; one with too few that matter has none.

    K weights are to be replaced. A position is salient if it is among the weights that stay by magnitude, or among the
    K largest gradients. A neuron with fewer than `max(1, floor(ablation * k))` salient positions is ablated, k being
    the layer's fan-in with all of its neurons. Enough neurons stay to hold the layer's weights, and the last layer
    loses none. Then k' = floor(target / neurons left). K weights are dropped: those of ablated neurons first, then the
    smallest. Each neuron left grows at its largest gradients until it has k' weights; one with more keeps its k'
    largest. An ablated neuron may return at a later update, by its gradients.

    Args:
        ablation: the paper's gamma_sal, in [0, 1]; 0 takes no neuron away.
    """

    initial, keeps_counts = "constant_fan_in", False

    def __init__(self, ablation: float = 0.3):
        require(0 <= ablation <= 1, "ablation", ablation, "must be in [0, 1]: a share of the fan-in")
        self.ablation = ablation

    def begin(self, topology: Topology, optimizer: torch.optim.Optimizer) -> None:
        for name, mask in topology.masks.items():
            neurons, weights = len(topology.rows(name, mask)), topology.targets[name]
            right = (
                f"leaves {weights} weights of {name} to {neurons} neurons: SRigL needs one for each; exclude the layer"
            )
            require(weights >= neurons, "sparsity", f"{topology.sparsity():.4g}", f"{right}, or ask for less")
        topology.ablates = True

    def select(self, layer: Layer, drop: int, grow: int) -> Tensor:
        mask, score, growth = (tensor.flatten(1) for tensor in (layer.mask, layer.drop_score, layer.growth_score))
        alive = self._alive(layer, drop, mask, score, growth)
        fan_in = layer.target // int(alive.sum())
        kept = mask & alive
        kept = masks.drop(kept, score, max(drop - int((mask & ~alive).sum()), 0))
        kept &= _rank(score, kept) < fan_in
        grown = _rank(growth, ~kept & alive) < fan_in - kept.sum(1, keepdim=True)
        return (kept | grown).view(layer.mask.shape)

    def _alive(self, layer: Layer, drop: int, mask: Tensor, score: Tensor, growth: Tensor) -> Tensor:
        """Which neurons stay, as a column."""
        neurons, inputs = mask.shape
        if layer.output or not self.ablation:
            return torch.ones(neurons, 1, dtype=torch.bool, device=mask.device)
        salient = masks.drop(mask, score, drop).flatten()
        salient[masks.masked_top_k(growth, torch.ones_like(mask), drop, largest=True)] = True
        counts = salient.view(mask.shape).sum(1, keepdim=True)
        least = max(1, whole(self.ablation * (layer.target // neurons)))
        needed = counts.flatten().sort(descending=True).values[min(layer.target // inputs, neurons - 1)]
        return counts >= needed.clamp(max=least)


def _rank(score: Tensor, among: Tensor) -> Tensor:
    """The place of each position in its row, by score from the largest, among some; others have none."""
    places = torch.where(among, score, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1)
    return torch.where(among, places, torch.iinfo(places.dtype).max)
