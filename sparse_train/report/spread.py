"""Means, spreads and intervals over seeds."""

from math import nan, sqrt

import pandas as pd
from scipy.stats import t as student_t


def interval(values: pd.Series) -> tuple[float, float]:
    """The mean, and half the width of its 95% interval by Student's t; NaN for fewer than two values."""
    n = len(values)
    half = student_t.ppf(0.975, n - 1) * values.std() / sqrt(n) if n > 1 else nan
    return float(values.mean()), float(half)


def mean_std(mean: float, std: float | None, plus_minus: str = " ± ") -> str:
    """`61.00 ± 1.00`; the mean alone where there is no deviation."""
    return f"{mean:.2f}" if std is None or pd.isna(std) else f"{mean:.2f}{plus_minus}{std:.2f}"
