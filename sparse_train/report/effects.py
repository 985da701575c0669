"""Settings of a study against a reference and against their own baseline, paired over seeds; predictions, judged."""

import pandas as pd

from sparse_train.report import paper, statistics
from sparse_train.report.labels import label, name
from sparse_train.report.spread import mean_std
from sparse_train.report.tables import HOLE

Setting = tuple[tuple[str, str], ...]  # (factor, value) of every factor that a setting has, seed aside
CONFIRMED, REFUTED, MISSED, OPEN = "confirmed", "refuted", "missed by one seed", "not enough data"


def lines(runs: pd.DataFrame, factors: list[str], reference: dict[str, object], values: list[str]) -> list[list[str]]:
    """A head; one row per setting: the mean of each of `values`, and the paired effects on the first of them.

    Args:
        factors: of the sweep.
        reference: factors of the setting that the others are compared with; its remaining factors are the commonest.
        values: metrics; the effect is that on the first, with its 95% interval over paired seeds (Student's t).
    """
    settings = _settings(runs, factors)
    shown = [f for f in factors if f not in ("seed", "optimizer") and len({dict(s).get(f) for s in settings}) > 1]
    base = _find(settings, reference)
    effect = f"effect on {_in_a_sentence(name(values[0]))}"
    made = [["Method", "Setting", *map(name, values), f"{effect}, from the reference", "from its own baseline", "n"]]
    for setting, group in settings.items():
        done, asked = _complete(group), dict(setting)
        own = _twin(setting, str(reference["optimizer"]))
        made.append(
            [
                label("optimizer", asked["optimizer"]),
                " ".join(f"{f}={asked[f]}" for f in shown if f in asked),
                *(HOLE if v not in done or done.empty else _mean(done[v], v) for v in values),
                "reference" if setting == base else _difference(done, _complete(settings[base]), values[0]),
                _difference(done, _complete(settings[own]), values[0]) if own in settings and own != setting else "",
                f"{len(done)} of {len(group)}",
            ]
        )
    return made


def predictions(
    runs: pd.DataFrame, factors: list[str], values: list[str], within: dict[str, float], equal: list[dict]
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
    """
    settings = _settings(runs, factors)
    made = [["Prediction", *(f"difference in {_in_a_sentence(name(v))}" for v in values), "n"]]
    for pair in equal:
        differences = {v: _against(pair, settings, v) for v in values}
        made.append(
            [
                pair["says"],
                *(f"{_shown(d) or HOLE}: {_verdict(d, within.get(v, 0.0))}" for v, d in differences.items()),
                f"{len(differences[values[0]])} of {runs['seed'].nunique()}",
            ]
        )
    return made


def _against(pair: dict, settings: dict[Setting, pd.DataFrame], value: str) -> pd.Series:
    """Setting `a` minus setting `b`, or minus the paper's cell, in the unit that is shown."""
    ours = _complete(settings[_find(settings, pair["a"])])
    if "paper" not in pair:
        return _paired(ours, _complete(settings[_find(settings, pair["b"])]), value)
    published = paper.value(pair["paper"]["table"], **{k: str(v) for k, v in pair["paper"].items() if k != "table"})
    assert published is not None, f"the paper has no cell {pair['paper']}"
    return _unit(value) * ours[value].dropna() - published[0] if value in ours else pd.Series(dtype=float)


def _in_a_sentence(words: str) -> str:
    """As they stand within a sentence: an abbreviation keeps its letters."""
    return words if words[:2].isupper() else words[0].lower() + words[1:]


def _settings(runs: pd.DataFrame, factors: list[str]) -> dict[Setting, pd.DataFrame]:
    found: dict[Setting, list[int]] = {}
    for place, row in runs.iterrows():
        key = tuple((f, str(row[f])) for f in factors if f != "seed" and pd.notna(row[f]))
        found.setdefault(key, []).append(place)
    return {key: runs.loc[places] for key, places in found.items()}


def _find(settings: dict[Setting, pd.DataFrame], factors: dict[str, object]) -> Setting:
    """The setting that has these factors, and no more keys than it must."""
    asked = {key: str(value) for key, value in factors.items()}
    having = [setting for setting in settings if asked.items() <= dict(setting).items()]
    return min(having, key=len)


def _twin(setting: Setting, baseline: str) -> Setting:
    """The same setting with the baseline's optimizer; options of the correction have no meaning there."""
    kept = ((f, v) for f, v in setting if not f.startswith("optimizer.precondition"))
    return tuple((f, baseline if f == "optimizer" else v) for f, v in kept)


def _complete(group: pd.DataFrame) -> pd.DataFrame:
    return group[group["status"] == "complete"]


def _unit(value: str) -> float:
    return 100.0 if value == "itop_rate" else 1.0


def _mean(values: pd.Series, value: str) -> str:
    values = _unit(value) * values
    return mean_std(values.mean(), values.std())


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame, value: str) -> pd.Series:
    """The differences over the seeds that both have, in the unit that is shown."""
    if value not in ours or value not in theirs:
        return pd.Series(dtype=float)
    return _unit(value) * (ours.set_index("seed")[value] - theirs.set_index("seed")[value]).dropna()


def _difference(ours: pd.DataFrame, theirs: pd.DataFrame, value: str) -> str:
    return _shown(_paired(ours, theirs, value))


def _shown(difference: pd.Series) -> str:
    return written(statistics.mean(difference))


def written(effect: statistics.Estimate) -> str:
    """`+1.24 [+0.62, +1.87]`; the difference alone where one seed has no interval, nothing where there is none."""
    if not effect.n:
        return ""
    return f"{effect.mean:+.2f}" + ("" if effect.n < 2 else f" [{effect.low:+.2f}, {effect.high:+.2f}]")


def _verdict(difference: pd.Series, within: float) -> str:
    found = statistics.mean(difference)
    if found.n < 2:
        return MISSED if 0 < within < abs(found.mean) else OPEN
    within_margin = -within <= found.low and found.high <= within
    return CONFIRMED if within_margin else REFUTED if found.low > 0 or found.high < 0 else OPEN
