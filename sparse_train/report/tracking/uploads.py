"""W&B runs of what was not sent while it trained: offline files, and committed records."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from sparse_train.errors import ConfigError, require
from sparse_train.options.names import called, run_name
from sparse_train.record.files import read_json_lines
from sparse_train.record.integrity import HISTORY
from sparse_train.report import sweeps
from sparse_train.report.results import COMPLETE, INTERRUPTED, Records, Results, scales_of
from sparse_train.report.sweeps import Cell, Sweep
from sparse_train.tracking import wandb_run
from sparse_train.tracking.wandb_run import SYNCED, WHOLE, marked

UNSENT = "{} runs are not whole: they are training or broke off"
TIMEOUT = 20.0  # seconds to wait for the server


def sync(runs_dir: Path) -> tuple[str, bool]:
    """Upload what finished runs left offline, each once; returns a line for the user, and whether all went well.

    Every process of a run sends all its rows, so the newest file holds them, if the run ended with it. `wandb sync`
    marks what it has uploaded. Where W&B has rows of the run from another process, it would add all of them again,
    renumbered; then, and where the run went on without W&B, the missing rows are sent from the record.

    Raises:
        ConfigError: where W&B cannot be reached for the latter.
    """
    records = Records([runs_dir, *(path for path in runs_dir.glob("*") if path.is_dir())])
    for problem in records.problems:
        print(f"passed over: {problem}", file=sys.stderr)
    files, others, unfinished = [], [], 0
    for run, (run_dir, record) in records.found.items():
        begun = sorted((file for file in wandb_run.local_files(run_dir, run) if file.suffix == ".wandb"), key=_begun)
        if not begun:
            continue
        synced, whole = (marked(begun[-1], mark) for mark in (SYNCED, WHOLE))
        if record["status"] in ("running", INTERRUPTED):
            unfinished += not synced
        elif not whole or (not synced and any(marked(file, ".syncstate") for file in begun)):
            others.append((run_dir, record))
        elif not synced:
            files.append(begun[-1])
    for run_dir, record in others:
        _send_record(run_dir, record)
    if files:
        subprocess.run([sys.executable, "-m", "wandb", "sync", *map(str, files)], check=False)
    failed = sum(not marked(file, SYNCED) for file in files)
    sent = len(files) + len(others) - failed
    words = [f"{sent} runs uploaded" if sent else "nothing to upload" if not failed else "nothing uploaded"]
    words += [f"{failed} runs could not be uploaded; see above"] if failed else []
    words += [UNSENT.format(unfinished)] if unfinished else []
    return f"{runs_dir}: {'; '.join(words)}", not failed


def _begun(file: Path) -> tuple[str, int]:
    """By the second in the directory's name; within one, by what was written last."""
    return file.parent.name.removeprefix("offline-"), file.stat().st_mtime_ns


def _send_record(run_dir: Path, record: dict) -> None:
    about = record["config"].get("logger") or {}  # none if the run went on without W&B
    named = {key: about[key] for key in ("project", "entity", "group", "tags") if key in about}
    _send(wandb_run.options(record["id"], record, **named), read_json_lines(run_dir / HISTORY), record, run_dir)


def backfill(names: Sequence[str], results_dir: Path, project: str, entity: str | None) -> Iterator[str]:
    """Make a W&B run of every committed training run, once; gives a line for each.

    A run that W&B has, from here or from its training, gets what it lacks. A run of several artifacts joins the
    group of the first. If none of them commits its epochs, only its last one is sent.

    Raises:
        ConfigError: for records that cannot be read, and where W&B cannot be reached: at once where there is no key.
    """
    _authenticate(project)
    found: dict[str, tuple[Sweep, Cell, dict, pd.DataFrame]] = {}
    for name in names:
        for scale in scales_of(name, results_dir):
            results = Results(results_dir, scale)
            sweep = results.shown(name)
            history, runs = results.rows(sweep), {row["id"]: row for row in results.runs(sweep).to_dict("records")}
            for cell in sweep.cells:
                if cell.epochs and runs[cell.id]["status"] == COMPLETE:
                    rows = history[history["id"] == cell.id] if len(history) else history
                    found.setdefault(cell.id, (sweep, cell, runs[cell.id], rows))
    directory = results_dir / ".wandb"
    for place, (sweep, cell, run, rows) in enumerate(found.values(), start=1):
        record = committed_record(sweep, cell, run)
        described = wandb_run.options(cell.id, record, project, entity, None, ["from committed records"])
        new = _send(described, history_rows(rows, record["final"]), record, directory)
        yield f"{place}/{len(found)} {cell.id} {record['name']}: {new} rows sent"


def committed_record(sweep: Sweep, cell: Cell, run: dict) -> dict[str, Any]:
    """What is committed of a run (a row of `Results.runs`), as its record would have it."""
    known = {key: value for key, value in run.items() if not pd.isna(value)}
    cfg = sweeps.composed(sweep.name, cell)
    choices = called(cfg.hydra.runtime.choices)
    kept = [key for key in cfg if key not in ("hydra", "artifact", "logger")]
    metrics = {key: value for key, value in known.items() if key in METRICS}
    return {
        "id": cell.id,
        "name": run_name(cfg, choices),
        "config": OmegaConf.to_container(OmegaConf.masked_copy(cfg, kept), resolve=True),
        "choices": choices,
        "sweep": sweep.name,
        "git": known.get("git"),
        "threads": known.get("threads"),
        "hardware": {"device": known.get("device")},
        "versions": {"torch": known.get("torch")},
        "status": known["status"],
        "final": {"epoch": int(known["trained_epochs"]), **metrics},
        "best": {"test_acc": known["best_test_acc"]} if "best_test_acc" in known else {},
    }


METRICS = ("train_loss", "train_acc", "test_loss", "test_acc", "itop_rate", "realised_sparsity", "grad_norm")


def history_rows(committed_rows: pd.DataFrame, final: dict) -> list[dict]:
    """The epochs that are committed; the last one with all its metrics."""
    columns = [key for key in ("epoch", *METRICS) if key in committed_rows]
    rows = committed_rows[columns].to_dict("records") if len(committed_rows) else [{"epoch": final["epoch"]}]
    return [*rows[:-1], rows[-1] | final]


def _authenticate(project: str) -> None:
    """Before anything that takes time."""
    mode = os.environ.get("WANDB_MODE", "online")
    require(mode == "online", "WANDB_MODE", mode, "committed records are sent online alone; unset it")
    try:
        wandb_run.authenticate()
    except Exception as error:  # no package, no key
        raise ConfigError("wandb", project, wandb_run.words(error)) from error


def _send(described: dict, rows: list[dict], record: dict, directory: Path) -> int:
    """How many rows W&B did not have."""
    try:
        run = wandb_run.begin(described, directory, "online", TIMEOUT)
        for row in rows:
            wandb_run.send(run, row)
        new = sum(row["epoch"] >= run.starting_step for row in rows)
        wandb_run.end(run, record)
    except Exception as error:  # whatever wandb raises
        raise ConfigError("wandb", described["id"], wandb_run.words(error)) from error
    return new
