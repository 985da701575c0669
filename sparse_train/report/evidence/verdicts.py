"""Every rule by which a comparison is judged: a prediction, a cell of a claim, and a claim over all its cells.

One seed has no interval: it is shown, and judges nothing.
"""

from collections import Counter
from dataclasses import dataclass
from math import inf

import pandas as pd

from sparse_train.report.views import statistics
from sparse_train.report.views.statistics import Estimate

HOLDS, SMALL, FAILS, OPEN = "holds", "too small to count", "fails", "open"
UNJUDGED, NO_RUNS, REHEARSAL = "one seed, not judged", "no runs yet", "a rehearsal: not judged"
CONFIRMED, REFUTED, INCONCLUSIVE, NOT_RUN = "confirmed", "refuted", "inconclusive", "not run"
CERTAIN = 0.05  # an adjusted p below it counts


@dataclass(frozen=True)
class ClaimCell:
    """One cell of a claim: a signed sum of means that should be as large as what counts.

    Attributes:
        words: which cell.
        table: the sweep that has it.
        found: the sum, in percentage points; of nothing (n is 0) where a number is missing.
        verdict: one of the words above; none where a number is missing.
        adjusted: p, adjusted for all cells of the claim (Holm); NaN where it is not asked for.
    """

    words: str
    table: str
    found: Estimate
    verdict: str | None
    adjusted: float = float("nan")

    @property
    def known(self) -> bool:
        return self.found.n > 0


def of_means(effect: float, counts: float) -> str:
    """By published means, whose difference has no sign below what counts."""
    return HOLDS if effect >= counts else FAILS if effect < -abs(counts) else SMALL


def of_seeds(found: Estimate, counts: float) -> str:
    """By the 95% interval over paired seeds; one seed has none."""
    if found.n < 2:
        return UNJUDGED
    if found.low > min(0.0, counts) and found.mean >= counts:
        return HOLDS
    if statistics.equivalent(found, abs(counts)):
        return SMALL
    return FAILS if found.high < counts else OPEN


def of_prediction(found: Estimate, within: float = 0.0, at_least: float = -inf, at_most: float = inf) -> str:
    """By the 95% interval over seeds.

    A prediction of equality is confirmed if the interval lies within -`within` and +`within`, and refuted if the
    interval leaves out 0 and the prediction is not confirmed. One with a bound is confirmed if the whole interval keeps
    the bound, and refuted if none of it does. Every other case is inconclusive; one without runs is not run.
    """
    if found.n < 2:
        return UNJUDGED if found.n else NOT_RUN
    if (at_least, at_most) == (-inf, inf):
        kept, outside = statistics.equivalent(found, within), found.low > 0 or found.high < 0
    else:
        kept = at_least <= found.low and found.high <= at_most
        outside = found.high < at_least or at_most < found.low
    return CONFIRMED if kept else REFUTED if outside else INCONCLUSIVE


def overall(comparisons: list[ClaimCell]) -> str:
    """A claim fails if it fails in one cell, and holds if it holds in all."""
    verdicts = {comparison.verdict for comparison in comparisons}
    if verdicts == {HOLDS}:
        return HOLDS
    ranked = (REHEARSAL, FAILS, OPEN, UNJUDGED)
    return next((word for word in ranked if word in verdicts), OPEN if verdicts & {HOLDS, SMALL} else NO_RUNS)


def said(comparisons: list[ClaimCell]) -> str:
    """The verdict in words, with the cells behind it: `judged: 1 of 36 (holds in 1)`."""
    counts, verdict = Counter(comparison.verdict for comparison in comparisons), overall(comparisons)
    if verdict in (REHEARSAL, NO_RUNS):
        return verdict
    judged = {word: counts[word] for word in (HOLDS, SMALL, FAILS, OPEN) if counts[word]}
    parts, single = [], [c.found.mean for c in comparisons if c.verdict == UNJUDGED]
    if judged:
        cells = ", ".join(f"{word} in {count}" for word, count in judged.items())
        head = f"**{verdict}**, " if verdict in (HOLDS, FAILS) else ""
        parts.append(f"{head}judged: {sum(judged.values())} of {len(comparisons)} ({cells})")
    if single:
        which = f": {single[0]:+.2f}" if len(single) == 1 else f" in {len(single)} cells"
        parts.append(f"one seed{which}, not judged")
    return "; ".join(parts)


def beyond_spread(comparisons: list[ClaimCell]) -> str:
    """Where the difference of published means is certain: `for it in 24 of 24 (table8 12 of 12, table9 12 of 12)`."""
    spread = [c for c in comparisons if not pd.isna(c.adjusted)]
    if not spread:
        return "no spread given"
    certain = [c for c in spread if c.adjusted < CERTAIN]
    ahead = Counter(c.table for c in certain if c.found.mean > 0)
    tables = Counter(c.table for c in spread)
    each = ", ".join(f"{table} {ahead[table]} of {count}" for table, count in tables.items())
    against = len(certain) - ahead.total()
    words = f"for it in {ahead.total()} of {len(spread)}" + (f", against it in {against}" if against else "")
    return words + (f" ({each})" if len(tables) > 1 else "")
