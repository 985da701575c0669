"""Dynamic sparse training: drop, then grow, every so often."""

from math import ceil
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparse_train.errors import require, require_one_of
from sparse_train.process.distributed import present
from sparse_train.randomness import generator
from sparse_train.sparsity.adopt import Adopted, require_trains
from sparse_train.sparsity.attached import Attached, saved_with
from sparse_train.sparsity.lengths import RANKINGS, ranked, rescaling
from sparse_train.sparsity.parts.averages import Average
from sparse_train.sparsity.parts.budget import Budget, Moment, Steady
from sparse_train.sparsity.parts.growth import DropScore, GrowthScore, Magnitude
from sparse_train.sparsity.parts.schedule import DECAYS
from sparse_train.sparsity.parts.selection import ByLayer, Layer, Selection
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.verified import Peaks, plan_of, require_parts, require_same_masks, scored

if TYPE_CHECKING:
    from sparse_train.optim.sgd import SparseSGD


class Updater:
    """Any method that drops weights and grows others: RigL and SET, and with other parts those in `sparsity.methods`.

    At step t (counted from 0) with `t > 0`, `t % every == 0` and `t < stop_fraction * total_steps`, the `budget` says
    how many weights each layer drops and grows, `drop` and `growth` score its weights, and the `selection` takes the
    lowest away and puts the highest in, among all positions that are then inactive, the ones dropped just now included.
    By default these are RigL's (Evci et al. 2020, Algorithm 1): the `floor(f_t * n)` active weights of smallest
    magnitude in a layer of n, and as many grown. f_t decays from `drop_fraction` (`parts.schedule`), its progress being
    t / (stop_fraction * total_steps).

    A grown weight starts at 0 with zero momentum. One dropped and regrown in the same update has not left the network
    and keeps both, as in the RigL authors' code and jaxpruner.

    Args:
        topology, optimizer: what to change. The weights' `.grad` must be that of the current step; with a
            `GradScaler`, call its `unscale_(optimizer)` before `update`. An optimizer that is not a `SparseSGD` is
            made to keep masked weights, and its state of them, at 0 (`sparsity.adopt`).
        growth: the score, such as `RigL()` or `SET()` (`sparsity.parts.growth`); None for a method that only prunes.
        total_steps: steps of the whole run, at least 1.
        drop_fraction: f_0 in [0, 1].
        every: steps between updates, at least 1.
        stop_fraction: share of the run after which the topology stays, in [0, 1].
        decay: "cosine" or "constant".
        gradient: what scores see: "raw", the loss gradient (Section 5), or "corrected", SparseOpt's (bottom rows of
            Figures 5 and 10).
        skip_step: leave out the optimizer's step where the topology is updated. The loop acts on it, not this class.
        rank_as: how weights are ranked. "weights": as they are. "sparseopt", where SGD trains, or "sgd", where
            SparseOpt does: at that optimizer's scale. "invariant": relative to each neuron's norm
            (`sparsity.lengths`). For experiments.
        rescale: with `rank_as`, multiply weights and momentum as the new masks would change the norms of neurons under
            the other optimizer. With "invariant" that is SGD if gradients are corrected, else SparseOpt.
        seed: of random growth scores.
        drop: another score than the magnitude.
        budget: another number of weights than RigL's (`parts.budget`).
        selection: another choice than the layer's lowest and highest scores (`parts.selection`).
        average: of gradients over steps, instead of that of the update's own (`parts.averages`); call `observe` in
            every step then. The optimizer's `state_dict` has the state of every part that has one.
    """

    def __init__(
        self,
        topology: Topology,
        optimizer: "SparseSGD | torch.optim.Optimizer",
        growth: GrowthScore | None,
        total_steps: int,
        drop_fraction: float = 0.3,
        every: int = 100,
        stop_fraction: float = 0.75,
        decay: str = "cosine",
        gradient: str = "raw",
        skip_step: bool = True,
        rank_as: str = "weights",
        rescale: bool = False,
        seed: int = 0,
        drop: DropScore | None = None,
        budget: Budget | None = None,
        selection: Selection | None = None,
        average: Average | None = None,
    ):
        self.drop, self.budget, self.selection = drop or Magnitude(), budget or Steady(), selection or ByLayer()
        parts = {"growth": growth, "drop": self.drop, "budget": self.budget, "selection": self.selection}
        require_parts(parts := parts | {"average": average})
        require(0 <= drop_fraction <= 1, "drop_fraction", drop_fraction, "must be in [0, 1]: active weights to replace")
        whole = isinstance(total_steps, Integral) and total_steps > 0
        require(whole, "total_steps", total_steps, "must be a whole number above 0")
        require(every >= 1, "every", every, "must be at least 1: steps between mask updates")
        require(0 <= stop_fraction <= 1, "stop_fraction", stop_fraction, "must be in [0, 1]: a share of the run")
        require_one_of("decay", decay, DECAYS)
        require_one_of("gradient", gradient, ("raw", "corrected"))
        require_one_of("rank_as", rank_as, RANKINGS)
        begins = ("dense" if self.budget.gradual else self.selection.begins) or topology.initial
        topology.require_pruned(self.budget.gradual)
        require(topology.initial == begins, "topology.initial", topology.initial, f"must be {begins} for this method")
        topology.ablates &= self.selection.begins == "constant_fan_in"
        self._stepped, self.average, self.plan = optimizer, average, {}
        if not hasattr(optimizer, "mask_momentum"):
            require(not rescale, "rescale", rescale, "needs SparseSGD, which can rescale its momentum too")
            optimizer = Adopted(optimizer, topology)
        else:
            require_trains(optimizer, topology)
        corrects = optimizer.precondition is not None and bool(optimizer.corrections())
        right = "needs an optimizer that corrects gradients, such as optimizer=sparseopt"
        require(corrects or gradient == "raw", "gradient", gradient, right)
        self.rank_as, self.rescale, self.decay, self.skip_step = rank_as, rescale, DECAYS[decay], skip_step
        self.lengths_of = rank_as if rank_as != "invariant" else "sgd" if corrects else "sparseopt"
        self.topology, self.optimizer, self.seed = topology, optimizer, seed
        self.growth, self.drop_fraction, self.every, self.gradient = growth, drop_fraction, every, gradient
        self.last_step = stop_fraction * total_steps
        self.last_update = max(ceil(self.last_step / every) - 1, 0) * every
        right = f"must leave a mask update before step {self.last_step:g} (stop_fraction), or nothing is pruned"
        require(self.last_update > 0 or not self.budget.gradual, "every", every, right)
        self.first = {n: m.numel() if self.budget.gradual else topology.counts[n] for n, m in topology.masks.items()}
        for name, part in parts.items():
            if hasattr(part, "state_dict"):
                saved_with(self._stepped, name, part)

    def attach(self) -> "Updater":
        """Let the optimizer's own `step` do the updates, so that any training loop runs this method as it is.

        Do not call `update` then. `Attached` says what happens in a step; the optimizer's state has the count of steps.
        """
        Attached(self._stepped, self)
        return self

    def due(self, step: int) -> bool:
        """Whether the topology changes at this step."""
        return step > 0 and step % self.every == 0 and step < self.last_step

    def fraction(self, step: int) -> float:
        """f_t, the share of active weights to drop at this step."""
        progress = min(step / self.last_step, 1.0) if self.last_step else 1.0
        return self.decay(self.drop_fraction, progress)

    @property
    def keeps_counts(self) -> bool:
        """Whether every layer keeps its number of weights."""
        return self.budget.keeps_counts and self.selection.keeps_counts

    def needs_dense_gradient(self, step: int) -> bool:
        """Whether the gradients of weights that do not exist are looked at in this step."""
        if self.growth is None or not self.growth.needs_gradient:
            return False
        return self.due(step) if self.average is None else self.observes(step)

    def planned(self, step: int) -> dict[str, float]:
        """Active weights of each layer after this step, as far as they are known before the run.

        A gradual method is taken to prune each layer alike, and one that moves weights between layers to move none.
        """
        if not self.budget.gradual:
            return self.first
        done = min(step - step % self.every, self.last_update) / self.last_update
        return {name: self.budget.left(count, self.topology.targets[name], done) for name, count in self.first.items()}

    def observes(self, step: int) -> bool:
        """Whether `observe` has anything to do in this step."""
        update = max(ceil(step / self.every), 1) * self.every
        return self.average is not None and self.due(update) and self.average.wants(update - step)

    @torch.no_grad()
    def observe(self, step: int) -> None:
        """Show the gradients of this step to the average, if there is one; before `update`, with gradients unscaled."""
        if self.observes(step):
            grads = {name: weight.grad for name, weight in self.topology.weights.items() if weight.requires_grad}
            self.average.see({name: grad for name, grad in grads.items() if grad is not None})

    @torch.no_grad()
    def update(self, step: int) -> bool:
        """Drop and grow in every layer, then clear the momentum of what was dropped.

        Frozen weights keep their masks. All masks stay if a gradient is not finite. Returns whether masks were updated.

        Raises:
            DivergedError: a weight is not finite. Masks are as they were.
            ConfigError: a score has another shape than its weight; a layer cannot drop and grow as the budget says.
            RuntimeError: a weight has no gradient, or no average of gradients.
            MaskMismatchError: on every rank, if their masks differ now, as their gradients were not averaged.
        """
        self.topology.require_agreement()
        self.topology.follow()
        masks, peaks = {}, Peaks()
        self.plan = plan_of(self.budget, self._moment(step))
        for name, (dropped, grown) in self.plan.items():
            mask, (weight, grad) = self.topology.masks[name], self._seen(name, step)
            peaks.weight(name, *weight.aminmax())
            score = scored("drop", self.drop, self.drop(weight, grad), name, weight)
            peaks.score(name, score.amax())
            growth = None
            if self.growth is not None:
                growth = self.growth(self.topology.weights[name], grad, generator(self.seed, "growth", name, step))
                growth = scored("growth", self.growth, growth, name, weight)
                peaks.score(name, *growth.aminmax())
            target, last = self.topology.targets[name], name == self.topology.outputs
            masks[name] = self.selection(Layer(mask, score, growth, dropped, grown, target, last))
        if self.average is not None:
            self.average.updated()
        ranks = present()
        if not peaks.finite(step, ranks):
            return False
        for name, mask in masks.items():
            self._replace(name, mask)
        self.optimizer.mask_momentum()
        require_same_masks(self.topology, step, ranks)
        return True

    def _moment(self, step: int) -> Moment:
        def of_trained(counts: dict[str, int]) -> dict[str, int]:
            return {name: counts[name] for name, weight in self.topology.weights.items() if weight.requires_grad}

        return Moment(
            fraction=self.fraction(step),
            progress=min(step / self.last_update, 1.0) if self.last_update else 1.0,
            counts=of_trained(self.topology.counts),
            first=of_trained(self.first),
            targets=of_trained(self.topology.targets),
            masks=self.topology.masks,
            score=lambda name: self.drop(*self._seen(name, step)),
            gradient=lambda name: self._seen(name, step)[1],
        )

    def _seen(self, name: str, step: int) -> tuple[Tensor, Tensor]:
        """The weight and the gradient that scores compare."""
        weight = self.topology.weights[name]
        grad = weight.grad
        if grad is None:
            raise RuntimeError(
                f"{name} has no gradient to update its mask by at step {step}: call backward first; exclude a layer"
                " that the loss does not use; make the topology again if the layer was replaced after it"
            )
        if self.average is not None and (grad := self.average.of(name)) is None:
            raise RuntimeError(f"{name} has no average of gradients at step {step}: call observe in every step")
        if self.gradient == "corrected" and name in (corrections := self.optimizer.corrections()):
            grad = grad * corrections[name]
        return ranked(weight, grad, self.topology.masks[name], self.rank_as, self.topology.ablates)

    def _replace(self, name: str, mask: Tensor) -> None:
        weight, old, (dropped, grown) = self.topology.weights[name], self.topology.masks[name], self.plan[name]
        count = self.topology.counts[name] - dropped + grown if self.selection.keeps_counts else None
        self.topology.replace(name, mask, count)
        if self.rank_as != "weights" and self.rescale:
            masks = (old, self.topology.masks[name])
            self.optimizer.multiply(weight, rescaling(*masks, self.lengths_of, self.topology.ablates, weight.dtype))
