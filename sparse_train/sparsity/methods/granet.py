"""GraNet (Liu et al. 2021, arXiv 2106.10404, Section 4): gradual pruning with zero-cost neuroregeneration."""

from collections.abc import Mapping

from sparse_train.sparsity.density import whole
from sparse_train.sparsity.masks import by_layer
from sparse_train.sparsity.method import Layer
from sparse_train.sparsity.methods.gmp import cubic
from sparse_train.sparsity.methods.rigl import RigL


class GraNet(RigL):
    """Prune all layers together to Zhu & Gupta's cubic schedule, then replace f_t of what each has left.

    Of the network's weights, those of smallest magnitude are dropped until `n + (N - n) (1 - t / T)^3` are left; n is
    the number that the sparsity asks for, N all. So layers end with densities of their own, whatever the distribution.
    Then every layer drops the `floor(f_t m)` smallest of its m weights more, and grows as many by gradient.
    One that was pruned and is grown in the same update keeps its value, as everywhere here; the authors' is 0 again.
    As in their code a layer may lose all of its weights, and has none from then on; `Updater` warns of it.
    """

    initial, keeps_counts = "dense", False
    left = staticmethod(cubic)

    def counts(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        first, target = sum(layer.first for layer in layers.values()), sum(layer.target for layer in layers.values())
        left = round(self.left(first, target, next(iter(layers.values())).progress))
        scores = {name: layer.drop_score[layer.mask] for name, layer in layers.items()}
        pruned = by_layer(scores, max(sum(layer.count for layer in layers.values()) - left, 0), largest=False)
        replaced = {name: whole(layer.fraction * (layer.count - pruned[name])) for name, layer in layers.items()}
        return {name: (pruned[name] + by, by) for name, by in replaced.items()}
