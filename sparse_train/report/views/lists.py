"""What artifacts list besides their tables of accuracies; each list is a head and its rows."""

import pandas as pd
from omegaconf import OmegaConf

from sparse_train.report.results import complete
from sparse_train.report.sweeps import configuration, remembered
from sparse_train.report.views.columns import HOLE, text
from sparse_train.report.views.labels import label, name

SELECTED_ON = {"val_acc": "held-out training images", "test_acc": "the TEST SET, whose accuracies then flatter it"}
ROWS = (  # the paper's rows and what they are here; one whose key is not there is left out, as HAM's in Table 5
    ("Optimizer", "SGD with momentum", None),
    ("Batch size (B)", None, "batch_size"),
    ("Learning rate (eta)", None, "lr"),
    ("Learning rate schedule", "linear warm-up, cosine decay", None),
    ("Warm-up epochs (Appendix E.2)", None, "lr_schedule.warmup_epochs"),
    ("First learning rate (Appendix E.2)", None, "lr_schedule.init"),
    ("Final learning rate (Appendix E.2)", None, "lr_schedule.end"),
    ("Peak scales with B over (Appendix E.2)", None, "lr_schedule.reference_batch"),
    ("Momentum", None, "momentum"),
    ("Nesterov (open)", None, "nesterov"),
    ("Weight decay", None, "weight_decay"),
    ("Weight decay on (open)", None, "weight_decay_on"),
    ("Sparsity distribution", None, "topology.distribution"),
    ("Drop fraction (f_drop)", None, "dst.drop_fraction"),
    ("Drop fraction over time (open)", None, "dst.decay"),
    ("Updates stop at share of steps (open)", None, "dst.stop_fraction"),
    ("Update frequency (Delta T)", None, "dst.every"),
    ("HAM hyperparameter (h1)", None, "optimizer.mirror.alpha"),
)


def summary(runs: pd.DataFrame, over: list[str], values: list[str]) -> list[list[str]]:
    """A head; one row per setting of `over`, its columns `values`, and the runs behind it."""
    made = [[*map(name, over), *(name(value).replace("_", " ") for value in values), "n"]]
    for setting, group in runs.groupby(over, sort=False, dropna=False):
        done, words = complete(group), [label(key, value) for key, value in zip(over, setting, strict=True)]
        texts = [HOLE if done.empty else text(value, done, "average") or "-" for value in values]
        made.append([*words, *texts, f"{len(done)} of {len(group)}"])
    return made


def caption(value: str) -> str:
    """The words of a title for the metric that a search selects by."""
    return f", selected on {SELECTED_ON.get(value, value)}"


def best(runs: pd.DataFrame, per: str, over: list[str], value: str) -> list[list[str]]:
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


def hyperparameters(overrides: list[str], artifact: str) -> list[list[str]]:
    """Tables 4 and 5, from the configuration that runs use, so that they cannot drift from it.

    Rows that are "open" settle what the paper leaves open.
    """

    def made() -> list[list[str]]:
        cfg = configuration(artifact, dict(override.split("=", 1) for override in overrides))
        rows = [["Hyperparameter", "Value", "Key"]]
        for words, fixed, key in ROWS:
            if (value := fixed or OmegaConf.select(cfg, key)) is not None:
                text = f"{value:g}" if isinstance(value, float) else str(value)
                rows.append([words, text, f"`{key}`" if key else ""])
        return rows

    return remembered(["hyperparameters", artifact, *overrides], made)
