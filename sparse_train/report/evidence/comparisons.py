"""What a study compares, paired over seeds: its settings with a reference, and the comparisons that its file lists."""

from collections.abc import Iterable, Iterator

import pandas as pd

from sparse_train.errors import require
from sparse_train.report import paper
from sparse_train.report.evidence import registration, verdicts
from sparse_train.report.results import complete
from sparse_train.report.settings import Setting, expected, find, reference_of
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views import lists, statistics
from sparse_train.report.views.labels import label, name, option
from sparse_train.report.views.tables import HOLE, mean_std


def listings(sweep: Sweep, runs: pd.DataFrame) -> Iterator[list[list[str]]]:
    """What an artifact lists besides its table of the paper: a head and its rows, for each section of the file."""
    artifact = sweep.artifact
    if artifact.get("summary"):
        yield lists.summary(runs, **artifact["summary"])
    if artifact.get("reference"):
        yield effects(runs, sweep.factors, artifact["reference"], artifact["values"])
    if artifact.get("comparisons"):
        yield from compared(sweep, runs)
    if artifact.get("best"):
        yield lists.best(runs, **artifact["best"])


# --- settings against a reference and against their own baselines ---


def effects(runs: pd.DataFrame, factors: list[str], reference: dict[str, object], values: list[str]) -> list[list[str]]:
    """A head; one row per setting: the mean of each of `values`, and the paired effects on the first of them.

    Args:
        factors: of the sweep.
        reference: factors of the setting that the others are compared with (`settings.reference_of`).
        values: metrics; the effect is that on the first, with its 95% interval over paired seeds (Student's t).
    """
    settings = settings_of(runs, factors)
    options = options_of(settings)
    effect = f"effect on {in_a_sentence(values[0])}"
    made = [["Method", "Setting", f"{effect}, from the reference", "from its own baseline", "n", *map(name, values)]]
    for setting, group in settings.items():
        done, own = complete(group), twin(setting, reference)
        base = reference_of(setting, settings, reference)
        made.append(
            [
                label("optimizer", dict(setting)["optimizer"]),
                options[setting],
                "reference" if setting == base else _difference(done, complete(settings[base]), values[0]),
                _difference(done, complete(settings[own]), values[0]) if own in settings and own != setting else "",
                f"{len(done)} of {len(group)}",
                *(HOLE if v not in done else _mean(done[v], v) for v in values),
            ]
        )
    return made


def every_effect(sweep: Sweep, runs: pd.DataFrame) -> dict[str, pd.Series]:
    """Words -> paired differences of the study's first metric: of every setting from its own baseline and from the
    reference, and of the comparisons that expect nothing."""
    reference, value = sweep.artifact["reference"], sweep.artifact["values"][0]
    settings, found = settings_of(runs, sweep.factors), {}
    options = options_of(settings)
    words = {
        one: ", ".join(filter(None, [label("optimizer", dict(one)["optimizer"]), options[one]])) for one in settings
    }
    for setting, group in settings.items():
        own, base = twin(setting, reference), reference_of(setting, settings, reference)
        if own in settings and own != setting:
            found[words[setting]] = paired(complete(group), complete(settings[own]), value)
        if setting not in (base, own) or own not in settings:
            others = paired(complete(group), complete(settings[base]), value)
            found[f"{words[setting]}, from the reference: {words[base]}"] = others
    listed = [one for one in sweep.artifact.get("comparisons", ()) if not expected(one, value)]
    return found | differences(runs, sweep.factors, listed, value)


def options_of(settings: Iterable[Setting]) -> dict[Setting, str]:
    """The words that tell settings apart besides their optimizers."""
    every = [dict(setting) for setting in settings]
    shown = {f for one in every for f in one if f != "optimizer" and len({other.get(f) for other in every}) > 1}
    return {one: ", ".join(option(f, v) for f, v in one if f in shown) for one in settings}


def twin(setting: Setting, reference: dict[str, object]) -> Setting:
    """The same setting with the reference's optimizer; options of the correction have no meaning there."""
    kept = ((f, v) for f, v in setting if not f.startswith("optimizer.precondition"))
    return tuple((f, str(reference["optimizer"]) if f == "optimizer" else v) for f, v in kept)


def _mean(values: pd.Series, value: str) -> str:
    values = unit(value) * values.dropna()  # a record may be older than a metric
    return HOLE if values.empty else mean_std(values.mean(), values.std())


def _difference(ours: pd.DataFrame, theirs: pd.DataFrame, value: str) -> str:
    """With the number of pairs, where some of our runs have none."""
    found = paired(ours, theirs, value)
    words = "" if len(found) in (0, len(ours)) else f" ({len(found)} {'pair' if len(found) == 1 else 'pairs'})"
    return shown(found) + words or HOLE


# --- listed comparisons, and those of them that are predictions ---


def differences(runs: pd.DataFrame, factors: list[str], listed: Iterable[dict], value: str) -> dict[str, pd.Series]:
    """The words of each comparison -> its differences in `value` over seeds."""
    settings = settings_of(runs, factors)
    return {one["says"]: difference(one, settings, value) for one in listed}


