"""SNFS, sparse momentum (Dettmers & Zettlemoyer 2019, arXiv 1907.04840, Section 3)."""

import torch

from sparse_train.sparsity.parts.budget import Moment, Plan, apportioned, whole


class SNFS:
    """A budget: each layer drops `floor(f_t n)` of its n weights, and grows a share of all that were dropped.

    The share is in proportion to the mean of |M| over the layer's weights before the update, M being the momentum,
    which `averages.Running` gives and by which weights are grown. What a full layer has no room for goes to the others.
    The total number of weights stays.
    """

    keeps_counts, gradual, grows = False, False, True

    def __call__(self, at: Moment) -> Plan:
        dropped = {name: whole(at.fraction * count) for name, count in at.counts.items()}
        means = torch.stack(
            [(at.gradient(name).abs() * at.masks[name]).sum() / max(count, 1) for name, count in at.counts.items()]
        ).tolist()
        room = {name: at.masks[name].numel() - count + dropped[name] for name, count in at.counts.items()}
        grown = apportioned(sum(dropped.values()), dict(zip(at.counts, means, strict=True)), room)
        return {name: (dropped[name], grown[name]) for name in at.counts}
