"""What can be seen in an artifact, in sentences made of its own runs."""

import pandas as pd

from sparse_train.report import statistics
from sparse_train.report.effects import complete, find, paired, settings_of, written
from sparse_train.report.tables import HOLE


def lines(runs: pd.DataFrame, factors: list[str], value: str, pairs: list[dict]) -> list[str]:
    """For each pair of settings the difference, and whether the seeds' spread explains it.

    Args:
        value: the metric.
        pairs: what a comparison `says`, and the factors of its settings `a` and `b`, paired over seeds.
    """
    settings = settings_of(runs, factors)
    made = []
    for pair in pairs:
        a, b = (complete(settings[find(settings, pair[side])]) for side in ("a", "b"))
        difference = paired(a, b, value)
        found = statistics.mean(difference)
        numbers = f"{written(found)} points ({found.n} seeds)" if found.n else HOLE
        made.append(f"{pair['says']}: {numbers}, {_seen(difference, found)}")
    return made


def _seen(difference: pd.Series, found: statistics.Estimate) -> str:
    """Whether the 95% interval over seeds leaves out 0."""
    if found.n < 2:
        return "not enough data"
    if (difference == 0).all():
        return "the same to the bit"
    return "beyond the seeds' spread" if found.low > 0 or found.high < 0 else "within the seeds' spread"
