"""The effects that our studies measure: `effects.md` of a scale."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sparse_train.report import sweeps
from sparse_train.report.evidence.comparisons import Study, certainty, p_value
from sparse_train.report.files import held, write_text
from sparse_train.report.results import Results
from sparse_train.report.schema import expected
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import titled
from sparse_train.report.views.tables import aligned

# The confirmatory tests: SparseOpt against SGD under a DST method, each a prediction that git had before its runs. The
# family is fixed, so that no later study moves the p of data that are there. (SRigL's difference is 0 by construction.)
CONFIRMATORY = {
    "methods": [f"{method} at 97%, SparseOpt minus SGD" for method in ("MEST", "SNFS", "DSR", "GraNet", "GMP")],
    "why-updates": [f"{method}, SparseOpt minus SGD" for method in ("RigL", "SET")],
}
ABOUT = """\
An effect is a difference in test accuracy over paired seeds, with its 95% interval (Student's t). The minimum
detectable effect is one that as many seeds show in four of five repetitions; a smaller one is more likely to be missed.

## Confirmatory

SparseOpt against SGD under {} DST methods, as predicted before the runs. The family is fixed by name: later studies do
not change it. Holm's procedure adjusts p for all of it; a test without two pairs of seeds counts as one with p = 1.

{}
## Exploratory

Every other effect of our studies: of a setting from its own baseline, of a setting from the reference of its study, and
between two settings that a study names. Their p is not adjusted: of a hundred such lines five would lie below 0.05 if
nothing had an effect, and the studies were made after one another. Equal ones stand in one line, in the first's words.
One seed has no interval and is left out, as is a difference of exactly 0 in all seeds.

{}"""
HEAD = ["Study", "Effect", "Points", "n", "p", "minimum detectable effect"]


def confirmatory(results: Results) -> dict[tuple[str, str], tuple[pd.Series, float]]:
    """(study, the words of its prediction) -> its paired differences, and p adjusted for the family (Holm)."""
    found = {}
    for study, named in CONFIRMATORY.items():
        asked = _study(study, results)
        found |= {(study, one["says"]): asked.difference(one) for one in asked.listed if one["says"] in named}
    p = [statistics.mean(difference).p for difference in found.values()]
    adjusted = statistics.holm([1.0 if pd.isna(value) else value for value in p])
    return {key: (difference, one) for (key, difference), one in zip(found.items(), adjusted, strict=True)}


def exploratory(results: Results) -> list[tuple[list[str], str, pd.Series]]:
    """(studies, words, paired differences) of all others with two seeds or more, the most certain first."""
    found: dict[tuple[float, ...], tuple[list[str], str, pd.Series]] = {}
    for study in filter(results.drawn, sweeps.names() if results.committed else ()):
        if sweeps.artifact(study).get("reference"):
            for words, difference in _every_effect(_study(study, results)):
                if len(difference) > 1 and difference.any():
                    found.setdefault(tuple(difference.sort_index()), ([], words, difference))[0].append(study)
    for difference, _ in confirmatory(results).values():
        found.pop(tuple(difference.sort_index()), None)
    return sorted(found.values(), key=lambda one: statistics.mean(one[2]).p)


def _study(name: str, results: Results) -> Study:
    sweep = sweeps.load(name, results.scale)
    return Study(sweep, results.runs(sweep))


def _every_effect(study: Study) -> Iterator[tuple[str, pd.Series]]:
    """Every setting minus its own baseline and minus the reference, then the comparisons that expect nothing."""
    for setting in study.settings:
        if own := study.own(setting):
            yield study.words(setting), study.paired(setting, own)
        base = study.base(setting)
        if setting not in (base, study.twin(setting)):
            words = f"{study.words(setting)}, from the reference: {study.words(base)}"
            yield words, study.paired(setting, base)
    for one in study.listed:
        if not expected(one, study.metric):
            yield one["says"], study.difference(one)


def markdown(results_dir: Path, scale: str) -> str:
    """Both kinds of effects; empty where no study of that scale has one, and for a rehearsal, evidence of nothing."""
    results = Results(results_dir, scale)
    explored = [] if sweeps.is_rehearsal(scale) else exploratory(results)
    if not explored:
        return ""
    fixed = [[study, *_line(words, found), p_value(p)] for (study, words), (found, p) in confirmatory(results).items()]
    others = [[", ".join(dict.fromkeys(studies)), *_line(words, found)] for studies, words, found in explored]
    title = f"# {titled('The effects in our studies', scale)}"
    tables = aligned([[*HEAD, "p, Holm"], *fixed]), aligned([HEAD, *others])
    return f"{title}\n\n{ABOUT.format(len(fixed), *tables)}"


def _line(words: str, found: pd.Series) -> list[str]:
    points, *certain = certainty(found)
    return [words, points if len(found) else "not trained yet", str(len(found)), *certain]


def write(results_dir: Path, scale: str) -> str:
    """Leave the page beside the tables of its scale; returns it."""
    with held(results_dir):
        page = markdown(results_dir, scale)
        if page:
            write_text(sweeps.scale_dir(results_dir, scale) / "effects.md", page)
    return page
