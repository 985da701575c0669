"""Records -> tidy tables: one row per run, one row per line of history, both committed under `results/records/`."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from sparse_train.config import run_id
from sparse_train.errors import ConfigError
from sparse_train.files import read_json
from sparse_train.integrity import HISTORY, numbers
from sparse_train.lock import Lock
from sparse_train.report import mixtures
from sparse_train.report.sweeps import Cell, Sweep

FORMAT = 1  # of records, as `sparse_train.record` writes them
COMPLETE, MISSING, INTERRUPTED, DAMAGED = "complete", "missing", "interrupted", "damaged"
# pandas reads numbers to the last bit from 3.1 on; before, only when told to.
EXACTLY = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
TIMES = ("seconds", "images_per_second", "started")  # columns that differ when the same run is made again


@dataclass
class Records:
    """All records under some run directories, read once.

    Attributes:
        found: id -> the run's directory and record: where there are several, a complete one before any other.
        problems: records passed over, each with its reason.
    """

    dirs: Sequence[Path]
    found: dict[str, tuple[Path, dict]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self):
        for path in sorted(p for parent in self.dirs for p in Path(parent).glob("*/record.json")):
            try:
                record = _read(path)
            except ValueError as error:
                self.problems.append(f"{path}: {error}")
                continue
            known = self.found.get(record["id"])
            if known is None or (known[1]["status"] != COMPLETE and record["status"] == COMPLETE):
                self.found[record["id"]] = (path.parent, record)

    def again(self) -> "Records":
        """The same places, read now."""
        return Records(self.dirs)

    def status(self, cell: Cell) -> str:
        return self.found[cell.id][1]["status"] if cell.id in self.found else MISSING

    def complete(self, cell: Cell) -> tuple[Path, dict] | None:
        """The cell's directory and record, if the run is complete.

        Raises:
            ConfigError: for a record whose configuration does not give its id: two configurations under one id.
        """
        if self.status(cell) != COMPLETE:
            return None
        run_dir, record = self.found[cell.id]
        if not record.get("checked"):
            actual = run_id(OmegaConf.create(record["config"]))
            if actual != cell.id:
                raise ConfigError("record", str(run_dir), f"its configuration is that of run {actual}; move it away")
            record["checked"] = True
        return run_dir, record


def _read(path: Path) -> dict:
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from error
    words = [record.get("id"), record.get("status")] if isinstance(record, dict) else [None]
    if not all(isinstance(word, str) for word in words) or "format" not in record:
        raise ValueError("is not a record")
    if record["format"] != FORMAT:
        raise ValueError(f"has format {record['format']}; this version reads {FORMAT}")
    if record["status"] == "running" and Lock(path.with_name("lock")).holder() is None:
        record["status"] = INTERRUPTED  # stopped or killed; the same command goes on with it
    if record["status"] == COMPLETE and (wrong := numbers(path.parent, record)) is not None:
        record |= {"status": DAMAGED, "reason": f"{HISTORY} {wrong}"}  # the same command mends it, or says what can
    return record


def runs(sweep: Sweep, records: Records) -> pd.DataFrame:
    """One row per cell of the sweep: factors, id, status, and the last epoch's metrics where the run is complete.

    A cell without a record has the status "missing": holes stay visible.
    """
    return pd.DataFrame([_run_row(cell, records, sweep.factors) for cell in sweep.cells])


def _run_row(cell: Cell, records: Records, factors: Iterable[str]) -> dict:
    row = {**cell.factors, "id": cell.id, "status": records.status(cell)}
    complete = records.complete(cell)
    if complete is None:
        return row
    record = complete[1]
    final = record["final"]
    row["scale"] = record["config"]["scale"]
    metrics = {"trained_epochs" if key == "epoch" else key: final[key] for key in final if key not in TIMES}
    # A factor of the same name stays what the sweep asks for, if anything: not the last step's learning rate.
    row = {key: value for key, value in metrics.items() if key not in factors} | row
    if "best" in record:
        row |= {"best_test_acc": record["best"]["test_acc"], "images_per_second": final["images_per_second"]}
    return row | {
        "seconds": record["seconds"],
        "started": record["started"],
        "threads": record["threads"],
        "device": _device(record["hardware"]),
        "torch": record["versions"]["torch"],
        "git": record["git"],
        **mixtures.columns(record),
    }


def _device(hardware: dict) -> str:
    return hardware.get("cpu", "cpu") if hardware["device"] == "cpu" else hardware["device"]


def histories(sweep: Sweep, records: Records, columns: Sequence[str]) -> pd.DataFrame:
    """One row per line of history of every complete run of the sweep.

    Args:
        columns: those wanted of the history; none named, all but times.
    """
    rows = []
    for cell in sweep.cells:
        complete = records.complete(cell)
        if complete is None:
            continue
        for line in (complete[0] / "history.jsonl").read_text().splitlines():
            row = json.loads(line)
            kept = columns or [key for key in row if key not in TIMES]
            rows.append({**cell.factors, "id": cell.id, **{key: row[key] for key in kept}})
    return pd.DataFrame(rows)


def load(path: Path, factors: Iterable[str]) -> pd.DataFrame:
    """A collected table, its numbers to the last bit; factors are strings, as in a sweep."""
    return pd.read_csv(path, dtype=dict.fromkeys([*factors, "id", "code"], str), **EXACTLY)


def kept(fresh: pd.DataFrame, path: Path, sweep: Sweep) -> pd.DataFrame:
    """`fresh` runs, with those that are missing taken from an earlier table.

    After a clone the committed rows are there and the runs are not; they count until the run is made again.
    """
    if not path.exists() or fresh.empty:
        return fresh
    before = load(path, sweep.factors)
    complete = {row["id"]: row for row in before[before["status"] == COMPLETE].to_dict("records")}
    rows = [row if row["status"] == COMPLETE else complete.get(row["id"], row) for row in fresh.to_dict("records")]
    return pd.DataFrame(rows)


def kept_rows(fresh: pd.DataFrame, path: Path, sweep: Sweep) -> pd.DataFrame:
    """The same for lines of history."""
    if not path.exists():
        return fresh
    before = load(path, sweep.factors)
    present = set(fresh["id"]) if len(fresh) else set()
    order = {cell.id: place for place, cell in enumerate(sweep.cells)}
    both = pd.concat([fresh, before[before["id"].isin(set(order) - present)]])
    return both.sort_values("id", key=lambda ids: ids.map(order), kind="stable").reset_index(drop=True)
