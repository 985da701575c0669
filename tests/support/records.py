"""Made-up records: what runs would have left, with known numbers."""

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
    """The committed tables of one artifact: complete where `accuracy` gives a number; curves rise to the end."""
    sweep = sweeps.load(name, scale)
    place = results / ("" if scale == "paper" else scale) / "records"
    place.mkdir(parents=True, exist_ok=True)
    runs, history = [], []
    for cell in sweep.cells:
        final, epochs = accuracy(cell), max(cell.epochs, 1)
        row = {**cell.factors, "id": cell.id, "status": "missing" if final is None else "complete"}
        if final is not None:
            row |= {
                "scale": scale,
                "trained_epochs": epochs,
                "test_acc": final,
                "train_acc": final + 5,
                "itop_rate": 0.25,
            }
            row |= {
                "seconds": 12.5,
                "started": "2026-01-01",
                "threads": 1,
                "device": "some GPU",
                "git": "0" * 40,
                **changes,
            }
            rising = final * (1 - 0.9 * 0.5 ** np.arange(epochs)) if epochs > 1 else np.array([final])
            history.append(
                pd.DataFrame(
                    {**cell.factors, "id": cell.id, "epoch": np.arange(1, epochs + 1), "test_acc": rising}
                ).assign(train_acc=lambda lines: lines["test_acc"] + 5)
            )
        runs.append(row)
    frame = pd.DataFrame(runs)
    frame.to_csv(place / f"{name}.csv", index=False)
    if (sweep.artifact.get("figure") or {}).get("kind") == "curves" and history:
        pd.concat(history).to_csv(place / f"{name}.rows.csv", index=False, float_format="%.6g")
    return frame
