"""The best cell of a hyperparameter search."""

import pandas as pd

from sparse_train.report.views.labels import label, name
from sparse_train.report.views.tables import HOLE

SELECTED_ON = {"val_acc": "held-out training images", "test_acc": "the TEST SET, whose accuracies then flatter it"}


def caption(value: str) -> str:
    """What the title says of the metric that a search selects by."""
    return f", selected on {SELECTED_ON.get(value, value)}"


def lines(runs: pd.DataFrame, per: str, over: list[str], value: str) -> list[list[str]]:
    """A head; for each value of `per` the setting of `over` with the highest mean, and how many settings were tried.

    The accuracy of that setting on the test set is shown beside what it was selected by.
    """
    shown = list(dict.fromkeys([value, "test_acc"]))
    made = [[name(per), *map(name, over), *map(name, shown), "Settings tried"]]
    for one in runs[per].unique():
        here = runs[runs[per] == one]
        here = here.dropna(subset=[value]) if value in here else here.iloc[:0]
        means = here.groupby(over, sort=False)[shown].mean() if len(here) else pd.DataFrame()
        tried = f"{len(means)} of {runs.loc[runs[per] == one, over].drop_duplicates().shape[0]}"
        if means.empty:
            made.append([label(per, one), *[HOLE] * (len(over) + len(shown)), tried])
        else:
            chosen = means[value].idxmax()
            found = [f"{means.loc[chosen, metric]:.2f}" for metric in shown]
            made.append([label(per, one), *map(str, chosen), *found, tried])
    return made
