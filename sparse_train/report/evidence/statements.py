"""What we found: the verdict (`results/verdict.yaml`), and one claim a row (`results/statements.yaml`).

They are the head of README, findings and report page. A number of ours or of the paper's tables is computed: the files
name the settings that are compared, and this module asks the store.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from sparse_train.errors import ConfigError, closest, require, require_one_of
from sparse_train.report import paper, sweeps
from sparse_train.report.evidence.comparisons import difference, settings_of
from sparse_train.report.evidence.verdicts import NOT_RUN
from sparse_train.report.results import Results
from sparse_train.report.settings import Setting, find
from sparse_train.report.views import statistics
from sparse_train.report.views.statistics import Estimate
from sparse_train.report.views.tables import aligned

FILE = "statements.yaml"
VERDICT = "verdict.yaml"
VERDICTS = {  # key -> how it reads, and what it means
    "agrees": ("agrees", "at least in sign"),
    "disagrees": ("disagrees", "at the scale of the row"),
    "open": ("not known yet", "our runs cannot decide"),
    "new": ("not in the paper", ""),
}
HEAD = ["statement", "verdict", "paper", "ours", "how sure"]
KEYS = ("says", "verdict", "paper", "ours", "sure", "headline", "claim", "n", "measured", "at")
SEEDS = 3  # behind the paper's means: our reading, it names no number
Study = tuple[dict[Setting, pd.DataFrame], str, str]  # runs by setting, the first metric, the data set
Studies = Callable[[str, str], Study]  # of an artifact's name and a scale


@dataclass(frozen=True)
class Statement:
    """One claim with one measurement of ours; a claim with several has one of these each, one after another.

    Attributes:
        says: the claim, in words of the paper.
        verdict: a key of `VERDICTS`, over all its measurements.
        paper: the paper's effect in points, or its words.
        n: the seeds behind our side.
        scale: at which it was measured.
        sure: how far the verdict can be trusted.
        at: the artifact that has the numbers.
        ours: our words, where there is no effect.
        effect: our mean in points; with several seeds also the ends of its 95% interval. Empty where `ours` has words.
        measured: on what, where no scale names it: an experiment of another kind than the paper's accuracies.
        under: what tells this measurement from others of the claim.
        published: the paper's effect in points: one number, the two ends of `+0.9 to +2.9`, or none.
        spread: the ends of its 95% interval, where its tables give one.
        headline: whether the README shows it.
        claim: that of `results/claims.yaml` which it measures, if any.
        facets: the factors of the settings that are compared.
    """

    says: str
    verdict: str
    paper: str
    n: int
    scale: str
    sure: str
    at: str
    ours: str = ""
    effect: tuple[float, ...] = ()
    measured: str = ""
    under: str = ""
    published: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    headline: bool = False
    claim: str = ""
    facets: tuple[Mapping[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Reject a verdict that does not exist."""
        require_one_of(f"{FILE}, {self.says!r}: verdict", self.verdict, [*VERDICTS])

    @property
    def words(self) -> str:
        """Our side as text: `+1.24 [+0.62, +1.87]`."""
        return _effect(self.effect) or self.ours

    @property
    def where(self) -> str:
        """What it was measured on, or at which scale."""
        return self.measured or self.scale


def stated(results_dir: Path) -> list[Statement]:
    """Every claim's measurements, in the order of the file; none where the directory has no such file.

    Raises:
        ConfigError: for a file that is not a list of claims, and for settings that no study has.
    """
    claims, studies = _read(results_dir / FILE, "a list of claims"), studies_of(results_dir)
    try:
        return [one for claim in claims for one in _of_claim(claim, studies)]
    except (TypeError, AttributeError, KeyError) as error:
        raise ConfigError(FILE, results_dir / FILE, f"must be a list of claims: {error!r}") from None


def _of_claim(claim: dict, studies: Studies) -> list[Statement]:
    for key in claim:
        require(key in KEYS, FILE, key, f"no such key{closest(key, KEYS)}")
    known = {key: claim[key] for key in ("says", "verdict", "sure", "headline", "claim") if key in claim}
    if isinstance(claim["paper"], Mapping):
        known |= _published(claim["paper"])
    else:
        known |= {"paper": claim["paper"], "published": _numbers(claim["paper"])}
    if isinstance(claim["ours"], str):
        own = {key: claim[key] for key in ("ours", "n", "at", "measured")}
        require_one_of(f"{FILE}, {claim['says']!r}: at", own["at"], sweeps.names())
        return [Statement(**known, **own, scale=sweeps.PAPER)]
    made = []
    for one in claim["ours"]:
        found, facets = measured(one, studies)
        effect = tuple(round(value, 2) + 0.0 for value in found[:3] if not pd.isna(value))
        own = {"n": found.n, "scale": scale_of(one), "at": one["at"], "under": one.get("under", "")}
        made.append(Statement(**known, **own, effect=effect, ours="" if effect else NOT_RUN, facets=facets))
    return made


