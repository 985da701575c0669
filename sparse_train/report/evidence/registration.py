"""Whether a prediction was there before its runs: asked of git, not of the file."""

import subprocess
from collections.abc import Iterable
from functools import cache

import yaml

from sparse_train.source import ROOT

REGISTERED, POST_HOC, UNKNOWN = "registered", "post hoc", "no git history to tell"


def status(name: str, pair: dict, within: dict[str, float], revisions: Iterable[str]) -> str:
    """How a prediction of a sweep stands to the runs that judge it.

    It is registered if `sweeps/<name>.yaml` had it, word for word and with the same margins, at the revision of every
    run. A run from a tree with uncommitted changes registers nothing.

    Args:
        pair: the prediction, as the sweep file has it now.
        within: its margins.
        revisions: those that the runs' records name.
    """
    revisions = set(revisions)
    known = {revision: _predictions(name, revision) for revision in revisions if not revision.endswith("-dirty")}
    if not revisions or None in known.values():
        return UNKNOWN if revisions else ""
    there = [pair in then.get("equal", []) and then.get("within") == within for then in known.values()]
    return REGISTERED if len(known) == len(revisions) and all(there) else POST_HOC


@cache
def _predictions(name: str, revision: str) -> dict | None:
    """Those of the sweep file at that revision; None where this repository does not have the one or the other."""
    ours = (ROOT / "sweeps" / f"{name}.yaml").exists()
    if not ours or not revision.isalnum() or _git("cat-file", "-e", f"{revision}^{{commit}}") is None:
        return None
    text = _git("show", f"{revision}:sweeps/{name}.yaml")
    return (yaml.safe_load(text or "") or {}).get("artifact", {}).get("predictions") or {}


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
