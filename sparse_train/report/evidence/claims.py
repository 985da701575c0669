"""The paper's claims (`results/claims.yaml`), judged on its own numbers and on ours."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pandas as pd
import yaml

from sparse_train.report import paper, sweeps
from sparse_train.report.evidence import statements, verdicts
from sparse_train.report.evidence.verdicts import ClaimCell
from sparse_train.report.files import held, write_table, write_text
from sparse_train.report.results import Results, complete
from sparse_train.report.views import statistics
from sparse_train.report.views.columns import unit
from sparse_train.report.views.labels import label, titled
from sparse_train.report.views.statistics import Estimate
from sparse_train.report.views.tables import aligned
from sparse_train.source import ROOT

CLAIMS = ROOT / "results" / "claims.yaml"
FACTORS = ("dataset", "dst", "sparsity", "optimizer", "renorm", "epochs")

Side = tuple[int, dict[str, str]]  # a sign, and the factors of the numbers it stands before
Judged = tuple[Estimate, str]  # a signed sum, and its verdict
Terms = list[tuple[int, pd.DataFrame]]  # a sign, and the numbers it stands before


def papers_numbers(tables: list[str]) -> pd.DataFrame:
    """One row per published cell, with a `seed` of none: the paper gives means, and a `spread` in some tables."""
    known = [name for name in tables if (paper.PAPER / f"{name}.csv").exists()]
    frames = [
        paper.table(name)
        .rename(columns={"mean": "value", "std": "spread"})
        .assign(dataset=sweeps.load(name).cells[0].factors["dataset"], seed="mean")
        for name in known
    ]
    return _tidy(frames)


def our_numbers(tables: list[str], value: str, results_dir: Path, scale: str) -> pd.DataFrame:
    """One row per complete run that these tables ask for."""
    results, frames = Results(results_dir, scale), []
    for name in tables if results.committed else ():
        done = complete(results.runs(sweeps.load(name, scale)))
        if value in done:
            frames.append(done.assign(value=unit(value) * done[value].astype(float)))
    return _tidy(frames)


def _tidy(frames: list[pd.DataFrame]) -> pd.DataFrame:
    named, numbers = [*FACTORS, "seed"], ["value", "spread"]
    whole = [frame.reindex(columns=[*named, *numbers]) for frame in frames if len(frame)]
    whole = [frame.assign(renorm=frame["renorm"].astype(object).fillna("none")) for frame in whole]
    return pd.concat(whole).drop_duplicates(named) if whole else pd.DataFrame(columns=[*named, *numbers])


ABOUT = """\
Effects are percentage points. `results/claims.yaml` gives the smallest effect that counts for a claim, and why.
A claim holds if it holds in every cell, and fails if it fails in one.

- On ours: by the 95% interval over paired seeds. A cell holds if the mean counts and the whole interval lies above 0,
  or above what counts where that is below 0. The difference is too small if the whole interval lies within what
  counts. A cell fails if the interval leaves out every effect that counts. One seed is not judged.
- On the paper's means: a cell holds if the mean counts, fails if it is as far on the other side, and is too small
  otherwise.
- Beyond its spread: Welch's test of the paper's means and spreads against 0, adjusted over all cells of a claim that
  have a spread (Holm). The paper defines neither its ± nor the number of runs; we read the standard deviation of
  three.
- Together: a sign test over all cells of a claim that have a spread, their mean with its standard error, and the cells
  that differ from 0 (Holm) if one deviation, pooled over them, stands behind all.
