"""Dynamic sparse training: drop, then grow, every so often."""

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparse_train.errors import DivergedError, MaskMismatchError, require, require_one_of
from sparse_train.process.distributed import Ranks, present
from sparse_train.randomness import generator
from sparse_train.sparsity.adopt import Adopted, require_trains
from sparse_train.sparsity.attached import Attached
from sparse_train.sparsity.growth import GrowthScore
from sparse_train.sparsity.lengths import RANKINGS, lengths, ranked
from sparse_train.sparsity.masks import drop, grow
from sparse_train.sparsity.schedule import DECAYS
from sparse_train.sparsity.topology import Topology

if TYPE_CHECKING:
    from sparse_train.optim.sgd import SparseSGD


class Updater:
    """RigL, SET and whatever else differs only in its growth score (Evci et al. 2020, Algorithm 1).

    At step t (counted from 0) with `t > 0`, `t % every == 0` and `t < stop_fraction * total_steps`, in each layer with
    n active weights the `floor(f_t * n)` active weights of smallest magnitude are dropped and as many positions of
    largest growth score are grown, among all that are then inactive, the ones dropped just now included. So the
    number of active weights never changes. f_t decays from `drop_fraction` (`sparsity.schedule`), its progress being
    t / (stop_fraction * total_steps).

    A grown weight starts at 0 with zero momentum. One dropped and regrown in the same update has not left the network
    and keeps both, as in the RigL authors' code and jaxpruner.

    Args:
        topology, optimizer: what to change. The weights' `.grad` must be that of the current step; with a
            `GradScaler`, call its `unscale_(optimizer)` before `update`. An optimizer that is not a `SparseSGD` is
            made to keep masked weights, and its state of them, at 0 (`sparsity.adopt`).
        growth: the score, `RigL()` or `SET()` (`sparsity.growth`).
        total_steps: steps of the whole run.
        drop_fraction: f_0 in [0, 1].
        every: steps between updates, at least 1.
        stop_fraction: share of the run after which the topology stays, in [0, 1].
        decay: "cosine" or "constant".
        gradient: what the growth score sees: "raw", the loss gradient (Section 5), or "corrected", SparseOpt's
            (bottom rows of Figures 5 and 10).
        skip_step: leave out the optimizer's step where the topology is updated. The loop acts on it, not this class.
        rank_as: "weights" as they are; those that "sparseopt" would have where SGD trains, or "sgd" where SparseOpt
            does; or "invariant", in units of each neuron's length (`sparsity.lengths`). A reading for experiments.
        rescale: with `rank_as`, multiply weights and momentum as their lengths in the other optimizer's run would have
            changed with the new masks. With "invariant" the other one is SGD where gradients are corrected, else
            SparseOpt.
        seed: of random growth scores.
    """

    def __init__(
        self,
        topology: Topology,
        optimizer: "SparseSGD | torch.optim.Optimizer",
        growth: GrowthScore,
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
    ):
        require(callable(growth), "growth", growth, "must be a growth score, such as RigL() or SET()")
        require(0 <= drop_fraction <= 1, "drop_fraction", drop_fraction, "must be in [0, 1]: active weights to replace")
        require(every >= 1, "every", every, "must be at least 1: steps between mask updates")
        require(0 <= stop_fraction <= 1, "stop_fraction", stop_fraction, "must be in [0, 1]: a share of the run")
        require_one_of("decay", decay, DECAYS)
        require_one_of("gradient", gradient, ("raw", "corrected"))
        require_one_of("rank_as", rank_as, RANKINGS)
        self._stepped, self._attached = optimizer, None
        if not hasattr(optimizer, "mask_momentum"):
            require(not rescale, "rescale", rescale, "needs SparseSGD, whose momentum can be brought along")
            optimizer = Adopted(optimizer, topology)
        else:
            require_trains(optimizer, topology)
        corrects = optimizer.precondition is not None and bool(optimizer.corrections())
        if gradient == "corrected":
            right = "needs an optimizer that corrects gradients, such as optimizer=sparseopt"
            require(corrects, "gradient", gradient, right)
        self.rank_as, self.rescale = rank_as, rescale
        self.lengths_of = rank_as if rank_as != "invariant" else "sgd" if corrects else "sparseopt"
        self.topology, self.optimizer, self.seed = topology, optimizer, seed
        self.growth, self.drop_fraction, self.every, self.gradient = growth, drop_fraction, every, gradient
        self.last_step = stop_fraction * total_steps
        self.decay, self.skip_step = DECAYS[decay], skip_step

    def attach(self) -> "Updater":
        """Let the optimizer's own `step` do the updates, so that any training loop runs this method as it is.

        Do not call `update` then. `Attached` says what happens in a step; the optimizer's state has the count of steps.
        """
        require(self._attached is None, "updater", "attach", "has been called before: once is enough")
        self._attached = Attached(self._stepped, self)
        return self

    def due(self, step: int) -> bool:
        """Whether the topology changes at this step."""
        return step > 0 and step % self.every == 0 and step < self.last_step

    def fraction(self, step: int) -> float:
        """f_t, the share of active weights to drop at this step."""
        progress = min(step / self.last_step, 1.0) if self.last_step else 1.0
        return self.decay(self.drop_fraction, progress)

    def quota(self, name: str, step: int) -> int:
        """How many weights of a layer are dropped, and as many grown, at this step."""
        # 1e-9: 0.29 * 100 is 29, not 28.999999999999996.
        return int(self.fraction(step) * self.topology.counts[name] * (1 + 1e-9))

    @torch.no_grad()
    def update(self, step: int) -> bool:
        """Drop and grow in every layer, then clear the momentum of what was dropped.

        Frozen weights keep their masks. All masks stay where a gradient is not finite, as a `GradScaler` leaves out its
        step there.

        Returns:
            Whether the masks were updated.

        Raises:
            DivergedError: a weight is not finite. Masks are as they were.
            MaskMismatchError: the processes have different masks now, as their gradients were not averaged. On all.
        """
        self.topology.require_agreement()
        self.topology.follow()
        corrections = self.optimizer.corrections() if self.gradient == "corrected" else {}
        masks, peaks = {}, []
        for name, weight in self.topology.weights.items():
            if not weight.requires_grad:
                continue
            mask, grad = self.topology.masks[name], weight.grad
            if grad is None:
                raise RuntimeError(
                    f"{name} has no gradient to update its mask by at step {step}: call backward first; exclude a layer"
                    " that the loss does not use; make the topology again if the layer was replaced after it"
                )
            count = self.quota(name, step)
            if name in corrections:
                grad = grad * corrections[name]
            magnitude, grad = ranked(weight, grad, mask, self.rank_as)
            magnitude = magnitude.abs()
            kept = drop(mask, magnitude, count)
            score = self.growth(weight, grad, generator(self.seed, "growth", name, step))
            masks[name] = grow(kept, score, count)
            peaks += [magnitude.amax(), score.amax(), score.amin()]
        ranks = present()
        if not self._finite(peaks, list(masks), step, ranks):
            return False
        for name, mask in masks.items():
            self._replace(name, mask)
        self.optimizer.mask_momentum()
        require_same_masks(self.topology, step, ranks)
        return True

    def _replace(self, name: str, mask: Tensor) -> None:
        weight, old = self.topology.weights[name], self.topology.masks[name]
        self.topology.replace(name, mask, self.topology.counts[name])
        if self.rank_as != "weights" and self.rescale:
            old, new = (lengths(mask, self.lengths_of).to(weight.dtype) for mask in (old, self.topology.masks[name]))
            self.optimizer.multiply(weight, old / new)

    def _finite(self, peaks: list[Tensor], names: list[str], step: int, ranks: Ranks) -> bool:
        """Whether all scores of all layers are, on all ranks: waits for the device once."""
        bad = ~torch.stack([peak.float().to(peaks[0].device) for peak in peaks]).isfinite()
        places = ranks.max(bad.int()).nonzero()[:, 0].tolist()
        weights = [names[place // 3] for place in places if place % 3 == 0]
        if weights:
            raise DivergedError(f"{weights[0]} is not finite at the mask update of step {step}")
        if places:
            said = "its gradient, or its growth score, is not finite: masks stay as they are"
            warnings.warn(f"{names[places[0] // 3]}: {said}, as under a GradScaler that skips the step", stacklevel=3)
        return not places


def require_same_masks(topology: Topology, step: int, ranks: Ranks) -> None:
    """All ranks must have the same masks: compare a checksum of each.

    Raises:
        MaskMismatchError: on every rank, with the layer's name.
    """
    if ranks.world > 1:
        sums = ranks.gathered(topology.checksums())
        for name, differs in zip(topology.masks, (sums != sums[0]).any(0).tolist(), strict=True):
            if differs:
                raise MaskMismatchError(
                    f"the processes have different masks for {name} after the update at step {step}: update where"
                    " gradients have just been averaged, so not within no_sync, and with one seed"
                )
