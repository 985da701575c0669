"""Diagnostics of a run: how far a step goes, what the correction does to it, and what masks are like, by group."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparse_train.optim.sgd import SparseSGD
from sparse_train.sparsity.layers import last_weight, parameters
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.train.meter import Meter

AFFINE, CLASSIFIER = "affine", "classifier"
STEPS, UPDATES, NEURONS = "steps", "updates", "neurons"  # what they are called in the meter


def groups(model: nn.Module) -> dict[str, list[str]]:
    """Group -> names of its parameters: `affine` has those of one dimension (normalization's, and biases),
    `classifier` the last weight, and a stage such as `layer1` the weights whose names begin with it.
    """
    named, last = parameters(model), last_weight(model)
    found: dict[str, list[str]] = {}
    for name, p in named.items():
        group = AFFINE if p.ndim <= 1 else CLASSIFIER if name == last else name.split(".")[0]
        found.setdefault(group, []).append(name)
    return found


class Diagnostics:
    """Looks at a run without changing it. All that it sums up is in the epoch's `Meter`, so that it is saved with it.

    Args:
        model, topology, optimizer: of the run; the model as it is, not compiled or parallel.
    """

    def __init__(self, model: nn.Module, topology: Topology, optimizer: SparseSGD):
        self.topology, self.optimizer = topology, optimizer
        self.groups = groups(model)
        named = parameters(model)
        self.params = {name: named[name] for names in self.groups.values() for name in names}
        of = [i for i, names in enumerate(self.groups.values()) for _ in names]
        self.group_of = torch.tensor(of, device=next(iter(self.params.values())).device)

    @contextmanager
    def step(self, meter: Meter) -> Iterator[None]:
        """Around the optimizer's step: norms of step and weight, and of the gradient before and after Eq. 12."""
        with torch.no_grad():
            before = [each.clone() for each in self.optimizer.stepped(self.params.values())]
            norms = [self._norms(before), *map(self._norms, self._gradients())]
        yield
        with torch.no_grad():
            moved = torch._foreach_sub(self.optimizer.stepped(self.params.values()), before)
            meter.note(STEPS, torch.stack([self._norms(moved), *norms]))

    @contextmanager
    def update(self, meter: Meter, updater: Updater) -> Iterator[None]:
        """Around a mask update: the weights that were replaced, dropped and grown again at once, or given to neurons
        without any.
        """
        before = dict(self.topology.masks)  # a mask is never changed in place
        yield
        dropped = sum(drop for drop, _ in updater.plan.values())
        gone = torch.stack([(mask & ~self.topology.masks[name]).sum() for name, mask in before.items()]).sum()
        regrown = (dropped - gone).clamp(min=0)  # a selection may drop more than was planned, with a neuron
        meter.note(UPDATES, torch.stack([gone, regrown]) / sum(self.topology.counts.values()))
        rows = self.topology.rows
        changes = [
            _revivals(rows(name, before[name]), rows(name, self.topology.masks[name]))
            for name in self.topology.by_neuron
        ]
        if changes:
            meter.note(NEURONS, torch.stack([change.to(gone.device) for change in changes]).sum(0))

    def trained(self, meter: Meter) -> dict[str, float | None]:
        """Of an epoch: means over the steps that were looked at (None without one), sums over its mask updates."""
        steps, count = meter.noted(STEPS)
        ratios = raw = corrected = [None] * len(self.groups)
        if count:
            step, weight, *gradients = steps
            ratios = [s / w if w else None for s, w in zip(step, weight, strict=True)]
            raw, corrected = ([norm / count for norm in norms] for norms in gradients)
        updates, count = meter.noted(UPDATES)
        named = {"step_ratio": ratios, "grad_norm": raw, "corrected_norm": corrected}
        told = {f"{key}/{g}": v for key, values in named.items() for g, v in zip(self.groups, values, strict=True)}
        told |= dict(zip(("masks/replaced", "masks/regrown"), updates if count else (0.0, 0.0), strict=True))
        changes, count = meter.noted(NEURONS)
        died, revived, taken, by_layers, grown = changes if count else (0, 0, 0, 0, 0)
        return told | {
            "neurons/died": died,
            "neurons/revived": revived,
            "neurons/growth_share": taken / grown if grown else None,
            "neurons/layer_growth_share": taken / by_layers if by_layers else None,
        }

    @torch.no_grad()
    def masks(self) -> dict[str, float]:
        """Metrics of the masks per group of neurons; in a corrected layer, c is 0 for a neuron without inputs."""
        masks = {name: self.topology.rows(name, mask) for name, mask in self.topology.masks.items()}
        factors, count = self.optimizer.corrections(), len(self.groups)
        fan_in = torch.cat([mask.flatten(1).sum(1) for mask in masks.values()]).double()
        c = [factors[n].flatten() if n in factors else torch.ones(len(m), device=m.device) for n, m in masks.items()]
        c = torch.cat(c).double()
        unread = torch.stack([_unread(mask) for mask in masks.values()]).double()
        # Of each layer its group, and of each neuron its layer.
        places = [i for name in masks for i, names in enumerate(self.groups.values()) if name in names]
        group_of = torch.tensor(places, device=fan_in.device)
        layer = torch.repeat_interleave(torch.tensor([len(mask) for mask in masks.values()], device=fan_in.device))
        group = group_of[layer]
        relative = fan_in / _mean(fan_in, layer, len(masks)).clamp(min=1e-9)[layer]
        values = {
            "fan_in_spread": _spread(relative, group, count),
            "c_mean": _mean(c, group, count),
            "c_spread": _spread(c, group, count),
            "dead_neurons": _sum((fan_in == 0).double(), group, count),
            "unread_inputs": _sum(unread, group_of, count),
        }
        told = dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
        return {f"{key}/{g}": told[key][i] for i, g in enumerate(self.groups) if i in places for key in told}

    @torch.no_grad()
    def norm_ratio(self) -> float:
        """The norm of the largest neuron over the median norm of its layer's living neurons: the largest such ratio."""
        ratios = [torch.ones(())]
        for name in self.topology.by_neuron:
            weight, mask = (self.topology.rows(name, of[name]) for of in (self.topology.weights, self.topology.masks))
            norms = weight.flatten(1).norm(dim=1)
            median = torch.where(mask.flatten(1).any(1), norms, torch.nan).nanmedian()
            ratios.append((norms.max() / median).nan_to_num(1.0, posinf=1.0).cpu())
        return torch.stack(ratios).max().item()

    def _gradients(self) -> Iterator[list[Tensor]]:
        """Those of existing weights, as they are and corrected; dense parameters have all of theirs."""
        masks, factors, existing = self.topology.masks, dict(self.optimizer.corrections()), {}
        for name, p in self.params.items():
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            if (rows := self.topology.vectors.get(p)) is None:
                existing[name] = grad * masks[name] if name in masks else grad
                continue
            existing[name] = rows.gather(grad)
            if name in factors:
                factors[name] = rows.structure.of_rows(factors[name])
        yield list(existing.values())
        yield [grad * factors[name] if name in factors else grad for name, grad in existing.items()]

    def _norms(self, tensors: list[Tensor]) -> Tensor:
        """One norm per group."""
        squares = torch.stack(torch._foreach_norm(tensors)).double().square()
        return _sum(squares, self.group_of, len(self.groups)).sqrt()


def _revivals(before: Tensor, after: Tensor) -> Tensor:
    """A layer's mask update: neurons that lost their last weight, neurons without weights that have some again, the
    weights grown in these, the weights grown in the layer if there are such neurons, and all weights grown in it.
    """
    had, has = before.flatten(1).any(1), after.flatten(1).any(1)
    grown, revived = (after & ~before).flatten(1).sum(1), has & ~had
    taken, total = (grown * revived).sum(), grown.sum()
    return torch.stack([(had & ~has).sum(), revived.sum(), taken, total * revived.any(), total])


def _unread(mask: Tensor) -> Tensor:
    """How many inputs of a layer none of its weights reads."""
    return (~mask.any(0).reshape(mask.shape[1], -1).any(1)).sum()


def _sum(values: Tensor, of: Tensor, count: int) -> Tensor:
    """Over those that are of each of `count` layers or groups."""
    return values.new_zeros(count).index_add(0, of, values)


def _mean(values: Tensor, of: Tensor, count: int) -> Tensor:
    return _sum(values, of, count) / _sum(torch.ones_like(values), of, count).clamp(min=1)


def _spread(values: Tensor, of: Tensor, count: int) -> Tensor:
    """Their standard deviation."""
    return _mean((values - _mean(values, of, count)[of]).square(), of, count).sqrt()
