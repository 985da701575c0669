"""Records -> tidy tables: one row per run, one row per line of history."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparse_train.config import run_id
from sparse_train.errors import ConfigError
from sparse_train.record.files import read_json
from sparse_train.record.integrity import HISTORY, numbers
from sparse_train.record.lock import Lock
from sparse_train.report.records import mixtures
from sparse_train.report.sweeps import Cell, Sweep

FORMAT = 1  # of records, as `sparse_train.record.record` writes them
COMPLETE, MISSING, INTERRUPTED, DAMAGED = "complete", "missing", "interrupted", "damaged"
UNREADABLE = "unreadable"
TIMES = ("seconds", "images_per_second", "data_wait", "started")  # columns that differ when the same run is made again
MALFORMED = (KeyError, TypeError, AttributeError, ValueError, RecursionError, OmegaConfBaseException)


@dataclass
class Records:
    """All records under some run directories, read once.

    Attributes:
        found: id -> the run's directory and record: where there are several, a complete one before any other.
        problems: records passed over, each with its reason.
        unreadable: the ids of their directories.
    """

    dirs: Sequence[Path]
    found: dict[str, tuple[Path, dict]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)

    def __post_init__(self):
        for path in sorted(p for parent in self.dirs for p in Path(parent).glob("*/record.json")):
            try:
                record = read(path)
            except ValueError as error:
                self.problems.append(f"{path}: {error}")
                self.unreadable.add(path.parent.name)
                continue
            known = self.found.get(record["id"])
            if known is None or (known[1]["status"] != COMPLETE and record["status"] == COMPLETE):
                self.found[record["id"]] = (path.parent, record)

    def again(self) -> "Records":
        """The same places, read now."""
        return Records(self.dirs)

    def status(self, cell: Cell) -> str:
        if cell.id in self.found:
            return self.found[cell.id][1]["status"]
        return UNREADABLE if cell.id in self.unreadable else MISSING

    def complete(self, cell: Cell) -> tuple[Path, dict] | None:
        """The cell's directory and record, if the run is complete.

        Raises:
            ConfigError: for a record whose configuration does not give its id: two configurations under one id.
        """
        if self.status(cell) != COMPLETE:
            return None
        run_dir, record = self.found[cell.id]
        if not record.get("checked"):
            try:
                actual = run_id(OmegaConf.create(record["config"]), record.get("foreign"))
            except MALFORMED as error:
                passed_over(run_dir / "record.json", f"its configuration cannot be read ({type(error).__name__})")
                del self.found[cell.id]
                self.unreadable.add(cell.id)
                return None
            if actual != cell.id:
                raise ConfigError("record", str(run_dir), f"its configuration is that of run {actual}; move it away")
            record["checked"] = True
        return run_dir, record


@cache
def passed_over(path: Path, why: str) -> None:
    """Say once which file does not count, on a line of its own; the others do."""
    print(f"passed over: {path}: {why}", file=sys.stderr, flush=True)


def read(path: Path) -> dict:
    """A run's record; raises ValueError for one that cannot be used, with the reason."""
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from error
    if not isinstance(record, dict) or not {"id", "status", "format"} <= set(record):
        raise ValueError("is not a record")
    if record["format"] != FORMAT:
        raise ValueError(f"has format {record['format']}; this version reads {FORMAT}")
    if not isinstance(record["id"], str) or not isinstance(record["status"], str):
        raise ValueError("is not a record: its id and status must be words")
    if record["status"] == COMPLETE:
        try:
            _row(record)
        except MALFORMED as error:
            raise ValueError(f"is not a whole record ({type(error).__name__}: {error})") from error
    lock = path.with_name("lock")
    if record["status"] == "running" and (lock.is_fifo() or Lock(lock).holder() is None):
        record["status"] = INTERRUPTED  # stopped or killed; the same command resumes it
    if record["status"] == COMPLETE and (wrong := numbers(path.parent, record)) is not None:
        passed_over(path.with_name(HISTORY), wrong)
        record |= {"status": DAMAGED, "reason": f"{HISTORY} {wrong}"}  # the same command mends it, or says what can
    return record


def runs(sweep: Sweep, records: Records) -> pd.DataFrame:
    """One row per cell of the sweep: factors, id, status, and the last epoch's metrics where the run is complete.

    A cell without a record has the status "missing", and with one that is no record "unreadable": holes stay visible.
    """
    parts = [part for part in sweep.artifact.values() if isinstance(part, dict)]
    asked = {value for part in parts for value in part.get("values", ())}
    return pd.DataFrame([_run_row(cell, records, sweep.factors, asked) for cell in sweep.cells])


def _run_row(cell: Cell, records: Records, factors: Iterable[str], asked: set[str]) -> dict:
    """Of what the history says by group, such as `step_ratio/affine`, only what the artifact asks for."""
    complete = records.complete(cell)
    row = {**cell.factors, "id": cell.id, "status": records.status(cell)}
    if complete is None:
        return row
    metrics, facts = _row(complete[1])
    # A factor of the same name stays what the sweep asks for, if anything: not the last step's learning rate.
    metrics = {key: value for key, value in metrics.items() if "/" not in key or key in asked}
    return {key: value for key, value in metrics.items() if key not in factors} | row | facts


def _row(record: dict) -> tuple[dict, dict]:
    """The last epoch's metrics of a complete run, and what else its row says; raises one of MALFORMED."""
    final = {key: _number(value) for key, value in record["final"].items()}
    metrics = {"trained_epochs" if key == "epoch" else key: final[key] for key in final if key not in TIMES}
    if shares := record.get("flops"):
        metrics |= {f"flops/{of}": _number(shares[f"{of}_ratio"]) for of in ("training", "inference")}
    facts = {"scale": record["config"]["scale"]}
    if "best" in record:
        best = _number(record["best"]["test_acc"])
        facts |= {"best_test_acc": best, "images_per_second": final["images_per_second"]}
    return metrics, facts | {
        "seconds": _number(record["seconds"]),
        "started": str(record["started"]),
        "threads": record["threads"],
        "device": _device(record["hardware"]),
        "torch": record["versions"]["torch"],
        "git": record["git"],
        **mixtures.columns(record),
    }


def _number(value: object) -> object:
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


def _device(hardware: dict) -> str:
    return hardware.get("cpu", "cpu") if hardware["device"] == "cpu" else hardware["device"]


def histories(sweep: Sweep, records: Records, columns: Sequence[str]) -> pd.DataFrame:
    """One row per line of history of every complete run of the sweep; a history that cannot be read is named.

    Args:
        columns: those wanted of the history; none named, all but times.
    """
    rows = []
    for cell in sweep.cells:
        complete = records.complete(cell)
        if complete is None:
            continue
        path = complete[0] / HISTORY
        try:
            rows += [{**cell.factors, "id": cell.id, **line} for line in lines(path, columns)]
        except (OSError, *MALFORMED) as error:
            passed_over(path, f"cannot be read ({type(error).__name__})")
    return pd.DataFrame(rows)


def lines(path: Path, columns: Sequence[str]) -> list[dict]:
    """A run's history; raises OSError, or one of MALFORMED."""
    if not path.is_file():
        raise ValueError("is not a file")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: row[key] for key in columns or [key for key in row if key not in TIMES]} for row in rows]
