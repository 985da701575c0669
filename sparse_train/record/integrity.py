"""Whether what a finished run left is as it left it: the SHA-256 of its files, and its results against its history."""

import hashlib
import json
from pathlib import Path

from sparse_train.pinned import MASKS, MODEL
from sparse_train.record.files import read_whole

HISTORY, CHECKPOINT = "history.jsonl", "checkpoint.pt"
EXPORTS = (MODEL, MASKS)
UNREADABLE = "cannot be read"
FINISHED = ("complete", "diverged")  # a run's status where nothing is left to do


def digests(directory: Path) -> dict[str, str]:
    """File -> SHA-256, of the history and the trained network; a checkpoint has its own."""
    paths = (directory / name for name in (HISTORY, *EXPORTS))
    return {path.name: _sha256(path) for path in paths if path.is_file()}


def changed(directory: Path, record: dict) -> list[str]:
    """What is wrong with the files of a finished run, in words. One that was deleted to save space is not wrong."""
    said = record.get("files", {})
    others = [name for name in EXPORTS if name in said and (directory / name).is_file()]
    found = {HISTORY: numbers(directory, record)}
    for name in others:
        try:
            same = _sha256(directory / name) == said[name]
            found[name] = None if same else "is not as the run left it"
        except OSError as error:
            found[name] = f"{UNREADABLE} ({error.strerror})"
    return [f"{name} {wrong}" for name, wrong in found.items() if wrong]


def deleted(directory: Path, record: dict) -> list[str]:
    """The files of the trained network that are not there any more."""
    return [name for name in EXPORTS if name in record.get("files", {}) and not (directory / name).exists()]


def numbers(directory: Path, record: dict) -> str | None:
    """What is wrong with the history of a complete run, or with what its record says of it; None if nothing is.

    Only the rows that the record quotes are parsed: collecting checks thousands of runs.
    """
    expected, final = record.get("files", {}).get(HISTORY), record.get("final")
    if not isinstance(final, dict):
        return "cannot be compared with record.json, which has no final results"
    if not (expected or "epoch" in final):
        return None  # a measurement without rows
    try:
        data = read_whole(directory / HISTORY)
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"{UNREADABLE} ({error.strerror})"
    if expected and hashlib.sha256(data).hexdigest() != expected:
        return "is not as the run left it"
    lines = data.splitlines()
    try:
        best = record.get("best", final)
        quoted = [(len(lines), final), (best["epoch"], best)] if "epoch" in final else []  # else a measurement's
        same = all(json.loads(lines[place - 1]) == row for place, row in quoted)
    except (LookupError, TypeError, ValueError):
        same = False
    return None if same else "does not hold the results that record.json has"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
