"""What can be seen in an artifact, in sentences made of its own runs."""

import pandas as pd

from sparse_train.report.evidence.effects import contrasts, with_interval
from sparse_train.report.views import statistics


def lines(runs: pd.DataFrame, factors: list[str], value: str, pairs: list[dict]) -> list[str]:
    """For each pair of settings the difference, and whether the seeds' spread explains it.

    Args:
        value: the metric.
        pairs: what a comparison `says`, and the factors of its settings `a` and `b`, paired over seeds.
    """
    made = []
    for says, difference in contrasts(runs, factors, pairs, value).items():
        found = statistics.mean(difference)
        numbers = f"{with_interval(found)} points ({found.n} seeds)" if found.n else "not trained yet"
        made.append(f"{says}: {numbers}, {_seen(difference, found)}")
    return made


def _seen(difference: pd.Series, found: statistics.Estimate) -> str:
    """Whether the 95% interval over seeds leaves out 0."""
    if found.n < 2:
        return "not enough data"
    if (difference == 0).all():
        return "the same to the bit"
    return "beyond the seeds' spread" if found.low > 0 or found.high < 0 else "within the seeds' spread"
