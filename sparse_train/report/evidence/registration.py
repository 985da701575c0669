"""Whether a prediction was registered: its sweep file had it at the revision of every run that judges it."""

import subprocess
from collections.abc import Iterable
from functools import cache

import yaml

from sparse_train.report.schema import BOUNDS, expected
from sparse_train.source import ROOT

REGISTERED, POST_HOC, UNKNOWN = "registered", "post hoc", "no git history to tell"
KNOWN_BASE = "registered, its second setting known"
# Keys of settings that were renamed after predictions had been made with them.
RENAMED = {"dst.rank_as": "dst.method.rank_as", "dst.rescale": "dst.method.rescale"}


def when(sweep: str, comparison: dict, value: str, sides: list[list[str]]) -> str:
    """When a prediction was made, from the revisions of the complete runs that judge it.

    Args:
        value: the first metric of the study.
        sides: the revisions of the runs of each of its settings.

    Returns:
        Empty where a setting has no run.
    """
    if not all(sides):
        return ""
    made = registered(sweep, comparison, value, [revision for side in sides for revision in side])
    return KNOWN_BASE if made == POST_HOC and registered(sweep, comparison, value, sides[0]) == REGISTERED else made


def registered(sweep: str, comparison: dict, value: str, revisions: Iterable[str]) -> str:
    """How a prediction stands to the runs that judge it: asked of git, not of the file.

    It is registered if `sweeps/<sweep>.yaml` had it at the revision of every run: the same words but for renamed keys,
    the same settings and the same expectation. A run from a tree with uncommitted changes registers nothing.

    Args:
        comparison: as the sweep file has it now.
        value: the first metric of the study.
        revisions: those that the runs' records name.
    """
    revisions = set(revisions)
    known = {revision: predicted(sweep, revision) for revision in revisions if not revision.endswith("-dirty")}
    if not revisions or None in known.values():
        return UNKNOWN if revisions else ""
    whole = len(known) == len(revisions) and all(form(comparison, value) in then for then in known.values())
    return REGISTERED if whole else POST_HOC


@cache
def predicted(sweep: str, revision: str) -> list[dict] | None:
    """The comparisons of the sweep file at that revision; None where this repository lacks the one or the other.

    An older file has `predictions`: `equal`, pairs that share `values`, the metrics, and `within`, their margins.
    """
    ours = (ROOT / "sweeps" / f"{sweep}.yaml").exists()
    if not ours or not revision.isalnum() or _git("cat-file", "-e", f"{revision}^{{commit}}") is None:
        return None
    text = _git("show", f"{revision}:sweeps/{sweep}.yaml")
    artifact = (yaml.safe_load(text or "") or {}).get("artifact", {})
    older = artifact.get("predictions") or {}
    values = artifact.get("values") or older.get("values") or [""]
    margins = {metric: (older.get("within") or {}).get(metric, 0) for metric in older.get("values", ())}
    pairs = [pair if {*BOUNDS} & set(pair) else pair | {"within": margins} for pair in older.get("equal", ())]
    return [form(one, values[0]) for one in [*(artifact.get("comparisons") or ()), *pairs]]


def form(comparison: dict, value: str) -> dict:
    """A comparison in the keys of today, its expectation by metric."""
    form = {key: one for key, one in comparison.items() if key not in ("within", *BOUNDS)}
    sides = {s: {RENAMED.get(key, key): one for key, one in form[s].items()} for s in ("a", "b") if s in form}
    return form | sides | {"expected": expected(comparison, value)}


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
