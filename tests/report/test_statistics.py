"""Intervals cover as often as they say, by simulation and by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from sparse_train.report.evidence import comparisons
from sparse_train.report.figures import KINDS, theory
from sparse_train.report.figures.kinds import Material
from sparse_train.report.page import content
from sparse_train.report.sweeps import Cell, Sweep
from sparse_train.report.views import statistics
from sparse_train.report.views.columns import HOLE

PAIRS = pd.Series([0.5, 1.5, -0.25, 1.0, 0.75])


def simulated(count, n, true_mean=0.0, std=1.0, seed=0):
    return np.random.default_rng(seed).normal(true_mean, std, (count, n))


def sample(values):
    """Its mean, standard deviation and size."""
    return np.mean(values), np.std(values, ddof=1) if len(values) > 1 else math.nan, len(values)


def test_the_interval_of_a_mean_by_hand():
    found = statistics.mean(PAIRS)
    half = 2.776445105 * PAIRS.std() / math.sqrt(5)  # Student's t, 4 degrees of freedom, 97.5%
    assert found.mean == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.7 - half, 0.7 + half))
    assert found.p == pytest.approx(stats.ttest_1samp(PAIRS, 0).pvalue)
    assert found.n == 5


def test_welchs_interval_is_scipys():
    ours, theirs = simulated(1, 5, 1.0, 0.3)[0], simulated(1, 3, 0.0, 1.0, seed=1)[0]
    found = statistics.welch([(1, *sample(ours)), (-1, *sample(theirs))])
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = expected.confidence_interval()
    assert (found.p, *found[1:3]) == pytest.approx((expected.pvalue, interval.low, interval.high))


def test_welchs_interval_of_a_difference_of_differences_covers():
    """What the claim that a gap shrinks rests on: four means of three values, one of which deviates most."""
    drawn = [
        simulated(1000, 3, true, std, seed) for seed, (true, std) in enumerate([(3, 0.2), (1, 1), (2, 0.3), (1, 0.3)])
    ]
    terms = [
        [(sign, *sample(v)) for sign, v in zip((1, -1, -1, 1), row, strict=True)] for row in zip(*drawn, strict=True)
    ]
    found = [statistics.welch(one) for one in terms]
    assert 0.93 < np.mean([e.low <= 1 <= e.high for e in found]) < 0.975


def test_equivalence_is_two_one_sided_tests_that_agree_with_the_interval():
    low, high = statistics.mean(PAIRS)[1:3]
    edge = max(-low, high)
    for margin, expected in ((0.99 * edge, False), (1.01 * edge, True)):
        below = stats.ttest_1samp(PAIRS, -margin, alternative="greater").pvalue
        above = stats.ttest_1samp(PAIRS, margin, alternative="less").pvalue
        assert statistics.equivalent(statistics.mean(PAIRS), margin) == (max(below, above) <= 0.025) == expected
    same = statistics.mean(pd.Series([0.2, 0.2]))
    assert statistics.equivalent(same, 0.3)
    assert not statistics.equivalent(same, 0.1)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)


def test_differences_taken_together_by_hand():
    """Means of three, one deviation of 0.3 behind all: an error of 0.245 each, 0.122 for the mean of four."""
    found = statistics.joint([1.0, 0.1, 0.2, -0.1], [0.3] * 8, 3)
    assert found == pytest.approx((4, 3, 0.625, 0.3, 0.3 * math.sqrt(2 / 3) / 2, 1))
    p = 2 * stats.t.sf(1.0 / (0.3 * math.sqrt(2 / 3)), 16)
    assert 4 * p < 0.05 < 2 * stats.t.sf(0.2 / 0.245, 16)


def test_the_smallest_effect_is_found_in_80_of_100_cases():
    effect = statistics.smallest_effect(1.0, 5)
    found = [statistics.mean(pd.Series(row)).p < 0.05 for row in simulated(1000, 5, effect)]
    assert 0.76 < np.mean(found) < 0.84


def test_one_value_has_no_interval():
    for found in (statistics.mean(PAIRS[:1]), statistics.welch([(1, *sample(PAIRS[:1])), (-1, *sample(PAIRS))])):
        assert all(map(math.isnan, (found.low, found.high, found.p)))
    assert not statistics.equivalent(statistics.mean(PAIRS[:1]), 100)
    assert math.isnan(statistics.smallest_effect(0.0, 5))
    assert math.isnan(statistics.mean(PAIRS[:0]).mean)


def edges(axes) -> pd.DataFrame:
    """Lower and upper edge of the one band in these axes, by x."""
    [band] = axes.collections
    points = pd.DataFrame(band.get_paths()[0].vertices, columns=["x", "y"])
    return points.groupby("x")["y"].agg(["min", "max"])


def rows_of_seeds(values: dict[float, list[float]]) -> pd.DataFrame:
    return pd.DataFrame([{"x": x, "y": y, "seed": seed} for x, drawn in values.items() for seed, y in enumerate(drawn)])


VALUES = {0.5: [1.0, 2.0, 4.0], 0.9: [3.0, 3.5, 3.25]}


def test_the_band_of_a_measured_gradient_is_the_interval():
    axes = Figure().subplots()
    theory._band(axes, rows_of_seeds(VALUES), "x", "y", 0, "")
    for x, drawn in VALUES.items():
        found = statistics.mean(pd.Series(drawn))
        assert tuple(edges(axes).loc[x]) == pytest.approx((found.low, found.high))


def runs_of(value: str) -> Material:
    """Three seeds of SGD at two lengths of training."""
    cell = {"dst": "rigl", "optimizer": "sgd", "sparsity": "0.9"}
    drawn = zip(("100", "200"), VALUES.values(), strict=True)
    runs = pd.DataFrame([{**cell, "epochs": epochs, value: y} for epochs, ys in drawn for y in ys])
    return Material(Sweep("x", "paper", {"figure": {"value": value}}, []), runs, pd.DataFrame())


def test_points_over_the_length_of_training_have_a_band_of_one_standard_deviation():
    on = runs_of("test_acc")
    axes = KINDS["final"].draw(on).axes[0]
    [series] = content.panels_of("final", on)[0]["series"]
    for x, y, sd, drawn in zip((100, 200), series["y"], series["sd"], VALUES.values(), strict=True):
        mean, std = np.mean(drawn), np.std(drawn, ddof=1)
        assert tuple(edges(axes).loc[x]) == pytest.approx((mean - std, mean + std))
        assert (y, sd) == pytest.approx((mean, std), abs=0.005)


def test_the_bars_of_the_itop_rate_are_one_standard_deviation():
    on = runs_of("itop_rate")
    axes = KINDS["itop"].draw(on).axes[0]
    [bar] = [line.get_segments()[0] for line in axes.collections]
    [series] = content.panels_of("itop", on)[0]["series"]
    mean, std = (100 * f(VALUES[0.5]) for f in (np.mean, lambda drawn: np.std(drawn, ddof=1)))
    assert (bar[0][1], bar[1][1]) == pytest.approx((mean - std, mean + std))
    assert (series["y"][0], series["sd"][0]) == pytest.approx((mean, std), abs=0.005)


def test_a_metric_that_no_record_of_a_setting_has_is_a_hole():
    """Records may be older than a metric: some seeds lack it, or all of a setting."""
    flops = {"sgd": (None, None), "sparseopt": (None, 0.05)}
    runs = [
        {"optimizer": optimizer, "seed": seed, "status": "complete", "test_acc": 50.0 + seed, "flops/training": share}
        for optimizer, shares in flops.items()
        for seed, share in enumerate(shares)
    ]
    artifact = {"reference": {"optimizer": "sgd"}, "values": ["test_acc", "flops/training"]}
    cells = [Cell(one["optimizer"], {"optimizer": one["optimizer"], "seed": "0"}, {}, "", 0) for one in runs]
    study = comparisons.Study(Sweep("x", "paper", artifact, [cells]), pd.DataFrame(runs))
    _, sgd, sparseopt = comparisons.effects(study)
    assert (sgd[-1], sparseopt[-1]) == (HOLE, "5.00")
