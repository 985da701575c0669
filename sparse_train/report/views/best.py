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

    A setting counts as tried once all of its seeds are complete. The accuracy of the chosen one on the test set is
    shown beside what it was selected by.
    """
    shown = list(dict.fromkeys([value, "test_acc"]))
    made = [[name(per), *map(name, over), *map(name, shown), "Settings tried"]]
    for one in runs[per].unique():
        here = runs[runs[per] == one]
        whole = here.groupby(over, sort=False).filter(lambda of: of[value].notna().all()) if value in here else here[:0]
        means = whole.groupby(over, sort=False)[shown].mean() if len(whole) else pd.DataFrame()
        tried = f"{len(means)} of {here[over].drop_duplicates().shape[0]}"
        if means.empty:
            made.append([label(per, one), *[HOLE] * (len(over) + len(shown)), tried])
        else:
            chosen = means[value].idxmax()
            found = [f"{means.loc[chosen, metric]:.2f}" for metric in shown]
            made.append([label(per, one), *map(str, chosen if len(over) > 1 else [chosen]), *found, tried])
    return made
