"""What was made here beside what is committed, where an artifact is drawn into a place of its own."""

from pathlib import Path

import pandas as pd

from sparse_train.report.evidence.comparisons import settings_of, unit
from sparse_train.report.results import COMPLETE, Results
from sparse_train.report.settings import metrics
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views.labels import label, methods_of, name
from sparse_train.report.views.tables import HOLE, aligned, mean_std


def beside(sweep: Sweep, results_dir: Path, committed: Path) -> str:
    """A table of every setting: the mean here, the committed one, and their difference.

    Empty if both directories are the same, or either has no records of this artifact at this scale.
    """
    tables = [_runs(sweep, place) for place in (results_dir, committed)]
    if results_dir.resolve() == committed.resolve() or any(table is None for table in tables):
        return ""
    value, named = _value(sweep), methods_of(sweep)
    here, there = (settings_of(table, sweep.factors) for table in tables)
    shown = [key for key in sweep.factors if key != "seed" and len({dict(one).get(key) for one in here}) > 1]
    lines = [[*map(name, shown), "Here", "Committed", "Difference"]]
    for setting, group in here.items():
        ours, theirs = (_values(one, value) for one in (group, there.get(setting)))
        difference = f"{ours.mean() - theirs.mean():+.2f}" if len(ours) and len(theirs) else ""
        asked = dict(setting)
        words = [label(key, asked[key], named) if key in asked else "" for key in shown]
        lines.append([*words, _text(ours), _text(theirs), difference])
    return f"{name(value)} here, and as committed:\n\n{aligned(lines)}\n"


def _runs(sweep: Sweep, place: Path) -> pd.DataFrame | None:
    runs = Results(place, sweep.scale).runs(sweep)
    return runs if len(runs) and (runs["status"] == COMPLETE).any() else None


def _value(sweep: Sweep) -> str:
    """The metric that the artifact is about."""
    named = metrics(sweep.artifact)
    stated = (value for part in ("table", "figure", "summary", "values", "best") for value in named.get(part, ()))
    return next(stated, "test_acc")


def _values(group: pd.DataFrame | None, value: str) -> pd.Series:
    if group is None or value not in group:
        return pd.Series(dtype=float)
    return unit(value) * group.loc[group["status"] == COMPLETE, value].dropna()


def _text(values: pd.Series) -> str:
    return f"{mean_std(values.mean(), values.std())} (n={len(values)})" if len(values) else HOLE
