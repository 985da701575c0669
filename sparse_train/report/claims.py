"""The paper's claims (`results/claims.yaml`), judged on its own numbers and on ours."""

from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import pandas as pd
import yaml

from sparse_train.report import collected, paper, statistics, sweeps
from sparse_train.report.labels import label
from sparse_train.report.results import held, write_text

CLAIMS = sweeps.ROOT / "results" / "claims.yaml"
FACTORS = ("dataset", "dst", "sparsity", "optimizer", "renorm", "epochs")
HOLDS, FAILS, OPEN = "holds", "fails", "not enough data"

Side = tuple[int, dict[str, str]]  # a sign, and the factors of the numbers it stands before


@dataclass(frozen=True)
class Comparison:
    """One cell of a claim: a signed sum of accuracies that should be positive.

    Attributes:
        words: which cell.
        sides: what is summed.
        effect: the sum, in percentage points; None where a number is missing.
        low, high: the 95% interval over paired seeds, Student's t; NaN for fewer than two.
        n: paired seeds.
    """

    words: str
    sides: list[Side]
    effect: float | None
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """By the interval where there is one (it must leave out 0), else by the sign; a tie does not hold."""
        if self.effect is None:
            return OPEN
        if pd.isna(self.low):
            return HOLDS if self.effect > 0 else FAILS
        return HOLDS if self.low > 0 else FAILS if self.high < 0 else OPEN


def overall(comparisons: list[Comparison]) -> str:
    """A claim fails if it fails in one cell, and holds if it holds in all."""
    verdicts = {comparison.verdict for comparison in comparisons}
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts or not verdicts else HOLDS


def papers_numbers(tables: list[str]) -> pd.DataFrame:
    """One row per published cell, with a `seed` of none: the paper gives means."""
    known = [name for name in tables if (paper.PAPER / f"{name}.csv").exists()]
    frames = [
        paper.table(name).assign(dataset=_dataset(name), value=lambda f: f["mean"], seed="mean") for name in known
    ]
    return _tidy(frames)


def our_numbers(tables: list[str], value: str, results_dir: Path, scale: str) -> pd.DataFrame:
    """One row per complete run in the collected CSVs that its sweep asks for; they may hold others."""
    frames = []
    for name in tables:
        frame = collected.earlier(collected.path(results_dir, scale, name), (*FACTORS, "seed"))
        if frame is not None and value in frame:
            asked = collected.asked(frame, sweeps.load(name, scale))
            done = asked[asked["status"] == "complete"]
            frames.append(done.assign(value=(100 if value == "itop_rate" else 1) * done[value]))
    return _tidy(frames)


def _tidy(frames: list[pd.DataFrame]) -> pd.DataFrame:
    columns = [*FACTORS, "seed", "value"]
    whole = [frame.reindex(columns=columns).assign(renorm=_renorm) for frame in frames if len(frame)]
    return pd.concat(whole).drop_duplicates(columns[:-1]) if whole else pd.DataFrame(columns=columns)


def _renorm(frame: pd.DataFrame) -> pd.Series:
    return frame["renorm"].astype(object).fillna("none")


def _dataset(name: str) -> str:
    return sweeps.load(name).cells[0].factors["dataset"]


def stated() -> list[dict]:
    """The claims, as `results/claims.yaml` has them."""
    return yaml.safe_load(CLAIMS.read_text())


def on_the_papers(claim: dict) -> list[Comparison]:
    """The cells that the paper has numbers for."""
    return [c for c in judge(claim, papers_numbers(claim["tables"])) if c.effect is not None]


def on_ours(claim: dict, results_dir: Path, scale: str) -> list[Comparison]:
    """Every cell, on what was measured at this scale."""
    numbers = our_numbers(claim["tables"], claim.get("value", "test_acc"), results_dir, scale)
    return judge(claim, numbers)


def judge(claim: dict, numbers: pd.DataFrame) -> list[Comparison]:
    """Every cell of the claim that the tables have, in their order."""
    return [_compare(words, sides, numbers) for words, sides in _cells(claim)]


def _cells(claim: dict) -> list[tuple[str, list[Side]]]:
    found: dict[str, list[Side]] = {}
    for name in claim["tables"]:
        grid = _grid(name)
        schedules = sorted(grid["epochs"], key=int)
        free = [key for key in FACTORS if key not in claim["a"]]
        for values in product(*(grid[key] for key in free)):
            cell = dict(zip(free, values, strict=True))
            for sides in _sides(claim, cell, schedules):
                found.setdefault(_words(claim, sides), sides)
    return list(found.items())


def _grid(name: str) -> dict[str, list[str]]:
    factors = [cell.factors for cell in sweeps.load(name).cells]
    return {key: list(dict.fromkeys(f.get(key, "none") for f in factors)) for key in FACTORS}


