"""Records -> tidy tables: one row per run, one row per epoch."""

import json
from pathlib import Path

import pandas as pd

from sparse_train.report.sweeps import Sweep

METRICS = ("test_acc", "train_acc", "test_loss", "train_loss", "itop_rate", "realised_sparsity")


def runs(sweep: Sweep, runs_dir: Path) -> pd.DataFrame:
    """One row per cell of the sweep: factors, id, status, and the last epoch's metrics where the run is complete.

    A cell without a record has the status "missing": holes stay visible.
    """
    rows = []
    for cell in sweep.cells:
        record = _record(runs_dir / cell.id)
        row = {**cell.factors, "id": cell.id, "status": record.get("status", "missing")}
        if row["status"] == "complete":
            row |= {f"final_{key}": record["final"][key] for key in METRICS}
            row |= {"best_test_acc": record["best"]["test_acc"], "epochs_run": record["final"]["epoch"]}
            row |= {"scale": record["config"]["scale"], "seconds": record["seconds"], "threads": record["threads"]}
            row |= {"device": record["hardware"]["device"], "git": record["git"]}
        rows.append(row)
    return pd.DataFrame(rows)


def histories(sweep: Sweep, runs_dir: Path) -> pd.DataFrame:
    """One row per epoch of every complete run of the sweep."""
    rows = []
    for cell in sweep.cells:
        if _record(runs_dir / cell.id).get("status") == "complete":
            lines = (runs_dir / cell.id / "history.jsonl").read_text().splitlines()
            rows += [{**cell.factors, "id": cell.id, **json.loads(line)} for line in lines]
    return pd.DataFrame(rows)


def _record(run_dir: Path) -> dict:
    try:
        return json.loads((run_dir / "record.json").read_text())
    except (OSError, ValueError):
        return {}
