"""When the topology changes, and by how much."""

from collections.abc import Callable
from math import cos, pi


def cosine(fraction: float, progress: float) -> float:
    """RigL's decay (Evci et al. 2020, Section 3): fraction / 2 * (1 + cos(pi * progress)), 0 at progress 1."""
    return fraction / 2 * (1 + cos(pi * progress))


def constant(fraction: float, progress: float) -> float:
    """The same share at every update."""
    return fraction


DECAYS: dict[str, Callable[[float, float], float]] = {"cosine": cosine, "constant": constant}


def cubic(first: float, last: float, progress: float) -> float:
    """last + (first - last) (1 - progress)^3 (Zhu & Gupta 2017, Section 3): fast at first, `last` at progress 1."""
    return last + (first - last) * (1 - progress) ** 3
