"""Settings of a study against a reference, against their own baseline and against each other, paired over seeds."""

from collections.abc import Iterable

import pandas as pd

from sparse_train.report.settings import Setting, find
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import label, name, option
from sparse_train.report.views.spread import mean_std
from sparse_train.report.views.tables import HOLE


def lines(runs: pd.DataFrame, factors: list[str], reference: dict[str, object], values: list[str]) -> list[list[str]]:
    """A head; one row per setting: the mean of each of `values`, and the paired effects on the first of them.

    Args:
        factors: of the sweep.
        reference: factors of the setting that the others are compared with (`settings.find`).
        values: metrics; the effect is that on the first, with its 95% interval over paired seeds (Student's t).
    """
    settings = settings_of(runs, factors)
    options = _options(settings)
    base = find(settings, reference)
    effect = f"effect on {in_a_sentence(name(values[0]))}"
    made = [["Method", "Setting", f"{effect}, from the reference", "from its own baseline", "n", *map(name, values)]]
    for setting, group in settings.items():
        done, asked = complete(group), dict(setting)
        own = _twin(setting, str(reference["optimizer"]))
        made.append(
            [
                label("optimizer", asked["optimizer"]),
                options[setting],
                "reference" if setting == base else _difference(done, complete(settings[base]), values[0]),
                _difference(done, complete(settings[own]), values[0]) if own in settings and own != setting else "",
                f"{len(done)} of {len(group)}",
                *(HOLE if v not in done else _mean(done[v], v) for v in values),
            ]
        )
    return made


def every(
    runs: pd.DataFrame, factors: list[str], reference: dict[str, object], values: list[str]
) -> dict[str, pd.Series]:
    """What it is called -> paired differences of the first of `values`: of every setting from its own baseline, and
    from the reference of the study."""
    settings = settings_of(runs, factors)
    options, found = _options(settings), {}
    base = find(settings, reference)

    def words(setting: Setting) -> str:
        return ", ".join(filter(None, [label("optimizer", dict(setting)["optimizer"]), options[setting]]))

    for setting, group in settings.items():
        own = _twin(setting, str(reference["optimizer"]))
        if own in settings and own != setting:
            found[words(setting)] = paired(complete(group), complete(settings[own]), values[0])
        if setting not in (base, own) or own not in settings:
            others = paired(complete(group), complete(settings[base]), values[0])
            found[f"{words(setting)}, from the reference: {words(base)}"] = others
    return found


def visible(difference: pd.Series) -> float:
    """The smallest effect that as many pairs with this spread would show."""
    return statistics.smallest_effect(float(difference.std()), len(difference))


def in_a_sentence(words: str) -> str:
    """As they stand within a sentence: an abbreviation keeps its letters."""
    return words if words[:2].isupper() else words[0].lower() + words[1:]


def settings_of(runs: pd.DataFrame, factors: list[str]) -> dict[Setting, pd.DataFrame]:
    found: dict[Setting, list[int]] = {}
    for place, row in runs.iterrows():
        key = tuple((f, str(row[f])) for f in factors if f != "seed" and pd.notna(row.get(f)))
        found.setdefault(key, []).append(place)
    return {key: runs.loc[places] for key, places in found.items()}


def _options(settings: Iterable[Setting]) -> dict[Setting, str]:
    """What tells settings apart besides their optimizers."""
    every = [dict(setting) for setting in settings]
    shown = {f for one in every for f in one if f != "optimizer" and len({other.get(f) for other in every}) > 1}
    return {one: ", ".join(option(f, v) for f, v in one if f in shown) for one in settings}


def _twin(setting: Setting, baseline: str) -> Setting:
    """The same setting with the baseline's optimizer; options of the correction have no meaning there."""
    kept = ((f, v) for f, v in setting if not f.startswith("optimizer.precondition"))
    return tuple((f, baseline if f == "optimizer" else v) for f, v in kept)


def complete(group: pd.DataFrame) -> pd.DataFrame:
    return group[group["status"] == "complete"]


def unit(value: str) -> float:
    return 100.0 if value == "itop_rate" or value.startswith("flops/") else 1.0


def _mean(values: pd.Series, value: str) -> str:
    values = unit(value) * values.dropna()  # a record may be older than a metric
    return HOLE if values.empty else mean_std(values.mean(), values.std())


def paired(ours: pd.DataFrame, theirs: pd.DataFrame, value: str) -> pd.Series:
    """The differences over the seeds that both have, in the unit that is shown."""
    if value not in ours or value not in theirs:
        return pd.Series(dtype=float)
    return unit(value) * (ours.set_index("seed")[value] - theirs.set_index("seed")[value]).dropna()


def _difference(ours: pd.DataFrame, theirs: pd.DataFrame, value: str) -> str:
    """With the number of pairs, where some of our runs have none."""
    found = paired(ours, theirs, value)
    words = "" if len(found) in (0, len(ours)) else f" ({len(found)} {'pair' if len(found) == 1 else 'pairs'})"
    return shown(found) + words or HOLE


def shown(difference: pd.Series) -> str:
    return with_interval(statistics.mean(difference))


def with_interval(effect: statistics.Estimate) -> str:
    """`+1.24 [+0.62, +1.87]`; the difference alone where one seed has no interval, nothing where there is none."""
    if not effect.n:
        return ""
    return f"{effect.mean:+.2f}" + ("" if effect.n < 2 else f" [{effect.low:+.2f}, {effect.high:+.2f}]")
