"""A mean and its spread over seeds, in words."""

import pandas as pd


def mean_std(mean: float, std: float | None, plus_minus: str = " ± ") -> str:
    """`61.00 ± 1.00`; the mean alone where there is no deviation."""
    return f"{mean:.2f}" if std is None or pd.isna(std) else f"{mean:.2f}{plus_minus}{std:.2f}"
