"""What we found, one sentence each (`results/statements.yaml`): the head of the findings and of the report page."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from sparse_train.errors import ConfigError, require, require_one_of
from sparse_train.report import sweeps
from sparse_train.report.views.tables import aligned

FILE = "statements.yaml"
VERDICT = "verdict.yaml"
VERDICTS = {  # key -> how it reads, and what it means
    "agrees": ("agrees", "at least in sign"),
    "disagrees": ("disagrees", "at the scale of the row"),
    "open": ("not known yet", "our runs cannot decide"),
    "new": ("not in the paper", ""),
}
HEAD = ["statement", "verdict", "paper", "ours", "n", "scale", "how sure"]


@dataclass(frozen=True)
class Statement:
    """One sentence with its verdict and the numbers behind it.

    Attributes:
        says: the sentence, in words of the paper.
        verdict: a key of `VERDICTS`.
        paper: the paper's effect in points, or its words.
        ours: our effect with its interval, or our words.
        effect: our mean in points; with several seeds also the ends of its 95% interval. Empty where `ours` has words.
        n: the seeds behind it.
        scale: at which it was measured.
        measured: on what, where no scale names it: an experiment of another kind than the paper's accuracies.
        sure: how far it can be trusted.
        at: the artifact that has the numbers.
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

    def __post_init__(self) -> None:
        """Reject a verdict, a scale or an artifact that does not exist, and an effect beside words of ours."""
        known = {"verdict": [*VERDICTS], "scale": sweeps.every_scale(), "at": sweeps.names()}
        for key, values in known.items():
            require_one_of(f"{FILE}, {self.says!r}: {key}", getattr(self, key), values)
        fits = bool(self.ours) != bool(self.effect) and len(self.effect) in (0, 1, 3)
        right = "must have one or three numbers, or be left out where `ours` says it in words"
        require(fits, f"{FILE}, {self.says!r}: effect", [*self.effect], right)

    @property
    def words(self) -> str:
        """Our side as text: `+1.24 [+0.62, +1.87]`."""
        if not self.effect:
            return self.ours
        mean, *ends = (f"{value:+.2f}" for value in self.effect)
        return f"{mean} [{', '.join(ends)}]" if ends else mean

    @property
    def where(self) -> str:
        """What it was measured on, or at which scale."""
        return self.measured or self.scale

    @property
    def published(self) -> tuple[float, ...]:
        """The paper's effect in points: one number, the two ends of `+0.9 to +2.9`, or none."""
        try:
            return tuple(map(float, self.paper.split(" to ")))
        except ValueError:
            return ()


def stated(results_dir: Path) -> list[Statement]:
    """Every statement, in the order of the verdicts; none where the directory has no such file.

    Raises:
        ConfigError: for a file that is not a list of statements.
    """
    path = results_dir / FILE
    if not path.exists():
        return []
    try:
        made = [
            Statement(**{**one, "effect": tuple(one.get("effect", ()))}) for one in yaml.safe_load(path.read_text())
        ]
    except (TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(FILE, path, f"must be a list of statements: {error}") from None
    return sorted(made, key=lambda one: [*VERDICTS].index(one.verdict))


def verdict(results_dir: Path) -> dict[str, str]:
    """The verdict as question -> answer (`results/verdict.yaml`); empty where the directory has no such file.

    Raises:
        ConfigError: for a file that is not a mapping of questions to answers.
    """
    path = results_dir / VERDICT
    if not path.exists():
        return {}
    try:
        answers = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(VERDICT, path, f"must be a mapping of questions to answers: {error}") from None
    right = isinstance(answers, dict) and all(isinstance(text, str) for pair in answers.items() for text in pair)
    require(right, VERDICT, path, "must be a mapping of questions to answers")
    return answers


def markdown(results_dir: Path) -> str:
    """The table at the head of the findings."""
    lines = [
        [one.says, VERDICTS[one.verdict][0], one.paper, one.words, str(one.n), one.where, one.sure]
        for one in stated(results_dir)
    ]
    return aligned([HEAD, *lines])
