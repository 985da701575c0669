"""Made-up records: what runs would have left, with known numbers."""

from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from sparse_train.record.files import write_json, write_json_lines
from sparse_train.report import sweeps


def leave_record(runs_dir: Path, name: str, cell, status="complete", accuracy=70.0, metrics=None, **changes):
    """What a run of that cell would have left: three epochs, the accuracy rising by ten each.

    Args:
        metrics: values of the last epoch in place of those that are the same in every record; accuracies rise to them.
        changes: of the record.
    """
    cfg = sweeps.configuration(name, cell.options)
    last = {"test_acc": accuracy, "train_acc": 93.0, "test_loss": 1.0, "train_loss": 0.1, "itop_rate": 0.2}
    last |= {"realised_sparsity": 0.9, "grad_norm": 1.0, "images_per_second": 100.0, "lr": 1e-6, "clipped_share": 0.25}
    last |= metrics or {}
    steps = {"test_acc": 10.0, "train_acc": 1.0}
    rows = [{"epoch": e} | {key: v - steps.get(key, 0.0) * (3 - e) for key, v in last.items()} for e in (1, 2, 3)]
    content = {
        "format": 1,
        "id": cell.id,
        "status": status,
        "config": OmegaConf.to_container(cfg, resolve=True),
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "threads": 1,
        "hardware": {"device": "cpu"},
        "versions": {"torch": "2"},
        "git": None,
        "final": rows[-1],
        "best": rows[-1],
        **changes,
    }
    write_json(runs_dir / cell.id / "record.json", content)
    write_json_lines(runs_dir / cell.id / "history.jsonl", rows)


def leave_records(
    results: Path, name: str, scale: str = "paper", accuracy=lambda cell: 60.0, **changes
) -> pd.DataFrame:
    """What is committed of a drawn artifact: complete where `accuracy` gives a number. Curves rise to the end.

    Returns:
        A row per run of the sweep, with its factors and its status.
    """
    sweep = sweeps.load(name, scale)
    place = sweeps.scale_dir(results, scale)
    facts = {"train_acc": nan, "itop_rate": 0.25, "seconds": 12.5, "started": "2026-01-01", "threads": 1}
    facts |= {"device": "some GPU", "git": "0" * 40, **changes}
    runs, history = [], []
    for cell in sweep.cells:
        final, epochs = accuracy(cell), max(cell.epochs, 1)
        row = {**cell.factors, "id": cell.id, "status": "missing" if final is None else "complete"}
        if final is not None:
            row |= {"trained_epochs": epochs, "test_acc": final, **facts, "train_acc": final + 5}
            rising = final * (1 - 0.9 * 0.5 ** np.arange(epochs)) if epochs > 1 else np.array([final])
            lines = pd.DataFrame({"id": cell.id, "epoch": np.arange(1, epochs + 1), "test_acc": rising})
            history.append(lines.assign(train_acc=rising + 5))
        runs.append(row)
    frame = pd.DataFrame(runs)
    commit(frame[frame["status"] == "complete"].drop(columns=["status", *sweep.factors], errors="ignore"), place)
    if (sweep.artifact.get("figure") or {}).get("kind") == "curves" and history:
        commit(pd.concat(history), place, "train.rows.csv")
    (place / f"{name}.md").touch()
    return frame


def commit(runs: pd.DataFrame, place: Path, file: str = "runs.csv") -> None:
    """Add rows to a table; those of runs that it has already are replaced."""
    path = place / "records" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        before = pd.read_csv(path, dtype={"id": str})
        runs = pd.concat([before[~before["id"].isin(runs["id"])], runs])
    runs.to_csv(path, index=False, float_format="%.6g" if file != "runs.csv" else None)
