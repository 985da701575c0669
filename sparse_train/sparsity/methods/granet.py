"""GraNet (Liu et al. 2021, arXiv 2106.10404, Section 4): gradual pruning with zero-cost neuroregeneration."""

import torch

from sparse_train.sparsity.parts.budget import Moment, Plan, whole
from sparse_train.sparsity.parts.schedule import cubic


class GraNet:
    """A budget: prune all layers together to Zhu & Gupta's cubic schedule, then replace f_t of what each has left.

    Of the network's weights, those of smallest magnitude are dropped until `n + (N - n) (1 - t / T)^3` are left; n is
    the number that the sparsity asks for, N all. So layers end with densities of their own, whatever the distribution.
    Then every layer drops the `floor(f_t m)` smallest of its m weights more, and grows as many by gradient.
    One that was pruned and is grown in the same update keeps its value, as everywhere here; the authors' is 0 again.
    """

    keeps_counts, gradual, grows = False, True, True
    left = staticmethod(cubic)

    def __call__(self, at: Moment) -> Plan:
        left = round(self.left(sum(at.first.values()), sum(at.targets.values()), at.progress))
        pruned = lowest(at, max(sum(at.counts.values()) - left, 0))
        replaced = {name: whole(at.fraction * (count - pruned[name])) for name, count in at.counts.items()}
        return {name: (pruned[name] + by, by) for name, by in replaced.items()}


def lowest(at: Moment, count: int) -> dict[str, int]:
    """How many of the `count` weights with the lowest scores in the network each layer has; waits for the device."""
    scores = [at.score(name)[at.masks[name]] for name in at.counts]
    places = torch.cat(scores).topk(count, largest=False, sorted=False).indices
    ends = torch.tensor([len(score) for score in scores], device=places.device).cumsum(0)
    of_layer = torch.bucketize(places, ends, right=True).bincount(minlength=len(scores))
    return dict(zip(at.counts, of_layer.tolist(), strict=True))
