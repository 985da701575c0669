"""What a study compares, paired over seeds: its settings with a reference, and the comparisons that its file lists."""

from collections.abc import Iterator, Mapping
from functools import cached_property

import pandas as pd

from sparse_train.report import paper
from sparse_train.report.evidence import registration, verdicts
from sparse_train.report.results import complete
from sparse_train.report.schema import Setting, expected, find, reference_of
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views import columns, lists, statistics
from sparse_train.report.views.columns import HOLE, unit
from sparse_train.report.views.labels import label, name, option
from sparse_train.report.views.statistics import Estimate


class Study:
    """The settings of a sweep, each with its runs, and the differences between them.

    Attributes:
        columns: the sweep file's `values`; the first is the metric of all differences, unless another is named.
        reference: factors of the setting that the others are compared with (`schema.reference_of`), if any.
        listed: the comparisons of the file.
        settings: setting -> its runs, complete or not.
    """

    def __init__(self, sweep: Sweep, runs: pd.DataFrame):
        self.sweep = sweep
        self.columns = sweep.artifact.get("values") or ["test_acc"]
        self.metric = self.columns[0]
        self.reference = sweep.artifact.get("reference")
        self.listed = sweep.artifact.get("comparisons") or []
        places: dict[Setting, list[int]] = {}
        for place, row in runs.iterrows():
            key = tuple((f, str(row[f])) for f in sweep.factors if f != "seed" and pd.notna(row.get(f)))
            places.setdefault(key, []).append(place)
        self.settings = {setting: runs.loc[found] for setting, found in places.items()}

    @cached_property
    def options(self) -> dict[Setting, str]:
        """The words that tell settings apart besides their optimizers."""
        every = [dict(setting) for setting in self.settings]
        shown = {f for one in every for f in one if f != "optimizer" and len({other.get(f) for other in every}) > 1}
        return {one: ", ".join(option(f, v) for f, v in one if f in shown) for one in self.settings}

    def words(self, setting: Setting) -> str:
        """`SparseOpt, weight decay 0`: the optimizer, and what tells the setting from others."""
        return ", ".join(filter(None, [label("optimizer", dict(setting)["optimizer"]), self.options[setting]]))

    def find(self, factors: Mapping[str, object], where: str = "setting") -> Setting:
        """The setting that has these factors (`schema.find`)."""
        return find(self.settings, factors, where)

    def base(self, setting: Setting) -> Setting:
        """The reference of a setting."""
        return reference_of(setting, self.settings, self.reference)

    def twin(self, setting: Setting) -> Setting:
        """The same setting with the reference's optimizer; options of the correction have no meaning there."""
        kept = ((f, v) for f, v in setting if not f.startswith("optimizer.precondition"))
        return tuple((f, str(self.reference["optimizer"]) if f == "optimizer" else v) for f, v in kept)

    def own(self, setting: Setting) -> Setting | None:
        """Its own baseline: the twin, if the study has it and it is another setting."""
        twin = self.twin(setting)
        return twin if twin in self.settings and twin != setting else None

    def paired(self, ours: Setting, theirs: Setting) -> pd.Series:
        """The differences of two settings over the seeds that both have, in the unit that is shown."""
        return _paired(*(complete(self.settings[one]) for one in (ours, theirs)), self.metric)

    def difference(self, comparison: Mapping, metric: str | None = None) -> pd.Series:
        """Setting `a` minus setting `b`, the paper's cell or the theory's value, in the unit that is shown.

        Args:
            comparison: the factors of setting `a`, and those of `b`; or, as `paper`, a `table` of the paper and the
                factors of its cell, whose mean counts as exact; or, as `theory`, the value of every metric. Perhaps
                `without_seed`, one to leave out.
        """
        metric, ours = metric or self.metric, self.runs(comparison, "a")
        if "b" in comparison:
            return _paired(ours, self.runs(comparison, "b"), metric)
        if metric not in ours:
            return pd.Series(dtype=float)
        measured = unit(metric) * ours[metric].dropna()
        if "theory" in comparison:
            return measured - unit(metric) * comparison["theory"][metric]
        return measured - paper.cell(comparison["paper"], "comparisons.paper")[0]

    def estimate(self, comparison: Mapping, metric: str | None = None) -> Estimate:
        """The mean difference; in the study's own metric one seed takes its interval from the comparison's `spread`."""
        spread = comparison.get("spread") if metric in (None, self.metric) else None
        return statistics.mean(self.difference(comparison, metric), spread and (spread["std"], spread["n"]))

    def runs(self, comparison: Mapping, side: str) -> pd.DataFrame:
        """The complete runs of one of its settings."""
        done = complete(self.settings[self.find(comparison[side])])
        return done[done["seed"].astype(str) != str(comparison.get("without_seed"))]

    def planned(self, comparison: Mapping) -> int:
        """How many seeds the study has for all of a comparison's settings."""
        sides = (self.settings[self.find(comparison[side])] for side in ("a", "b") if side in comparison)
        return len(set.intersection(*(set(group["seed"].astype(str)) for group in sides)))

    def made(self, comparison: Mapping) -> str:
        """When a prediction was made (`registration.when`), by the revisions of the runs of its settings."""
        sides = [self.runs(comparison, side) for side in ("a", "b") if side in comparison]
        revisions = [[str(run.get("git")) for run in done.to_dict("records")] for done in sides]
        return registration.when(self.sweep.name, comparison, self.metric, revisions)


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame, metric: str) -> pd.Series:
    if metric not in ours or metric not in theirs:
        return pd.Series(dtype=float)
    return unit(metric) * (ours.set_index("seed")[metric] - theirs.set_index("seed")[metric]).dropna()


