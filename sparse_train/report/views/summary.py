"""A table of final values per setting: their means over seeds."""

import pandas as pd

from sparse_train.report.views.labels import label, name
from sparse_train.report.views.tables import HOLE


def lines(runs: pd.DataFrame, over: list[str], values: list[str]) -> list[list[str]]:
    """A head; one row per setting of `over`, the mean over seeds of each of `values`, and the runs behind it."""
    made = [[*map(name, over), *(name(value).replace("_", " ") for value in values), "n"]]
    for setting, group in runs.groupby(over, sort=False, dropna=False):
        done = group[group["status"] == "complete"]
        means = [done[v].mean() if v in done else float("nan") for v in values]
        texts = [HOLE if done.empty else "-" if pd.isna(mean) else f"{mean:.4g}" for mean in means]
        made.append(
            [*(label(k, v) for k, v in zip(over, setting, strict=True)), *texts, f"{len(done)} of {len(group)}"]
        )
    return made
