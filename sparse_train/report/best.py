"""The best cell of a hyperparameter search."""

import pandas as pd

from sparse_train.report.labels import label, name
from sparse_train.report.tables import HOLE


def lines(runs: pd.DataFrame, per: str, over: list[str], value: str) -> list[list[str]]:
    """A head; for each value of `per` the setting of `over` with the highest mean, and how many settings were tried."""
    made = [[name(per), *map(name, over), name(value), "Settings tried"]]
    for one in runs[per].unique():
        here = runs[runs[per] == one]
        means = here.groupby(over, sort=False)[value].mean().dropna() if value in here else pd.Series(dtype=float)
        tried = f"{len(means)} of {here[over].drop_duplicates().shape[0]}"
        if means.empty:
            made.append([label(per, one), *[HOLE] * (len(over) + 1), tried])
        else:
            made.append([label(per, one), *map(str, means.idxmax()), f"{means.max():.2f}", tried])
    return made
