"""What a study compares: settings with one another or with a number, whether that was predicted, and the outcome."""

import subprocess
from collections.abc import Iterable, Iterator
from functools import cache

import pandas as pd
import yaml

from sparse_train.errors import require
from sparse_train.report import paper
from sparse_train.report.evidence import effects, verdicts
from sparse_train.report.evidence.effects import complete, in_a_sentence, settings_of, shown, unit
from sparse_train.report.settings import Setting, find
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views import best, statistics, summary
from sparse_train.report.views.labels import name
from sparse_train.report.views.tables import HOLE
from sparse_train.source import ROOT

REGISTERED, POST_HOC, UNKNOWN = "registered", "post hoc", "no git history to tell"
KNOWN_BASE = "registered, its second setting known"
# Keys of settings that were renamed after predictions had been made with them.
RENAMED = {"dst.rank_as": "dst.method.rank_as", "dst.rescale": "dst.method.rescale"}


def listings(sweep: Sweep, runs: pd.DataFrame) -> Iterator[list[list[str]]]:
    """What an artifact lists besides its table of the paper: for each section of the sweep file a head and its rows."""
    artifact = sweep.artifact
    if artifact.get("summary"):
        yield summary.lines(runs, **artifact["summary"])
    if artifact.get("effects"):
        yield effects.lines(runs, sweep.factors, **artifact["effects"])
    if artifact.get("contrasts"):
        yield contrasts(runs, sweep.factors, **artifact["contrasts"])
    if artifact.get("predictions"):
        yield predictions(runs, sweep.factors, **artifact["predictions"], sweep=sweep.name)
    if artifact.get("best"):
        yield best.lines(runs, **artifact["best"])


def differences(runs: pd.DataFrame, factors: list[str], pairs: list[dict], value: str) -> dict[str, pd.Series]:
    """What a pair `says` -> its differences in `value` over seeds.

    Args:
        pairs: `says`, the factors of setting `a`, and those of setting `b`; or, as `paper`, a `table` of the paper and
            the factors of its cell, whose mean counts as exact; or, as `theory`, the value of every metric. Perhaps
            `without_seed`, one to leave out.
    """
    settings = settings_of(runs, factors)
    return {pair["says"]: difference(pair, settings, value) for pair in pairs}


def difference(pair: dict, settings: dict[Setting, pd.DataFrame], value: str) -> pd.Series:
    """Setting `a` minus setting `b`, the paper's cell or the theory's value, in the unit that is shown."""
    ours, *theirs = (_without(group, pair.get("without_seed")) for group in _groups(pair, settings))
    if theirs:
        return effects.paired(ours, theirs[0], value)
    if value not in ours:
        return pd.Series(dtype=float)
    if "theory" in pair:
        return unit(value) * (ours[value].dropna() - pair["theory"][value])
    cell = {key: str(asked) for key, asked in pair["paper"].items()}
    published = paper.value(cell.pop("table"), **cell)
    require(published is not None, "predictions.paper", pair["paper"], "must be a cell of the paper's tables")
    return unit(value) * ours[value].dropna() - published[0]


def _groups(pair: dict, settings: dict[Setting, pd.DataFrame]) -> list[pd.DataFrame]:
    """The complete runs of its settings."""
    return [complete(settings[find(settings, pair[side])]) for side in ("a", "b") if side in pair]


def _without(group: pd.DataFrame, seed: object) -> pd.DataFrame:
    return group if seed is None else group[group["seed"].astype(str) != str(seed)]


def contrasts(runs: pd.DataFrame, factors: list[str], pairs: list[dict], value: str) -> list[list[str]]:
    """A head; one row per pair: its difference with the 95% interval, p, and the effect that could be seen."""
    made = [["Contrast", f"difference in {in_a_sentence(name(value))}", "p", "smallest visible effect", "n"]]
    for says, found in differences(runs, factors, pairs, value).items():
        several = len(found) > 1
        numbers = (f"{statistics.mean(found).p:.4f}", f"{effects.visible(found):.2f}") if several else ("", "")
        made.append([says, shown(found) or HOLE, *numbers, str(len(found))])
    return made


