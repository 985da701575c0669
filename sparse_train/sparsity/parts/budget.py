"""How many weights of each layer a mask update drops and grows."""

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple, Protocol

from torch import Tensor

Plan = dict[str, tuple[int, int]]  # layer -> how many weights are dropped, and how many grown


class Moment(NamedTuple):
    """What a budget knows at a mask update, by layer. Scores and gradients are computed as they are asked for.

    Attributes:
        fraction: f_t, the share of weights to replace.
        progress: 1 at the last update of the run, t over its step before.
        counts: active weights.
        first, targets: those the run began with, and those that its sparsity asks for.
        masks: as they are.
        score: by which weights are dropped, the lowest first.
        gradient: that scores see.
    """

    fraction: float
    progress: float
    counts: Mapping[str, int]
    first: Mapping[str, int]
    targets: Mapping[str, int]
    masks: Mapping[str, Tensor]
    score: Callable[[str], Tensor]
    gradient: Callable[[str], Tensor]


class Budget(Protocol):
    """What `Updater` needs of a budget.

    Attributes:
        keeps_counts: whether each layer keeps its number of weights: as many are dropped as are grown.
        gradual: whether weights become fewer while the network trains, from all of them (`topology.initial=dense`).
            Then `left(first, target, progress)` says how many of a layer's are left, for the count of FLOPs.
        grows: whether there is anything to grow.
    """

    keeps_counts: bool
    gradual: bool
    grows: bool

    def __call__(self, at: Moment) -> Plan: ...


class Steady:
    """Each layer drops and grows `floor(f_t n)` of its n weights (Evci et al. 2020, Algorithm 1)."""

    keeps_counts, gradual, grows = True, False, True

    def __call__(self, at: Moment) -> Plan:
        changed = {name: whole(at.fraction * count) for name, count in at.counts.items()}
        return {name: (count, count) for name, count in changed.items()}


def whole(value: float) -> int:
    """The floor, of a product that may be off by rounding: 0.29 * 100 is 29, not 28.999999999999996."""
    return int(value * (1 + 1e-9))


def apportioned(total: int, shares: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """`total` in whole numbers in proportion to `shares`, nowhere above `room`: what has no room goes to the others.

    Floors first, then one each by largest remainder (Hamilton's method). If there are no shares, all count alike.

    Args:
        total: at most all the room there is.
        shares: not negative.
    """
    given = dict.fromkeys(shares, 0)
    while left := total - sum(given.values()):
        free = [name for name in shares if given[name] < room[name]]
        if not 0 < sum(shares[name] for name in free) < inf:
            shares = dict.fromkeys(shares, 1.0)
        of = sum(shares[name] for name in free)
        exact = {name: left * shares[name] / of for name in free}
        more = {name: min(int(exact[name]), room[name] - given[name]) for name in free}
        if all(more[name] == int(exact[name]) for name in free):
            rest = left - sum(more.values())
            others = [name for name in free if given[name] + more[name] < room[name]]
            for name in sorted(others, key=lambda name: more[name] - exact[name])[:rest]:
                more[name] += 1
        given |= {name: given[name] + by for name, by in more.items()}
    return given
