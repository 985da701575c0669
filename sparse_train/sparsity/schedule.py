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
