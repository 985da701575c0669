"""Figures 7, 8 and 9: does HAM flip the sign of the outer weight, does scaling help, do the invariants stay?"""

from collections.abc import Sequence
from math import inf, nan, sqrt

import torch
from omegaconf import DictConfig
from torch import Tensor

from sparse_train.optim.sparseopt import neuron_scale
from sparse_train.theory.dynamics import (
    OPTIMIZERS,
    Students,
    flip_forbidden,
    invariant,
    loss,
    problem,
    step,
    students,
)
from sparse_train.theory.measurement import Measured, measurement

SPARSE, REDUNDANT = [1, 1, *[0] * 8], [0, 0, *[1] * 8]  # what a neuron sees: the useful inputs, or the others
NEURONS = {"one": [SPARSE], "two": [REDUNDANT, SPARSE]}
SCALINGS = ("none", "d", "eq12")
CONVERGED = 1e-4


@measurement(
    "{neurons} {optimizer} scaling {scaling} law {law:g} eta {eta:g}",
    neurons=NEURONS,
    optimizer=OPTIMIZERS,
    scaling=SCALINGS,
)
def student_teacher(
    cfg: DictConfig,
    neurons: str,
    optimizer: str,
    scaling: str,
    law: float,
    eta: float,
    iterations: int,
    alpha: float,
    seeds: int,
    points: int,
) -> Measured:
    """`seeds` students at once; rows are points in time, with the first seed drawn as the paper does.

    Args:
        neurons: "one", sparse; or "two", first the paper's "dense" one, which sees only the redundant inputs.
        optimizer: "gd", "ham" or "ham_flow" (`dynamics.step`).
        scaling: of w's gradient: "none", "d" (sqrt(1 - s_k)), or "eq12" (with s_avg; exactly 1 for one neuron).
        law: standard deviation of the student's initial weights, which the paper does not give.
        alpha: HAM's.
        points: rows to keep.
    """
    on = problem(seeds, cfg.seed, NEURONS[neurons])
    s = students(on, cfg.seed, law, torch.tensor(-1.0), torch.tensor(1.0), torch.tensor(0.0))
    scale = scales(on.mask, scaling)
    kept = invariant(s.a, s.gamma, s.beta, None if optimizer == "gd" else alpha)
    reached, rows = torch.full((seeds,), inf), []
    every = max(iterations // points, 1)
    for t in range(iterations + 1):
        now = loss(on, s)
        reached = torch.where((now < CONVERGED) & reached.isinf(), float(t), reached)
        if t % every == 0:
            drift = invariant(s.a, s.gamma, s.beta, None if optimizer == "gd" else alpha) - kept
            rows.append({"iteration": t, **_row(now, s, drift)})
        if t < iterations:
            step(on, s, eta, optimizer, alpha, scale)
    return rows, summary(s, reached, rows)


def scales(mask: Tensor, scaling: str) -> Tensor:
    """(K,) factors of w's gradient."""
    if scaling == "none":
        return torch.ones(len(mask), dtype=torch.float64)
    return neuron_scale(mask.bool(), average=1.0 if scaling == "d" else None).flatten()


def _row(now: Tensor, s: Students, drift: Tensor) -> dict:
    low, median, high = now.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=now.dtype)).tolist()
    row = {"loss_low": low, "loss_median": median, "loss_high": high, "loss": float(now[0])}
    row |= {"drift_median": float(drift.abs().amax(1).median()), "drift": float(drift[0].abs().max())}
    for k in range(s.a.shape[1]):
        row |= {f"a{k}": float(s.a[0, k]), f"gamma{k}": float(s.gamma[0, k]), f"beta{k}": float(s.beta[0, k])}
        row |= {f"w{k}": float(s.w[0, k].norm()), f"a{k}_median": float(s.a[:, k].median())}
    return row


def summary(s: Students, reached: Tensor, rows: list[dict]) -> dict:
    """Frequencies with Wilson intervals, medians with intervals of order statistics; 95%."""
    flipped = s.a[:, -1] > 0  # of the sparse neuron
    final = {"loss_median": rows[-1]["loss_median"], "drift_median": rows[-1]["drift_median"]}
    final |= _share("flipped", flipped) | _share("converged", reached.isfinite()) | _median("iterations", reached)
    for k in range(s.a.shape[1]):
        final |= _median(f"a{k}", s.a[:, k])
    return final


def _share(name: str, hits: Tensor) -> dict:
    n, p, z = len(hits), float(hits.double().mean()), 1.96
    centre, half = p + z**2 / (2 * n), z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return {f"{name}_share": p, f"{name}_low": max(low, 0.0), f"{name}_high": min(high, 1.0)}


def _median(name: str, values: Tensor) -> dict:
    ordered, n = values.sort().values.tolist(), len(values)
    half = 1.96 * sqrt(n) / 2
    picks: Sequence[float] = [
        ordered[max(int(n / 2 - half), 0)],
        ordered[n // 2],
        ordered[min(int(n / 2 + half), n - 1)],
    ]
    return dict(
        zip((f"{name}_low", f"{name}_median", f"{name}_high"), (nan if p == inf else p for p in picks), strict=True)
    )


@measurement("sign flips, {optimizer}", optimizer=("gd", "ham_flow"))
def sign_flips(
    cfg: DictConfig,
    optimizer: str,
    a0: Sequence[float],
    gamma0: Sequence[float],
    beta0: Sequence[float],
    eta: float,
    iterations: int,
    alpha: float,
    seeds: int,
) -> Measured:
    """For every (a0, gamma0, beta0) of the grid: may a flip, and in what share of `seeds` students it does.

    Args:
        optimizer: "gd" or "ham_flow", whose invariants hold (`dynamics.step`).
    """
    cells = torch.cartesian_prod(*(torch.tensor(list(v), dtype=torch.float64) for v in (a0, gamma0, beta0)))
    start = cells.repeat_interleave(seeds, 0)  # every cell with the same students
    on = problem(seeds, cfg.seed, [SPARSE])
    on.z, on.target = on.z.repeat(len(cells), 1, 1), on.target.repeat(len(cells), 1)
    s = students(on, cfg.seed, 1.0, *(column[:, None] for column in start.T))
    scale = scales(on.mask, "none")
    flipped = torch.zeros(len(start), dtype=torch.bool)
    for _ in range(iterations):
        step(on, s, eta, optimizer, alpha, scale)
        flipped |= s.a[:, 0] * start[:, 0] < 0
    share = flipped.view(len(cells), seeds).double().mean(1)
    forbidden = flip_forbidden(*cells.T, None if optimizer == "gd" else alpha)
    rows = [
        {"a0": a, "gamma0": g, "beta0": b, "forbidden": bool(no), "flipped_share": float(p)}
        for (a, g, b), no, p in zip(cells.tolist(), forbidden, share, strict=True)
    ]
    elsewhere = float(share[~forbidden].mean()) if (~forbidden).any() else None
    worst = float(share[forbidden].max()) if forbidden.any() else None
    return rows, {
        "forbidden_cells": int(forbidden.sum()),
        "flips_where_forbidden": worst,
        "flips_elsewhere": elsewhere,
    }
