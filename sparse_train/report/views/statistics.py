"""Everything that is inferred from several seeds; views ask here, and compute no interval of their own.

Differences are in the unit of their values. Every interval has a level of 95%. Fewer than two values have none: NaN.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from scipy.stats import t as student_t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

LEVEL, POWER = 0.95, 0.8


class Estimate(NamedTuple):
    """A mean or a difference of means.

    Attributes:
        mean: the estimate.
        low, high: its 95% interval.
        p: two-sided, of the hypothesis that it is 0.
        n: values, or pairs of values; of two samples the smaller one.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        """`+1.24 [+0.62, +1.87]`; one seed has no interval; nothing where there is none."""
        interval = "" if math.isnan(self.low) else f" [{self.low:+.2f}, {self.high:+.2f}]"
        return f"{self.mean:+.2f}{interval}" if self.n else ""


NOTHING = Estimate(math.nan, math.nan, math.nan, math.nan, 0)


def mean(values: pd.Series, borrowed: tuple[float, int] | None = None) -> Estimate:
    """The mean of independent values, by Student's t with n - 1 degrees of freedom.

    Of differences between runs that share a seed, this is the paired test.

    Args:
        borrowed: the standard deviation of how many other values; a single value takes it as its own.
    """
    if len(values) == 1 and borrowed:
        std, n = borrowed
        found = float(values.iloc[0])
        low, high = student_t.interval(LEVEL, n - 1, found, std)
        return Estimate(found, float(low), float(high), float(2 * student_t.sf(abs(found) / std, n - 1)), 1)
    if len(values) < 2:
        return NOTHING._replace(mean=float(values.mean()), n=len(values))
    of = DescrStatsW(values.to_numpy(dtype=float))
    low, high = of.tconfint_mean(alpha=1 - LEVEL)
    with np.errstate(divide="ignore", invalid="ignore"):  # values that are all the same
        p = of.ttest_mean()[1]
    return Estimate(float(of.mean), float(low), float(high), float(p), len(values))


def welch(terms: Sequence[tuple[int, float, float, int]]) -> Estimate:
    """A signed sum of independent means whose variances may differ (Welch, 1947; Satterthwaite, 1946).

    Args:
        terms: a sign, a mean, its sample's standard deviation and size; +1 and -1 give the difference of two means.
    """
    signs, means, stds, sizes = map(np.array, zip(*terms, strict=True))
    total, n = float((signs * means).sum()), int(sizes.min())
    if n < 2 or np.isnan(stds).any():
        return NOTHING._replace(mean=total, n=n)
    variances = stds**2 / sizes
    owned = variances**2 / (sizes - 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # samples without any spread
        freedom, error = variances.sum() ** 2 / owned.sum(), np.sqrt(variances.sum())
        low, high = student_t.interval(LEVEL, freedom, total, error)
        p = 2 * student_t.sf(abs(total) / error, freedom)
    return Estimate(total, float(low), float(high), float(p), n)


class Joint(NamedTuple):
    """Several published differences of two means, taken together.

    Attributes:
        n, positive: differences, and those above 0.
        sign: p of the two-sided sign test.
        mean, error: their mean, and its standard error by the pooled deviation.
        survive: those whose p by the pooled deviation is below 0.05 after Holm's procedure.
    """

    n: int
    positive: int
    sign: float
    mean: float
    error: float
    survive: int


def joint(differences: Sequence[float], spreads: Sequence[float], n: int) -> Joint:
    """Many differences of means of n runs each, whose runs are taken to deviate alike.

    Args:
        spreads: the standard deviation behind each mean, two for a difference.
        n: runs behind a mean.
    """
    found, count = np.asarray(differences, dtype=float), len(differences)
    variance = float(np.mean(np.square(spreads)))
    error = math.sqrt(2 * variance / n)
    p = 2 * student_t.sf(np.abs(found) / error, len(spreads) * (n - 1))
    positive = int((found > 0).sum())
    sign = float(binomtest(positive, count).pvalue)
    survive = int((np.array(holm(p)) < 1 - LEVEL).sum())
    return Joint(count, positive, sign, float(found.mean()), error / math.sqrt(count), survive)


def equivalent(found: Estimate, margin: float) -> bool:
    """Whether the interval lies between -`margin` and +`margin`: two one-sided t-tests at 2.5% (Schuirmann, 1987)."""
    return -margin <= found.low and found.high <= margin


def holm(p: Sequence[float]) -> list[float]:
    """The p of a family of tests, adjusted so that its chance of any false finding is bounded (Holm, 1979)."""
    known = [value for value in p if not math.isnan(value)]
    adjusted = iter(multipletests(known, method="holm")[1] if known else ())
    return [value if math.isnan(value) else float(next(adjusted)) for value in p]


def smallest_effect(std: float, n: int) -> float:
    """The smallest mean difference that n pairs show with a chance of 80%, if differences deviate by `std`."""
    if n < 2 or not std > 0:
        return math.nan
    return float(std * TTestPower().solve_power(nobs=n, alpha=1 - LEVEL, power=POWER))
