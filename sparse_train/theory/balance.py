"""Figure 6: the balance equations as curves; revolved around a they are the surfaces of its second panel."""

import torch
from omegaconf import DictConfig

from sparse_train.errors import require
from sparse_train.theory.dynamics import invariant
from sparse_train.theory.measurement import Measured, measurement


def _check(points: int, **_: object) -> None:
    require(points % 2 == 1, "points", points, "must be odd: the middle one is a = 0")


@measurement("Figure 6", check=_check)
def balance(cfg: DictConfig, alpha: float, a0: list[float], reach: float, points: int) -> Measured:
    """Level curves through balanced initial values a0^2 = rho0^2, rho^2 = gamma^2 + beta^2.

    Rows are points (a, rho) with the invariant of (a0, |a0|): rho = |a| for gradient flow, which is singular at 0;
    for HAM rho^2 = rho0^2 + 2 (potential(a) - potential(a0)), which is positive at a = 0: the sign can flip.

    Args:
        reach: largest |a| drawn.
        points: an odd number, so that one of them is a = 0.
    """
    a = torch.linspace(-reach, reach, points, dtype=torch.float64)
    zero, rows, crossing = torch.zeros(()), [], {}
    for flow, strength in (("gradient flow", None), ("HAM", alpha)):
        for start in a0:
            level = invariant(torch.tensor(float(start)), torch.tensor(abs(float(start))), zero, strength)
            squared = (invariant(a, zero, zero, strength) - level) * (1 if strength is None else 2)
            rho = squared.clamp(min=0).sqrt()
            rows += [
                {"flow": flow, "a0": start, "a": x, "rho": r if s >= -1e-12 else None}
                for x, r, s in zip(a.tolist(), rho.tolist(), squared.tolist(), strict=True)
            ]
            crossing[f"{flow} rho at a = 0 from a0 = {start}"] = float(rho[points // 2])
    return rows, crossing
