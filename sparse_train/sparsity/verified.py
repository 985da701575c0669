"""Checks of a mask update: plans and scores fit, scores are finite, and all processes have the same masks."""

import warnings

import torch
from torch import Tensor

from sparse_train.errors import ConfigError, DivergedError, MaskMismatchError, require
from sparse_train.process.distributed import Ranks
from sparse_train.sparsity.parts.budget import Budget, Moment, Plan
from sparse_train.sparsity.topology import Topology

NEEDS = {
    "growth": {"needs_gradient"},
    "drop": set(),
    "budget": {"keeps_counts", "gradual", "grows"},
    "selection": {"keeps_counts", "begins"},
    "average": {"wants", "see", "of", "updated", "state_dict", "load_state_dict"},
}


def require_parts(parts: dict[str, object]) -> None:
    """Every part of a method must have what its protocol in `sparsity.parts` names.

    Raises:
        ConfigError: names the part and what it lacks.
    """
    growth = parts["growth"]
    fits = callable(growth) and not isinstance(growth, type)
    fits = fits or (growth is None and not getattr(parts["budget"], "grows", True))
    require(fits, "growth", growth, "must be a growth score, such as RigL() or SET()")
    for key, part in parts.items():
        named = {"state_dict", "load_state_dict"} if hasattr(part, "state_dict") else set()
        named |= {"left"} if getattr(part, "gradual", False) else set()
        lacks = sorted(name for name in named | NEEDS[key] if part is not None and not hasattr(part, name))
        right = f"must have {', '.join(lacks)}, as its protocol in sparsity.parts says"
        require(not lacks, key, type(part).__name__, right)


def plan_of(budget: Budget, at: Moment) -> Plan:
    """The budget's plan of an update.

    Raises:
        ConfigError: for numbers that a layer cannot drop or grow, and for unequal ones if the budget keeps counts.
    """
    plan = budget(at)
    for name, (dropped, grown) in plan.items():
        count = at.counts.get(name, 0)
        room = at.masks[name].numel() - count if name in at.counts else 0
        fits = type(dropped) is type(grown) is int and 0 <= dropped <= count and 0 <= grown <= room + dropped
        if not fits or (budget.keeps_counts and dropped != grown):
            rule = "as many as it drops, since it keeps_counts" if budget.keeps_counts else f"{room} more than it drops"
            right = f"must drop at most {count} weights of {name} and grow {rule}, in whole numbers"
            raise ConfigError("budget", type(budget).__name__, f"{right}, not drop {dropped!r} and grow {grown!r}")
    return plan


def scored(kind: str, by: object, score: Tensor, name: str, weight: Tensor) -> Tensor:
    """The score of a layer that a method gave. Any other shape would rank other weights, without an error.

    Raises:
        ConfigError: for another shape than the weight's; `kind` is the argument that the method is.
    """
    shape = getattr(score, "shape", None)
    if shape != weight.shape:
        given = type(score).__name__ if shape is None else tuple(shape)
        right = f"must score each weight of {name}, a tensor of {tuple(weight.shape)}, not {given}"
        raise ConfigError(kind, type(by).__name__, right)
    return score


class Peaks:
    """The extremes of weights and scores, by which all of them are known to be finite or not."""

    def __init__(self):
        self._names: list[tuple[str, bool]] = []
        self._values: list[Tensor] = []

    def weight(self, name: str, *values: Tensor) -> None:
        self._add(name, True, values)

    def score(self, name: str, *values: Tensor) -> None:
        self._add(name, False, values)

    def _add(self, name: str, is_weight: bool, values: tuple[Tensor, ...]) -> None:
        self._names += [(name, is_weight)] * len(values)
        self._values += values

    def finite(self, step: int, ranks: Ranks) -> bool:
        """Whether all of all layers are, on all ranks: waits for the device once; warns of a score that is not.

        Raises:
            DivergedError: for a weight that is not.
        """
        if not self._values:  # nothing is trained
            return True
        bad = ~torch.stack([peak.float().to(self._values[0].device) for peak in self._values]).isfinite()
        found = [self._names[place] for place in ranks.max(bad.int()).nonzero()[:, 0].tolist()]
        for name, is_weight in found:
            if is_weight:
                raise DivergedError(f"{name} is not finite at the mask update of step {step}")
        if found:
            said = "its gradient or a score is not finite: masks stay as they are"
            warnings.warn(f"{found[0][0]}: {said}, as under a GradScaler that skips the step", stacklevel=3)
        return not found


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