def sentences(runs: pd.DataFrame, factors: list[str], value: str, pairs: list[dict]) -> list[str]:
    """For each pair its difference, and whether the seeds' spread explains it: what a demonstration shows."""
    made = []
    for says, difference in differences(runs, factors, pairs, value).items():
        found = statistics.mean(difference)
        seeds = "1 seed" if found.n == 1 else f"{found.n} seeds"
        numbers = f"{shown(difference)} points ({seeds})" if found.n else "not trained yet"
        made.append(f"{says}: {numbers}, {_seen(difference, found)}")
    return made


def _seen(difference: pd.Series, found: statistics.Estimate) -> str:
    if found.n < 2:
        return verdicts.of_prediction(difference, 0.0)
    if not difference.any():
        return "the same to the bit"
    return f"{'beyond' if found.low > 0 or found.high < 0 else 'within'} the seeds' spread"


def predictions(
    runs: pd.DataFrame, factors: list[str], values: list[str], within: dict[str, float], equal: list[dict], sweep: str
) -> list[list[str]]:
    """A head; one row per prediction: its differences, each with its verdict (`verdicts.of_prediction`).

    Args:
        values: metrics; a bound of a prediction is one of the first.
        within: how small a difference of a metric counts as none; one that is not named can only be refuted.
        equal: pairs as in `differences`, with `at_least` or `at_most` for a bound instead of equality.
        sweep: the file that has them; git says whether it had them before the runs.
    """
    settings = settings_of(runs, factors)
    made = [["Prediction", *(f"difference in {in_a_sentence(name(v))}" for v in values), "n", "made"]]
    for pair in equal:
        found = {v: difference(pair, settings, v) for v in values}
        bounds = {key: pair[key] for key in ("at_least", "at_most") if key in pair}
        words = []
        for v, one in found.items():
            verdict = verdicts.of_prediction(one, within.get(v, 0.0), **(bounds if v == values[0] else {}))
            words.append(": ".join(filter(None, [shown(one), verdict])))
        count = f"{len(found[values[0]])} of {runs['seed'].nunique()}"
        made.append([pair["says"], *words, count, when(sweep, pair, within, settings)])
    return made


def when(sweep: str, pair: dict, within: dict[str, float], settings: dict[Setting, pd.DataFrame]) -> str:
    """When a prediction was made, from the revisions of the complete runs that judge it; empty without such runs."""
    first, *others = ([str(run.get("git")) for run in group.to_dict("records")] for group in _groups(pair, settings))
    if not first or not all(others):
        return ""
    made = registered(sweep, pair, within, [*first, *(revision for other in others for revision in other)])
    return KNOWN_BASE if made == POST_HOC and registered(sweep, pair, within, first) == REGISTERED else made


def registered(sweep: str, pair: dict, within: dict[str, float], revisions: Iterable[str]) -> str:
    """How a prediction of a sweep stands to the runs that judge it: asked of git, not of the file.

    It is registered if `sweeps/<sweep>.yaml` had it, word for word but for renamed keys and with the same margins, at
    the revision of every run. A run from a tree with uncommitted changes registers nothing.

    Args:
        pair: the prediction, as the sweep file has it now.
        within: its margins.
        revisions: those that the runs' records name.
    """
    revisions = set(revisions)
    known = {revision: predicted(sweep, revision) for revision in revisions if not revision.endswith("-dirty")}
    if not revisions or None in known.values():
        return UNKNOWN if revisions else ""
    there = [pair in map(_renamed, then.get("equal", ())) and then.get("within") == within for then in known.values()]
    return REGISTERED if len(known) == len(revisions) and all(there) else POST_HOC


def _renamed(pair: dict) -> dict:
    """A prediction in the keys of today."""
    sides = {
        side: {RENAMED.get(key, key): one for key, one in pair[side].items()} for side in ("a", "b") if side in pair
    }
    return pair | sides


@cache
def predicted(sweep: str, revision: str) -> dict | None:
    """The predictions of the sweep file at that revision; None where this repository lacks the one or the other."""
    ours = (ROOT / "sweeps" / f"{sweep}.yaml").exists()
    if not ours or not revision.isalnum() or _git("cat-file", "-e", f"{revision}^{{commit}}") is None:
        return None
    text = _git("show", f"{revision}:sweeps/{sweep}.yaml")
    return (yaml.safe_load(text or "") or {}).get("artifact", {}).get("predictions") or {}


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