def studies_of(results_dir: Path) -> Studies:
    """The studies of this directory, each read once."""

    @cache
    def study(name: str, scale: str) -> Study:
        require_one_of(f"{FILE}: scale", scale, sweeps.every_scale())
        sweep = sweeps.load(name, scale)
        runs, values = Results(results_dir, scale).runs(sweep), sweep.artifact.get("values", ["test_acc"])
        return settings_of(runs, sweep.factors), values[0], sweep.cells[0].dataset

    return study


def measured(one: Mapping, studies: Studies) -> tuple[Estimate, tuple[dict[str, str], ...]]:
    """What the store has of a comparison: its mean with interval and seeds, and the factors of its settings.

    Args:
        one: `at`, the study; `a` with `b`, `paper` or `theory`, as a sweep file lists comparisons; perhaps `value`, a
            metric in place of the study's first.
    """
    settings, value, dataset = studies(one["at"], scale_of(one))
    found = statistics.mean(difference(one, settings, one.get("value", value)))
    sides = [dict(find(settings, one[side], f"{FILE}: {one['at']}")) for side in ("a", "b") if side in one]
    return found, tuple({"dataset": dataset} | side for side in sides)


def scale_of(one: Mapping) -> str:
    """The scale that it names, or the one that its study is made for."""
    require_one_of(f"{FILE}: at", one["at"], sweeps.names())
    return one.get("scale") or sweeps.artifact(one["at"]).get("at", sweeps.PAPER)


def _published(sides: Mapping[str, Mapping[str, object]]) -> dict:
    """Cell `a` of the paper's tables minus cell `b`: its number and Welch's 95% interval."""
    cells = []
    for side in ("a", "b"):
        cell = {key: str(asked) for key, asked in sides[side].items()}
        found = paper.value(cell.pop("table"), **cell)
        require(found is not None, f"{FILE}: paper", sides[side], "must be a cell of the paper's tables")
        cells.append(found)
    (ours, ours_std), (theirs, theirs_std) = cells
    samples = [
        (1, statistics.sample_with(ours, ours_std, SEEDS)),
        (-1, statistics.sample_with(theirs, theirs_std, SEEDS)),
    ]
    found, mean = statistics.welch(samples), round(ours - theirs, 2)
    ends = () if pd.isna(found.low) else (round(found.low, 2), round(found.high, 2))
    return {"paper": f"{mean:+.2f}", "published": (mean,), "spread": ends}


def _numbers(words: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, words.split(" to ")))
    except ValueError:
        return ()


def _effect(effect: tuple[float, ...]) -> str:
    mean, *ends = (f"{value:+.2f}" for value in effect) if effect else [""]
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def grouped(every: list[Statement]) -> list[list[Statement]]:
    """The measurements of each claim, in one list."""
    return [[one for one in every if one.says == says] for says in dict.fromkeys(one.says for one in every)]


# --- the verdict ---


@dataclass(frozen=True)
class Answer:
    """One question of the verdict.

    Attributes:
        question: asked by a reader.
        answer: in two sentences.
        number: the difference behind it: `-1.96`; empty where the file names none.
        interval: of the number: `[-3.24, -0.69]`, where there are several seeds.
        under: what the number is, its n and its scale.
    """

    question: str
    answer: str
    number: str = ""
    interval: str = ""
    under: str = ""


def verdict(results_dir: Path) -> list[Answer]:
    """The verdict; empty where the directory has no such file.

    Raises:
        ConfigError: for a file that is not a list of questions with answers.
    """
    path = results_dir / VERDICT
    answers, studies = _read(path, right := "a list of questions with answers"), studies_of(results_dir)
    try:
        behind = [_behind(one["number"], studies) if "number" in one else {} for one in answers]
        return [Answer(one["question"], one["answer"], **more) for one, more in zip(answers, behind, strict=True)]
    except (TypeError, KeyError) as error:
        raise ConfigError(VERDICT, path, f"must be {right}: {error!r}") from None


def _behind(one: Mapping, studies: Studies) -> dict[str, str]:
    found, _ = measured(one, studies)
    number, _, interval = _effect(tuple(value for value in found[:3] if not pd.isna(value))).partition(" ")
    seeds = f"n = {found.n}"
    return {"number": number or NOT_RUN, "interval": interval, "under": f"{one['says']}; {seeds}, {one['where']}"}


def _read(path: Path, right: str) -> list[dict]:
    if not path.exists():
        return []
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(path.name, path, f"must be {right}: {error}") from None
    require(isinstance(content, list), path.name, path, f"must be {right}")
    return content


def markdown(results_dir: Path, headline: bool = False) -> str:
    """The table at the head of the findings; of the README, with the headline claims alone."""
    lines = []
    for members in grouped(stated(results_dir)):
        first = members[0]
        if first.headline or not headline:
            ours = "<br>".join(map(brief, members))
            lines.append([first.says, VERDICTS[first.verdict][0], first.paper, ours, first.sure])
    return aligned([HEAD, *lines])


def brief(one: Statement) -> str:
    """A measurement in one line: `-1.74 [-2.32, -1.17] (every layer sparse, cpu, n=5)`."""
    about = ", ".join(filter(None, [one.under, one.where, f"n={one.n}"]))
    return f"{one.words} ({about})"
