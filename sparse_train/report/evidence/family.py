"""All effects that our studies measure, as one family of tests: `effects.md` of a scale."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sparse_train.report import sweeps
from sparse_train.report.evidence import effects
from sparse_train.report.files import held, write_text
from sparse_train.report.results import Results
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import titled
from sparse_train.report.views.tables import aligned

HEAD = ["Study", "Effect", "Points", "n", "p", "p, Holm", "smallest visible effect"]
ABOUT = """\
An effect is a difference in test accuracy over paired seeds, with its 95% interval (Student's t): of a setting
from its own baseline, or a contrast that the study names. Holm's procedure adjusts p for all lines of this table: where
nothing has an effect, one such table in twenty has a line below 0.05. The last column is the effect that as many seeds
would show in four of five repetitions; a smaller one is more likely to be missed. A difference of exactly 0 in all
seeds, such as SRigL's, is no test and is left out.
"""


def markdown(results_dir: Path, scale: str) -> str:
    """One line per effect with two seeds or more, the most certain first; equal ones in one line, in the first's words.

    A sweep that has `effects` is a study.

    Empty where no study of that scale has an effect, and for a rehearsal, which is evidence of nothing.
    """
    if sweeps.is_rehearsal(scale):
        return ""
    found: dict[tuple[float, ...], tuple[list[str], str, pd.Series]] = {}
    for study, says, difference in _differences(results_dir, scale):
        if len(difference) > 1 and difference.any():
            found.setdefault(tuple(difference.sort_index()), ([], says, difference))[0].append(study)
    known = sorted(((*one, statistics.mean(one[2])) for one in found.values()), key=lambda one: one[3].p)
    adjusted = statistics.holm([estimate.p for *_, estimate in known])
    lines = [
        [
            ", ".join(dict.fromkeys(studies)),
            says,
            effects.with_interval(e),
            str(e.n),
            f"{e.p:.4f}",
            f"{p:.4f}",
            f"{effects.visible(difference):.2f}",
        ]
        for (studies, says, difference, e), p in zip(known, adjusted, strict=True)
    ]
    if not lines:
        return ""
    title = f"# {titled('Every effect in our studies, as one family', scale)}"
    return f"{title}\n\n{ABOUT}\n{aligned([HEAD, *lines])}\n"


def _differences(results_dir: Path, scale: str) -> Iterator[tuple[str, str, pd.Series]]:
    results = Results(results_dir, scale)
    for study in sweeps.names() if results.committed else ():
        if results.drawn(study) and (spec := sweeps.artifact(study).get("effects")):
            sweep = sweeps.load(study, scale)
            runs = results.runs(sweep)
            named = effects.of_the_correction(runs, sweep.factors, **spec)
            if "contrasts" in sweep.artifact:
                named |= effects.contrasts(runs, sweep.factors, **sweep.artifact["contrasts"])
            yield from ((study, says, difference) for says, difference in named.items())


def write(results_dir: Path, scale: str) -> str:
    """Leave the page beside the tables of its scale; returns it."""
    with held(results_dir):
        page = markdown(results_dir, scale)
        if page:
            write_text(sweeps.scale_dir(results_dir, scale) / "effects.md", page)
    return page