# --- as rows of words ---


def listings(sweep: Sweep, runs: pd.DataFrame) -> Iterator[list[list[str]]]:
    """What an artifact lists besides its table of the paper: a head and its rows, for each section of the file."""
    artifact = sweep.artifact
    if artifact.get("summary"):
        yield lists.summary(runs, **artifact["summary"])
    if artifact.get("reference"):
        yield effects(Study(sweep, runs))
    if artifact.get("comparisons"):
        yield from compared(Study(sweep, runs))
    if artifact.get("best"):
        yield lists.best(runs, **artifact["best"])


def effects(study: Study) -> list[list[str]]:
    """One row per setting: its effects on the study's metric, paired over seeds, and its columns."""
    effect = f"effect on {in_a_sentence(study.metric)}"
    heads = ["Method", "Setting", f"{effect}, from the reference", "from its own baseline", "n"]
    made = [[*heads, *map(name, study.columns)]]
    for setting, group in study.settings.items():
        done, own, base = complete(group), study.own(setting), study.base(setting)
        made.append(
            [
                label("optimizer", dict(setting)["optimizer"]),
                study.options[setting],
                "reference" if setting == base else _effect(study.paired(setting, base), done),
                _effect(study.paired(setting, own), done) if own else "",
                f"{len(done)} of {len(group)}",
                *(columns.text(column, done) or HOLE for column in study.columns),
            ]
        )
    return made


def _effect(found: pd.Series, done: pd.DataFrame) -> str:
    """With the number of pairs, where some of our runs have none."""
    words = "" if len(found) in (0, len(done)) else f" ({len(found)} {'pair' if len(found) == 1 else 'pairs'})"
    return f"{statistics.mean(found)}{words}" or HOLE


def compared(study: Study) -> Iterator[list[list[str]]]:
    """A row per comparison: those that expect nothing, with p; then predictions with their verdicts."""
    wanted = [(one, expected(one, study.metric)) for one in study.listed]
    if listed := [one for one, bounds in wanted if not bounds]:
        made = [["Comparison", f"difference in {in_a_sentence(study.metric)}", "p", "minimum detectable effect", "n"]]
        for one in listed:
            found, difference = study.estimate(one), study.difference(one)
            _, *certain = certainty(difference, found)
            made.append([one["says"], written(found, one) or HOLE, *certain, str(found.n)])
        yield made
    if predictions := [(one, bounds) for one, bounds in wanted if bounds]:
        metrics = list(dict.fromkeys(metric for _, bounds in predictions for metric in bounds))
        made = [["Prediction", *(f"difference in {in_a_sentence(v)}" for v in metrics), "n", "made"]]
        for one, bounds in predictions:
            found = {v: study.estimate(one, v) for v in bounds}
            said = {v: verdicts.of_prediction(effect, **bounds[v]) for v, effect in found.items()}
            cells = [": ".join(filter(None, [written(found[v], one), said[v]])) if v in found else "" for v in metrics]
            count = f"{next(iter(found.values())).n} of {study.planned(one)}"
            made.append([one["says"], *cells, count, study.made(one)])
        yield made


def written(found: Estimate, comparison: Mapping) -> str:
    """`+1.24 [-0.88, +3.36] (SD 0.77 of 5 pairs at 16x16)`: an interval that one seed has borrowed says from where."""
    borrowed = found.n == 1 and not pd.isna(found.low)
    return f"{found} (SD {comparison['spread']['std']:.2f} of {comparison['spread']['of']})" if borrowed else str(found)


def certainty(difference: pd.Series, found: Estimate | None = None) -> list[str]:
    """The mean with its interval, p, and the minimum detectable effect of as many pairs with this spread."""
    found = found or statistics.mean(difference)
    smallest = statistics.smallest_effect(difference.std(), len(difference))
    return [str(found) or HOLE, p_value(found.p), "" if pd.isna(smallest) else f"{smallest:.2f}"]


def p_value(p: float) -> str:
    return "" if pd.isna(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def in_a_sentence(metric: str) -> str:
    """The word for a metric within a sentence: an abbreviation keeps its letters."""
    words = name(metric)
    return words if words[:2].isupper() else words[0].lower() + words[1:]
