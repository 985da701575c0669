"""Where the outer weight changes its sign: a grid of initial values against Lemma A.1 and Corollary A.4."""

from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from sparse_train.errors import require_one_of
from sparse_train.record.record import Record
from sparse_train.theory.dynamics import problem, step, students
from sparse_train.theory.invariants import flip_forbidden
from sparse_train.theory.measurement import measure
from sparse_train.theory.student_teacher import SPARSE, scales


def sign_flips(
    cfg: DictConfig,
    record: Record,
    optimizer: str,
    a0: Sequence[float],
    gamma0: Sequence[float],
    beta0: Sequence[float],
    eta: float,
    iterations: int,
    alpha: float,
    seeds: int,
) -> None:
    """For every (a0, gamma0, beta0) of the grid: may a flip, and in what share of `seeds` students it does.

    Args:
        optimizer: "gd" or "ham_flow", whose invariants hold (`dynamics.step`).
    """
    require_one_of("optimizer", optimizer, ("gd", "ham_flow"))

    def work() -> tuple[list[dict], dict]:
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

    measure(work, cfg, record, f"sign flips, {optimizer}")
