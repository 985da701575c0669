"""The paper's claims, judged on its own numbers and on ours, as plain values."""

from pathlib import Path

import pandas as pd

from sparse_train.report import claims
from sparse_train.report.claims import FAILS, HOLDS, Comparison


def verdicts(results_dir: Path, scales: list[str]) -> list[dict]:
    """Every claim, with what the paper's numbers say and what ours say at each scale."""
    made = []
    for claim in claims.stated():
        ours = {scale: _side(claims.on_ours(claim, results_dir, scale)) for scale in scales}
        about = {key: claim[key] for key in ("id", "says", "where", "tables")}
        made.append(about | {"paper": _side(claims.on_the_papers(claim)), "ours": ours})
    return made


def _side(comparisons: list[Comparison]) -> dict:
    known = [c for c in comparisons if c.effect is not None]
    if not known:
        return {"verdict": "no runs yet", "of": len(comparisons), "cells": []}
    return {
        "verdict": claims.overall(comparisons),
        "of": len(comparisons),
        "holds": sum(c.verdict == HOLDS for c in known),
        "fails": sum(c.verdict == FAILS for c in known),
        "mean": round(sum(c.effect for c in known) / len(known), 2),
        "cells": [[c.words, _round(c.effect), _round(c.low), _round(c.high), c.n, c.verdict] for c in known],
    }


def _round(value: float) -> float | None:
    return None if pd.isna(value) else round(value, 2)