"""


def stated() -> list[dict]:
    """The claims, as `results/claims.yaml` has them."""
    return yaml.safe_load(CLAIMS.read_text())


def on_the_papers(claim: dict) -> list[ClaimCell]:
    """The cells that the paper has numbers for, p adjusted over those of them that have a spread."""
    judged = judge(claim, papers_numbers(claim["tables"]), over_means)
    known = [comparison for comparison in judged if comparison.known]
    adjusted = statistics.holm([comparison.found.p for comparison in known])
    return [replace(comparison, adjusted=p) for comparison, p in zip(known, adjusted, strict=True)]


def jointly(claim: dict) -> statistics.Joint | None:
    """The paper's cells with a spread, together; None for a claim that is not one of two means of one cell, or has no
    such cell."""
    if "minus" in claim or "epochs" in claim["b"]:
        return None
    at = _by_cell(papers_numbers(claim["tables"]))
    pairs = [[at(factors) for _, factors in sides] for _, sides in _cells(claim).values()]
    cells = [[rows.iloc[0] for rows in pair] for pair in pairs if not any(rows["spread"].isna().all() for rows in pair)]
    spreads = [side["spread"] for pair in cells for side in pair]
    return statistics.joint([a["value"] - b["value"] for a, b in cells], spreads, paper.SEEDS) if cells else None


def _together(claim: dict) -> list[str]:
    found = jointly(claim)
    if found is None:
        return []
    signs = f"{found.positive} are positive (sign test, p {found.sign:.2g})"
    pooled = f"by one pooled standard deviation {found.survive} differ from 0"
    return [f"together, {found.n} cells with a spread: {signs}, mean {found.mean:+.2f} ± {found.error:.2f}; {pooled}\n"]


def on_ours(claim: dict, results_dir: Path, scale: str) -> list[ClaimCell]:
    """Every cell, on what was measured at this scale; a rehearsal is evidence of nothing."""
    numbers = our_numbers(claim["tables"], claim.get("value", "test_acc"), results_dir, scale)
    judged = judge(claim, numbers, over_seeds)
    if sweeps.is_rehearsal(scale):
        return [replace(one, verdict=verdicts.REHEARSAL) for one in judged]
    return judged


def judge(claim: dict, numbers: pd.DataFrame, compare: Callable[[Terms, float], Judged]) -> list[ClaimCell]:
    """Every cell of the claim that the tables have, in their order."""
    made, at = [], _by_cell(numbers)
    for words, (table, sides) in _cells(claim).items():
        terms = [(sign, at(factors)) for sign, factors in sides]
        found, verdict = compare(terms, claim["counts"])
        made.append(ClaimCell(words, table, found, verdict if found.n else None))
    return made


def _by_cell(numbers: pd.DataFrame) -> Callable[[dict[str, str]], pd.DataFrame]:
    """Factors of a cell -> its numbers by seed."""
    cells = {key: rows.set_index("seed") for key, rows in numbers.groupby([*FACTORS], sort=False)}
    none = numbers.iloc[:0].set_index("seed")
    return lambda factors: cells.get(tuple(factors[key] for key in FACTORS), none)


def over_seeds(terms: Terms, counts: float) -> Judged:
    """Paired: the sum is made for every seed that all sides have."""
    differences = sum(sign * rows["value"].astype(float) for sign, rows in terms).dropna()
    found = statistics.mean(differences)
    return found, verdicts.of_seeds(found, counts)


def over_means(terms: Terms, counts: float) -> Judged:
    """By the means; with Welch's interval and p where every one has a spread."""
    if any(rows.empty for _, rows in terms):
        return statistics.NOTHING, verdicts.NO_RUNS
    cells = [(sign, rows.iloc[0]) for sign, rows in terms]
    effect = round(sum(sign * cell["value"] for sign, cell in cells), 10)
    found = statistics.welch([(sign, cell["value"], cell["spread"], paper.SEEDS) for sign, cell in cells])
    return found._replace(mean=effect), verdicts.of_means(effect, counts)


def _cells(claim: dict) -> dict[str, tuple[str, list[Side]]]:
    """What a cell is called -> the first table that has it, and its sum."""
    found: dict[str, tuple[str, list[Side]]] = {}
    for name in claim["tables"]:
        factors = [cell.factors for cell in sweeps.load(name).cells]
        grid = {key: dict.fromkeys(one.get(key, "none") for one in factors) for key in FACTORS}
        free = [key for key in FACTORS if key not in claim["a"]]
        for values in product(*(grid[key] for key in free)):
            cell = dict(zip(free, values, strict=True))
            if sides := _sides(claim, cell, sorted(grid["epochs"], key=int)):
                found.setdefault(_words(claim, sides), (name, sides))
    return found


