"""The paper's claims, judged on its own numbers and on ours, as plain values."""

from pathlib import Path

import pandas as pd

from sparse_train.report.evidence import claims
from sparse_train.report.evidence.verdicts import Comparison, beyond_spread, overall, said


def verdicts(results_dir: Path, scales: list[str]) -> list[dict]:
    """Every claim, with what the paper's numbers say and what ours say at each scale."""
    made = []
    for claim in claims.stated():
        theirs = claims.on_the_papers(claim)
        ours = {scale: _side(claims.on_ours(claim, results_dir, scale)) for scale in scales}
        about = {key: claim[key] for key in ("id", "says", "where", "tables", "counts")}
        made.append(about | {"paper": _side(theirs) | {"spread": beyond_spread(theirs)}, "ours": ours})
    return made


def _side(comparisons: list[Comparison]) -> dict:
    known = [c for c in comparisons if c.known]
    mean = sum(c.found.mean for c in known) / len(known) if known else 0.0
    return {
        "verdict": overall(comparisons),
        "said": said(comparisons).replace("*", ""),
        "mean": round(mean, 2),
        "cells": [[c.words, *map(_round, c.found[:3]), _round(c.adjusted, 3), c.found.n, c.verdict] for c in known],
    }


def _round(value: float, digits: int = 2) -> float | None:
    return None if pd.isna(value) else round(value, digits)
