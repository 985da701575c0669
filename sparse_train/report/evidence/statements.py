"""What we found: the verdict (`results/verdict.yaml`), and one claim a row (`results/statements.yaml`).

They are the head of README, findings and report page. A number of ours or of the paper's tables is computed: the files
name the settings that are compared, and this module asks the store.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from sparse_train.errors import ConfigError, closest, require, require_one_of
from sparse_train.report import paper, sweeps
from sparse_train.report.evidence.comparisons import Study, written
from sparse_train.report.evidence.verdicts import NOT_RUN
from sparse_train.report.results import Results
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
Studies = Callable[[str, str], Study]  # of an artifact's name and a scale


def scoreboard(results_dir: Path) -> list[dict]:
    """The claims, in the order of the file, with their numbers; none where the directory has no such file.

    Returns:
        `says`, `verdict`, `sure`, `headline` and `claim` as the file has them; `paper`, its words; `published`, its
        effect in points: one number, the two ends of `+0.9 to +2.9`, or none; `spread`, the ends of its 95% interval,
        where its tables give one; `ours`, a dictionary for each measurement: its `words`; the `effect`, our mean in
        points, with several seeds also the ends of its 95% interval (none where the file has words); seeds `n`, the
        `scale`, the artifact `at` that has the numbers; `under`, what tells it from others of the claim; `measured`,
        on what, where no scale names it; `facets`, the factors of the settings that are compared.

    Raises:
        ConfigError: for a file that is not a list of claims, and for settings that no study has.
    """
    claims, studies = _read(results_dir / FILE, "a list of claims"), _studies(results_dir)
    try:
        return [_claim(one, studies) for one in claims]
    except (TypeError, AttributeError, KeyError) as error:
        raise ConfigError(FILE, results_dir / FILE, f"must be a list of claims: {error!r}") from None


def _claim(claim: dict, studies: Studies) -> dict:
    for key in claim:
        require(key in KEYS, FILE, key, f"no such key{closest(key, KEYS)}")
    require_one_of(f"{FILE}, {claim['says']!r}: verdict", claim["verdict"], [*VERDICTS])
    known = {key: claim[key] for key in ("says", "verdict", "sure")} | {"spread": ()}
    known |= {"headline": claim.get("headline", False), "claim": claim.get("claim", "")}
    if isinstance(claim["paper"], Mapping):
        known |= _published(claim["paper"])
    else:
        known |= {"paper": claim["paper"], "published": _numbers(claim["paper"])}
    if isinstance(claim["ours"], str):
        require_one_of(f"{FILE}, {claim['says']!r}: at", claim["at"], sweeps.names())
        own = {"words": claim["ours"], "effect": (), "scale": sweeps.PAPER, "under": "", "facets": ()}
        return known | {"ours": [own | {key: claim[key] for key in ("n", "measured", "at")}]}
    return known | {"ours": [_measured(one, studies) for one in claim["ours"]]}


def _measured(one: Mapping, studies: Studies) -> dict:
    """A comparison of the study `at`: `a` with `b`, `paper` or `theory`, as a sweep file lists it; perhaps a `value`, a
    metric in place of the study's first."""
    require_one_of(f"{FILE}: at", one["at"], sweeps.names())
    scale = one.get("scale") or sweeps.artifact(one["at"]).get("at", sweeps.PAPER)
    study = studies(one["at"], scale)
    exact = study.estimate(one, one.get("value"))
    found = Estimate(*(round(value, 2) + 0.0 for value in exact[:3]), exact.p, exact.n)
    sides = [dict(study.find(one[side], f"{FILE}: {one['at']}")) for side in ("a", "b") if side in one]
    return {
        "words": written(found, one) or NOT_RUN,
        "effect": tuple(value for value in found[:3] if not pd.isna(value)),
        "n": found.n,
        "scale": scale,
        "at": one["at"],
        "under": one.get("under", ""),
        "measured": "",
        "facets": [{"dataset": study.sweep.cells[0].dataset} | side for side in sides],
    }


def _studies(results_dir: Path) -> Studies:
    """The studies of this directory, each read once."""

    @cache
    def study(name: str, scale: str) -> Study:
        sweep = sweeps.load(name, scale)
        return Study(sweep, Results(results_dir, scale).runs(sweep))

    return study


def _published(sides: Mapping[str, Mapping[str, object]]) -> dict:
    """Cell `a` of the paper's tables minus cell `b`: its number and Welch's 95% interval."""
    ours, theirs = (paper.cell(sides[side], f"{FILE}: paper") for side in ("a", "b"))
    found = statistics.welch([(1, *ours, paper.SEEDS), (-1, *theirs, paper.SEEDS)])
    mean, ends = round(ours[0] - theirs[0], 2), tuple(round(end, 2) for end in found[1:3] if not pd.isna(end))
    return {"paper": f"{mean:+.2f}", "published": (mean,), "spread": ends}


def _numbers(words: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, words.split(" to ")))
    except ValueError:
        return ()


def verdict(results_dir: Path) -> list[dict]:
    """The verdict; empty where the directory has no such file.

    Returns:
        `question` and `answer`, and where the file names the difference behind it, `number`: `-1.96`; `interval`:
        `[-3.24, -0.69]`, where there are several seeds; `under`, what the number is, its n and its scale.

    Raises:
        ConfigError: for a file that is not a list of questions with answers.
    """
    path = results_dir / VERDICT
    answers, studies = _read(path, right := "a list of questions with answers"), _studies(results_dir)
    try:
        return [
            {"question": one["question"], "answer": one["answer"]} | _behind(one.get("number"), studies)
            for one in answers
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(VERDICT, path, f"must be {right}: {error!r}") from None


def _behind(one: Mapping | None, studies: Studies) -> dict[str, str]:
    if one is None:
        return {"number": "", "interval": "", "under": ""}
    found = _measured(one, studies)
    number, _, interval = found["words"].partition(" ") if found["effect"] else (found["words"], "", "")
    return {"number": number, "interval": interval, "under": f"{one['says']}; n = {found['n']}, {one['where']}"}


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
    for claim in scoreboard(results_dir):
        if claim["headline"] or not headline:
            ours = "<br>".join(map(brief, claim["ours"]))
            lines.append([claim["says"], VERDICTS[claim["verdict"]][0], claim["paper"], ours, claim["sure"]])
    return aligned([HEAD, *lines])


def brief(one: dict) -> str:
    """A measurement in one line: `-1.74 [-2.32, -1.17] (every layer sparse, cpu, n=5)`."""
    about = ", ".join(filter(None, [one["under"], one["measured"] or one["scale"], f"n={one['n']}"]))
    return f"{one['words']} ({about})"
