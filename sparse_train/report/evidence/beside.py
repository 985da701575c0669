"""A comparison with what is committed, where an artifact is drawn into a place of its own."""

from pathlib import Path

import pandas as pd

from sparse_train.report.evidence.comparisons import Study
from sparse_train.report.results import Results, complete
from sparse_train.report.schema import metrics
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views.columns import HOLE, mean_std, unit
from sparse_train.report.views.labels import label, methods_of, name
from sparse_train.report.views.tables import aligned


def beside(sweep: Sweep, results_dir: Path, committed: Path) -> str:
    """A table of every setting: the mean here, the committed one, and their difference.

    Empty if both directories are the same, or either has no records of this artifact at this scale.
    """
    tables = [Results(place, sweep.scale).runs(sweep) for place in (results_dir, committed)]
    if results_dir.resolve() == committed.resolve() or any(complete(table).empty for table in tables):
        return ""
    named = metrics(sweep.artifact)
    stated = (value for part in ("table", "figure", "summary", "values", "best") for value in named.get(part, ()))
    value, methods = next(stated, "test_acc"), methods_of(sweep)
    here, there = (Study(sweep, table).settings for table in tables)
    asked = [dict(one) for one in here]
    shown = [key for key in sweep.factors if key != "seed" and len({one.get(key) for one in asked}) > 1]
    lines = [[*map(name, shown), "Here", "Committed", "Difference"]]
    for one in asked:
        groups = [complete(settings[tuple(one.items())]) for settings in (here, there)]
        values = [unit(value) * group.get(value, pd.Series(dtype=float)).dropna() for group in groups]
        texts = [f"{mean_std(v.mean(), v.std())} (n={len(v)})" if len(v) else HOLE for v in values]
        difference = values[0].mean() - values[1].mean()
        words = [label(key, one[key], methods) if key in one else "" for key in shown]
        lines.append([*words, *texts, "" if pd.isna(difference) else f"{difference:+.2f}"])
    return f"{name(value)} here, and as committed:\n\n{aligned(lines)}\n"
