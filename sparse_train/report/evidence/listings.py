"""The lines of what an artifact lists besides its table of the paper."""

from collections.abc import Iterator

import pandas as pd

from sparse_train.report.evidence import effects, predictions
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views import best, summary


def listings(sweep: Sweep, runs: pd.DataFrame) -> Iterator[list[list[str]]]:
    """Those that the sweep file asks for, each a head and its rows."""
    artifact = sweep.artifact
    if artifact.get("summary"):
        yield summary.lines(runs, **artifact["summary"])
    if artifact.get("effects"):
        yield effects.lines(runs, sweep.factors, **artifact["effects"])
    if artifact.get("contrasts"):
        yield effects.contrast_lines(runs, sweep.factors, **artifact["contrasts"])
    if artifact.get("predictions"):
        yield predictions.predictions(runs, sweep.factors, **artifact["predictions"], sweep=sweep.name)
    if artifact.get("best"):
        yield best.lines(runs, **artifact["best"])