def _sides(claim: dict, cell: dict[str, str], schedules: list[str]) -> list[Side]:
    """The sum that `cell` stands for; none where the claim is about another cell."""
    later = dict(pairwise(schedules)).get(cell["epochs"])
    named = {"shortest": schedules[0], "longest": schedules[-1], "next": later}
    asked = {key: {f: named.get(v, v) for f, v in claim.get(key, {}).items()} for key in ("at", "a", "b", "minus")}
    if not asked["at"].items() <= cell.items() or None in asked["b"].values():
        return []
    a, b, minus = cell | asked["a"], cell | asked["b"], asked["minus"]
    return [(1, a), (-1, b), *([(-1, a | minus), (1, b | minus)] if minus else [])]


def _words(claim: dict, sides: list[Side]) -> str:
    shown = [key for key in FACTORS if key not in claim["a"] or claim["a"][key] != claim["b"].get(key)]
    common = {key: value for key, value in sides[0][1].items() if all(f[key] == value for _, f in sides)}
    words = [
        common["dataset"],
        *(label(key, common[key]) for key in ("dst", "sparsity") if key in {*shown} & {*common}),
    ]
    if "epochs" in common:
        words.append(f"{common['epochs']} epochs")
    elif "epochs" in claim["b"]:
        words.append(f"{sides[0][1]['epochs']} against {sides[1][1]['epochs']} epochs")
    return " ".join(words)


def pages(results_dir: Path, scale: str) -> tuple[list[list[str]], str]:
    """A head and a row per claim; and the page, with the cells of the paper's own numbers on that of its scale."""
    lines, details = [["claim", "counts from", "on the paper's means", "beyond its spread", "on ours", "where"]], []
    beside = {one["claim"]: _in_studies(one) for one in statements.scoreboard(results_dir)}
    for claim in stated():
        theirs, ours = on_the_papers(claim), on_ours(claim, results_dir, scale)
        words = [verdicts.said(theirs), verdicts.beyond_spread(theirs), verdicts.said(ours)]
        lines.append([claim["id"], f"{claim['counts']:+g}", *words, claim["where"]])
        details.append(f"## {claim['id']}\n\n{claim['says']} ({claim['where']})\n")
        details += beside.get(claim["id"], [])
        if scale == sweeps.PAPER:
            details += _together(claim)
            details += _listed("the paper", [c for c in theirs if c.verdict != verdicts.HOLDS], theirs)
        if not sweeps.is_rehearsal(scale):
            known = [c for c in ours if c.known]
            details += _listed("ours", known, known)
    title = f"# {titled('Claims of the paper, judged on its numbers and on ours', scale)}\n"
    linked = [lines[0], *([f"[{name}](#{name})", *words] for name, *words in lines[1:])]
    return lines, "\n".join([title, ABOUT, aligned(linked), *details])


def _in_studies(claim: dict) -> list[str]:
    """What the scoreboard has of a claim: its studies are no cells of these tables."""
    found = "; ".join(map(statements.brief, claim["ours"]))
    return [f"our studies ({statements.VERDICTS[claim['verdict']][0]}): {found}\n"]


def write(results_dir: Path, scale: str) -> str:
    """Write the page, and its table as CSV; returns the page."""
    with held(results_dir):
        (head, *lines), page = pages(results_dir, scale)
        place = sweeps.scale_dir(results_dir, scale)
        write_table(place / "claims.csv", pd.DataFrame(lines, columns=head))
        write_text(place / "claims.md", page)
    return page


def _listed(whose: str, shown: list[ClaimCell], every: list[ClaimCell]) -> list[str]:
    if not every:
        return []
    mean = sum(c.found.mean for c in every) / len(every)
    cells = "1 cell" if len(every) == 1 else f"{len(every)} cells"
    head = f"{whose}: mean effect {mean:+.2f} over {cells}" + ("; but" if 0 < len(shown) < len(every) else "")
    return [f"{head}\n", *(f"- {c.verdict}: {c.words}: {_effect(c)}" for c in shown), *([""] if shown else [])]


def _effect(c: ClaimCell) -> str:
    if pd.isna(c.adjusted):
        return str(c.found) + ("" if pd.isna(c.found.low) else f", n={c.found.n}")
    return f"{c.found}, p {c.found.p:.3f}, Holm {c.adjusted:.3f}"
