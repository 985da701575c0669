"""Settings of a study against a reference and against their own baseline, paired over seeds."""

import pandas as pd

from sparse_train.report.labels import label, name
from sparse_train.report.spread import interval, mean_std
from sparse_train.report.tables import HOLE

Setting = tuple[tuple[str, str], ...]  # (factor, value) of every factor that a setting has, seed aside


def lines(runs: pd.DataFrame, factors: list[str], reference: dict[str, object], values: list[str]) -> list[list[str]]:
    """A head; one row per setting: the mean of each of `values`, and the paired effects on the first of them.

    Args:
        factors: of the sweep.
        reference: factors of the setting that the others are compared with; its remaining factors are the commonest.
        values: metrics; the effect is that on the first, with its 95% interval over paired seeds (Student's t).
    """
    reference = {key: str(value) for key, value in reference.items()}
    settings = _settings(runs, factors)
    shown = [f for f in factors if f != "seed" and len({dict(s).get(f) for s in settings}) > 1]
    base = next(s for s in settings if reference.items() <= dict(s).items() and len(s) == min(map(len, settings)))
    effect = f"effect on {name(values[0]).lower()}"
    made = [[*map(name, shown), *map(name, values), f"{effect}, from the reference", "from its own baseline", "n"]]
    for setting, group in settings.items():
        done = group[group["status"] == "complete"]
        texts = [HOLE if v not in done or done.empty else _mean(done[v], percent=v == "itop_rate") for v in values]
        own = _twin(setting, reference["optimizer"])
        made.append(
            [
                *(label(f, dict(setting).get(f, "")) for f in shown),
                *texts,
                "reference" if setting == base else _effect(done, settings[base], values[0]),
                _effect(done, settings[own], values[0]) if own in settings and own != setting else "",
                f"{len(done)} of {len(group)}",
            ]
        )
    return made


def _settings(runs: pd.DataFrame, factors: list[str]) -> dict[Setting, pd.DataFrame]:
    found: dict[Setting, list[int]] = {}
    for place, row in runs.iterrows():
        key = tuple((f, str(row[f])) for f in factors if f != "seed" and pd.notna(row[f]))
        found.setdefault(key, []).append(place)
    return {key: runs.loc[places] for key, places in found.items()}


def _twin(setting: Setting, baseline: str) -> Setting:
    """The same setting with the baseline's optimizer; options of the correction have no meaning there."""
    kept = ((f, v) for f, v in setting if not f.startswith("optimizer.precondition"))
    return tuple((f, baseline if f == "optimizer" else v) for f, v in kept)


def _mean(values: pd.Series, percent: bool) -> str:
    values = 100 * values if percent else values
    return mean_std(values.mean(), values.std())


def _effect(ours: pd.DataFrame, theirs: pd.DataFrame, value: str) -> str:
    theirs = theirs[theirs["status"] == "complete"]
    if value not in ours or value not in theirs:
        return ""
    difference = (ours.set_index("seed")[value] - theirs.set_index("seed")[value]).dropna()
    if difference.empty:
        return ""
    mean, half = interval(difference)
    return f"{mean:+.2f}" if len(difference) < 2 else f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
