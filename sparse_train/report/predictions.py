"""Predictions of a study, that two numbers agree, judged."""

import pandas as pd

from sparse_train.report import paper, registration, statistics
from sparse_train.report.effects import Setting, complete, find, in_a_sentence, paired, settings_of, shown, unit
from sparse_train.report.labels import name
from sparse_train.report.tables import HOLE

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

    A prediction is confirmed if the 95% interval of the difference lies within -`within` and +`within`, and refuted if
    the interval leaves out 0 and the prediction is not confirmed. One seed has no interval: it misses the prediction
    if its difference is larger than `within`, and confirms nothing. In every other case there is not enough data.

    Args:
        values: metrics.
        within: how small a difference of a metric counts as none; one that is not named can only be refuted.
        equal: the pairs: what the prediction `says`, the factors of setting `a`, and those of setting `b` or, as
            `paper`, a `table` of the paper and the factors of its cell. The paper's mean counts as exact.
        sweep: the file that has them; git says whether it had them before the runs.
    """
    settings = settings_of(runs, factors)
    made = [["Prediction", *(f"difference in {in_a_sentence(name(v))}" for v in values), "n", "made"]]
    for pair in equal:
        differences = {v: _against(pair, settings, v) for v in values}
        made.append(
            [
                pair["says"],
                *(f"{shown(d) or HOLE}: {_verdict(d, within.get(v, 0.0))}" for v, d in differences.items()),
                f"{len(differences[values[0]])} of {runs['seed'].nunique()}",
                registration.status(sweep, pair, within, _revisions(settings, pair)),
            ]
        )
    return made


def _revisions(settings: dict[Setting, pd.DataFrame], pair: dict) -> list[str]:
    """Those of the complete runs that judge a prediction."""
    groups = [complete(settings[find(settings, pair[side])]) for side in ("a", "b") if side in pair]
    return [str(run.get("git")) for group in groups for run in group.to_dict("records")]


def _against(pair: dict, settings: dict[Setting, pd.DataFrame], value: str) -> pd.Series:
    """Setting `a` minus setting `b`, or minus the paper's cell, in the unit that is shown."""
    ours = complete(settings[find(settings, pair["a"])])
    if "paper" not in pair:
        return paired(ours, complete(settings[find(settings, pair["b"])]), value)
    published = paper.value(pair["paper"]["table"], **{k: str(v) for k, v in pair["paper"].items() if k != "table"})
    assert published is not None, f"the paper has no cell {pair['paper']}"
    return unit(value) * ours[value].dropna() - published[0] if value in ours else pd.Series(dtype=float)


def _verdict(difference: pd.Series, within: float) -> str:
    found = statistics.mean(difference)
    if found.n < 2:
        return MISSED if 0 < within < abs(found.mean) else OPEN
    within_margin = -within <= found.low and found.high <= within
    return CONFIRMED if within_margin else REFUTED if found.low > 0 or found.high < 0 else OPEN
