"""Predictions of a study, that two numbers agree, judged."""

from math import inf

import pandas as pd

from sparse_train.errors import require
from sparse_train.report import paper
from sparse_train.report.evidence import registration
from sparse_train.report.evidence.effects import complete, in_a_sentence, paired, settings_of, shown, unit
from sparse_train.report.settings import Setting, find
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import name

KNOWN_BASE = "registered, its second setting known"
CONFIRMED, REFUTED, MISSED, OPEN = "confirmed", "refuted", "missed by one seed", "not enough data"


def predictions(
    runs: pd.DataFrame,
    factors: list[str],
    values: list[str],
    within: dict[str, float],
    equal: list[dict],
    sweep: str,
) -> list[list[str]]:
    """A head; one row per prediction that two numbers agree: their differences, each with its verdict.

    A prediction of equality is confirmed if the 95% interval of the difference lies within -`within` and +`within`, and
    refuted if the interval leaves out 0 and the prediction is not confirmed. One with a bound (`at_least` or `at_most`,
    for the first of `values`) is confirmed if the whole interval keeps the bound, and refuted if none of it does. One
    seed has no interval: it misses the prediction if its difference lies outside, and confirms nothing. In every other
    case there is not enough data.

    Args:
        values: metrics.
        within: how small a difference of a metric counts as none; one that is not named can only be refuted.
        equal: the pairs: what the prediction `says`, the factors of setting `a`, and those of setting `b`; or, as
            `paper`, a `table` of the paper and the factors of its cell, whose mean counts as exact; or, as `theory`,
            the value of every metric. With `at_least` or `at_most` a bound instead of equality.
        sweep: the file that has them; git says whether it had them before the runs.
    """
    settings = settings_of(runs, factors)
    made = [["Prediction", *(f"difference in {in_a_sentence(name(v))}" for v in values), "n", "made"]]
    for pair in equal:
        differences = {v: _against(pair, settings, v) for v in values}
        made.append(
            [
                pair["says"],
                *(
                    ": ".join(filter(None, [shown(d), _verdict(d, pair if v == values[0] else {}, within.get(v, 0.0))]))
                    for v, d in differences.items()
                ),
                f"{len(differences[values[0]])} of {runs['seed'].nunique()}",
                _made(sweep, pair, within, settings),
            ]
        )
    return made


def _made(sweep: str, pair: dict, within: dict[str, float], settings: dict[Setting, pd.DataFrame]) -> str:
    """When a prediction was made, from the revisions of the complete runs that judge it; empty without such runs."""
    groups = [complete(settings[find(settings, pair[side])]) for side in ("a", "b") if side in pair]
    first, *others = ([str(run.get("git")) for run in group.to_dict("records")] for group in groups)
    if not first or not all(others):
        return ""
    made = registration.status(sweep, pair, within, [*first, *(revision for other in others for revision in other)])
    early = made == registration.POST_HOC and registration.status(sweep, pair, within, first) == registration.REGISTERED
    return KNOWN_BASE if early else made


def _against(pair: dict, settings: dict[Setting, pd.DataFrame], value: str) -> pd.Series:
    """Setting `a` minus setting `b`, the paper's cell or the theory's value, in the unit that is shown."""
    ours = complete(settings[find(settings, pair["a"])])
    if "theory" in pair:
        return unit(value) * (ours[value].dropna() - pair["theory"][value]) if value in ours else pd.Series(dtype=float)
    if "paper" not in pair:
        return paired(ours, complete(settings[find(settings, pair["b"])]), value)
    published = paper.value(pair["paper"]["table"], **{k: str(v) for k, v in pair["paper"].items() if k != "table"})
    require(published is not None, "predictions.paper", pair["paper"], "must be a cell of the paper's tables")
    return unit(value) * ours[value].dropna() - published[0] if value in ours else pd.Series(dtype=float)


def _verdict(difference: pd.Series, pair: dict, within: float) -> str:
    bounded = "at_least" in pair or "at_most" in pair
    low, high = (pair.get("at_least", -inf), pair.get("at_most", inf)) if bounded else (-within, within)
    found = statistics.mean(difference)
    if found.n == 0 or (found.n == 1 and not bounded and not within):
        return OPEN
    if found.n == 1:
        return OPEN if low <= found.mean <= high else MISSED
    if bounded:
        kept = low <= found.low and found.high <= high
        outside = found.high < low or high < found.low
    else:
        kept = statistics.equivalent(difference, within)
        outside = found.low > 0 or found.high < 0
    return CONFIRMED if kept else REFUTED if outside else OPEN