def _sides(claim: dict, cell: dict[str, str], schedules: list[str]) -> list[list[Side]]:
    """The sums that `cell` stands for; none where the claim is about another cell."""
    ends = {"shortest": schedules[0], "longest": schedules[-1]}

    def at(place: dict[str, str]) -> dict[str, str]:
        return {key: ends.get(value, value) for key, value in place.items()}

    if any(cell[key] != value for key, value in at(claim.get("at", {})).items()):
        return []
    a, b = {**cell, **claim["a"]}, {**cell, **claim["b"]}
    if claim["kind"] == "better":
        return [[(1, a), (-1, b)]]
    if claim["kind"] == "gap":
        first, second = at(claim["first"]), at(claim["second"])
        if any(cell[key] != value for key, value in first.items()):
            return []
        return [[(1, a), (-1, b), (-1, {**a, **second}), (1, {**b, **second})]]
    later = dict(pairwise(schedules)).get(cell["epochs"])  # catches
    return [[(1, a), (-1, {**b, "epochs": later})]] if later else []


def _words(claim: dict, sides: list[Side]) -> str:
    shown = [key for key in FACTORS if key not in claim["a"] or claim["a"][key] != claim["b"].get(key)]
    common = {key: value for key, value in sides[0][1].items() if all(f[key] == value for _, f in sides)}
    words = [
        common["dataset"],
        *(label(key, common[key]) for key in ("dst", "sparsity") if key in shown and key in common),
    ]
    if "epochs" in common:
        words.append(f"{common['epochs']} epochs")
    elif claim["kind"] == "catches":
        words.append(f"{sides[0][1]['epochs']} against {sides[1][1]['epochs']} epochs")
    return " ".join(words)


def _compare(words: str, sides: list[Side], numbers: pd.DataFrame) -> Comparison:
    total = None
    for sign, factors in sides:
        rows = numbers
        for key, value in factors.items():
            rows = rows[rows[key] == value]
        values = sign * rows.set_index("seed")["value"]
        total = values if total is None else (total + values).dropna()
    found = statistics.mean(total)
    effect = round(found.mean, 10) if found.n else None
    return Comparison(words, sides, effect, found.low, found.high, found.n)


def markdown(results_dir: Path, scale: str) -> str:
    """The page of all claims."""
    at = "" if scale == sweeps.PAPER else f", reduced scale {scale}"
    summary = [f"| claim | on the paper's numbers | on ours{at} | |", "|---|---|---|---|"]
    details = []
    for claim in stated():
        theirs, ours = on_the_papers(claim), on_ours(claim, results_dir, scale)
        summary.append(
            f"| [{claim['id']}](#{claim['id']}) | {_verdict(theirs)} | {_verdict(ours)} | {claim['where']} |"
        )
        details += [f"\n## {claim['id']}\n", f"{claim['says']} ({claim['where']})\n", *_listed("the paper", theirs)]
        details += _listed(f"ours{at}", [c for c in ours if c.effect is not None])
    head = [
        f"# Claims of the paper, judged on its numbers and on ours{sweeps.reduced(scale)}\n",
        "A claim holds if it holds in every cell, and fails if it fails in one. On the paper's numbers a cell is",
        "judged by the sign of the difference of means (a tie does not hold); on ours by the 95% interval over paired",
        "seeds, which must leave out 0 (by the sign where there is one seed). Effects are percentage points.\n",
    ]
    return "\n".join([*head, *summary, *details]) + "\n"


def write(results_dir: Path, scale: str) -> str:
    """Write and return the page."""
    with held(results_dir):
        page = markdown(results_dir, scale)
        write_text(sweeps.place(results_dir, scale) / "claims.md", page)
    return page


def _verdict(comparisons: list[Comparison]) -> str:
    known = [c for c in comparisons if c.effect is not None]
    counts = [(word, sum(c.verdict == word for c in comparisons)) for word in (HOLDS, FAILS)]
    of = f"{', '.join(f'{word} in {count}' for word, count in counts)} of {len(comparisons)} cells"
    return f"**{overall(comparisons)}** ({of if known else 'no runs yet'})"


def _listed(whose: str, comparisons: list[Comparison]) -> list[str]:
    if not comparisons:
        return []
    mean = sum(c.effect for c in comparisons) / len(comparisons)
    lines = [f"{whose}: mean effect {mean:+.2f} over {len(comparisons)} cells\n"]
    against = [c for c in comparisons if c.verdict == FAILS]
    lines += [f"- against it: {c.words}: {_effect(c)}" for c in against]
    if whose.startswith("ours"):
        lines += [f"- {c.verdict}: {c.words}: {_effect(c)}" for c in comparisons if c not in against]
    return [*lines, ""] if len(lines) > 1 else lines


def _effect(c: Comparison) -> str:
    interval = "" if pd.isna(c.low) else f" [{c.low:+.2f}, {c.high:+.2f}], n={c.n}"
    return f"{c.effect:+.2f}{interval}" if c.effect else f"a tie{interval}"