def difference(comparison: dict, settings: dict[Setting, pd.DataFrame], value: str) -> pd.Series:
    """Setting `a` minus setting `b`, the paper's cell or the theory's value, in the unit that is shown.

    Args:
        comparison: the factors of setting `a`, and those of `b`; or, as `paper`, a `table` of the paper and the factors
            of its cell, whose mean counts as exact; or, as `theory`, the value of every metric. Perhaps `without_seed`,
            one to leave out.
    """
    ours = _runs(comparison, "a", settings)
    if "b" in comparison:
        return paired(ours, _runs(comparison, "b", settings), value)
    if value not in ours:
        return pd.Series(dtype=float)
    measured = unit(value) * ours[value].dropna()
    if "theory" in comparison:
        return measured - unit(value) * comparison["theory"][value]
    cell = {key: str(asked) for key, asked in comparison["paper"].items()}
    published = paper.value(cell.pop("table"), **cell)
    require(published is not None, "comparisons.paper", comparison["paper"], "must be a cell of the paper's tables")
    return measured - published[0]


def _runs(comparison: dict, side: str, settings: dict[Setting, pd.DataFrame]) -> pd.DataFrame:
    """The complete runs of one of its settings."""
    done = complete(settings[find(settings, comparison[side])])
    return done[done["seed"].astype(str) != str(comparison.get("without_seed"))]


def compared(sweep: Sweep, runs: pd.DataFrame) -> Iterator[list[list[str]]]:
    """A head and a row per comparison: those that expect nothing, with p; then predictions with their verdicts."""
    settings, value = settings_of(runs, sweep.factors), sweep.artifact["values"][0]
    wanted = [(one, expected(one, value)) for one in sweep.artifact["comparisons"]]
    if listed := [one for one, bounds in wanted if not bounds]:
        found = [(one["says"], difference(one, settings, value)) for one in listed]
        head = ["Comparison", f"difference in {in_a_sentence(value)}", "p", "minimum detectable effect", "n"]
        yield [head, *([says, shown(one) or HOLE, *certainty(one), str(len(one))] for says, one in found)]
    if predictions := [(one, bounds) for one, bounds in wanted if bounds]:
        values = list(dict.fromkeys(metric for _, bounds in predictions for metric in bounds))
        made = [["Prediction", *(f"difference in {in_a_sentence(v)}" for v in values), "n", "made"]]
        for one, bounds in predictions:
            found = {v: difference(one, settings, v) for v in bounds}
            words = {v: [shown(d), verdicts.of_prediction(d, **bounds[v])] for v, d in found.items()}
            cells = [": ".join(filter(None, words.get(v, ()))) for v in values]
            count = f"{len(next(iter(found.values())))} of {runs['seed'].nunique()}"
            made.append([one["says"], *cells, count, when(sweep, one, settings)])
        yield made


def when(sweep: Sweep, comparison: dict, settings: dict[Setting, pd.DataFrame]) -> str:
    """`registration.when`, by the revisions of the complete runs of its settings."""
    sides = [_runs(comparison, side, settings) for side in ("a", "b") if side in comparison]
    revisions = [[str(run.get("git")) for run in done.to_dict("records")] for done in sides]
    return registration.when(sweep.name, comparison, sweep.artifact["values"][0], revisions)


# --- what all of them share ---


def settings_of(runs: pd.DataFrame, factors: list[str]) -> dict[Setting, pd.DataFrame]:
    """Setting -> its runs, complete or not."""
    found: dict[Setting, list[int]] = {}
    for place, row in runs.iterrows():
        key = tuple((f, str(row[f])) for f in factors if f != "seed" and pd.notna(row.get(f)))
        found.setdefault(key, []).append(place)
    return {key: runs.loc[places] for key, places in found.items()}


def unit(value: str) -> float:
    return 100.0 if value == "itop_rate" or value.startswith("flops/") else 1.0


def paired(ours: pd.DataFrame, theirs: pd.DataFrame, value: str) -> pd.Series:
    """The differences over the seeds that both have, in the unit that is shown."""
    if value not in ours or value not in theirs:
        return pd.Series(dtype=float)
    return unit(value) * (ours.set_index("seed")[value] - theirs.set_index("seed")[value]).dropna()


def shown(difference: pd.Series) -> str:
    """`+1.24 [+0.62, +1.87]`; the difference alone where one seed has no interval, nothing where there is none."""
    effect = statistics.mean(difference)
    if not effect.n:
        return ""
    return f"{effect.mean:+.2f}" + ("" if effect.n < 2 else f" [{effect.low:+.2f}, {effect.high:+.2f}]")


def certainty(difference: pd.Series) -> list[str]:
    """p, and the minimum detectable effect of as many pairs with this spread; empty words where there is none."""
    smallest = statistics.smallest_effect(float(difference.std()), len(difference))
    return [p_value(statistics.mean(difference).p), "" if pd.isna(smallest) else f"{smallest:.2f}"]


def p_value(p: float) -> str:
    return "" if pd.isna(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def in_a_sentence(value: str) -> str:
    """The word for a metric within a sentence: an abbreviation keeps its letters."""
    words = name(value)
    return words if words[:2].isupper() else words[0].lower() + words[1:]
