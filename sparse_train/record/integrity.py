"""Whether what a finished run left is still what it left: SHA-256 of its files, and its numbers against its history."""

import hashlib
import json
from pathlib import Path

HISTORY, CHECKPOINT = "history.jsonl", "checkpoint.pt"
EXPORTS = MODEL, MASKS = ("model.safetensors", "masks.safetensors")


def digests(directory: Path) -> dict[str, str]:
    """File -> SHA-256, of those that are there."""
    paths = (directory / name for name in (HISTORY, CHECKPOINT, *EXPORTS))
    return {path.name: _sha256(path) for path in paths if path.is_file()}


def damage(directory: Path, record: dict) -> dict[str, str]:
    """File -> what is wrong with it. A missing checkpoint is not damage: a finished run does not need one."""
    found = {HISTORY: numbers(directory, record)}
    for name, sha256 in record.get("files", {}).items():
        if name != HISTORY and (directory / name).is_file():
            found[name] = None if _sha256(directory / name) == sha256 else "is not as the run left it"
        elif name in EXPORTS:
            found[name] = "is gone"
    return {name: words for name, words in found.items() if words}


def numbers(directory: Path, record: dict) -> str | None:
    """What is wrong with the history of a complete run, or with what its record says of it; None if nothing is.

    If the record has a digest, only the history rows that it quotes are parsed, since collecting checks thousands of
    runs. For a record from before digests existed, the history is parsed in full and trusted.
    """
    try:
        return _numbers(directory / HISTORY, record)
    except (AttributeError, LookupError, TypeError, ValueError):
        return "cannot be compared with record.json"


def _numbers(path: Path, record: dict) -> str | None:
    expected, trained = record.get("files", {}).get(HISTORY), "epoch" in record.get("final", {})
    if path.exists() and not path.is_file():
        return "is not a file"  # a pipe would have its reader wait
    try:
        data = path.read_bytes()
    except OSError:
        return "is gone" if expected or trained else None
    if expected and hashlib.sha256(data).hexdigest() != expected:
        return "is not as the run left it"
    lines = data.splitlines()
    said = {part: record[part] for part in ("final", "best") if part in record}
    wanted = {len(lines), *(row.get("epoch") for row in said.values())} if expected else range(len(lines) + 1)
    try:
        rows = {place: json.loads(line) for place, line in enumerate(lines, 1) if place in wanted}
    except ValueError:
        return "is cut or damaged"
    if not (trained or "epoch" in rows.get(len(lines), {})):
        return None  # a measurement, whose result is not a row
    if len(lines) != record["final"]["epoch"]:
        return f"does not hold the {record['final']['epoch']} epochs that record.json says"
    for row in said.values():
        told = rows.get(row["epoch"], {})
        for key in {**told, **row}:
            if row.get(key) != told.get(key):
                return f"has a different {key} from record.json"
    return None


def whole_history(directory: Path, record: dict) -> list[dict] | None:
    """The history, if it is to the byte as the run left it; None where that cannot be known."""
    path, expected = directory / HISTORY, record.get("files", {}).get(HISTORY)
    if expected is None or not path.is_file() or _sha256(path) != expected:
        return None
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(history: list[dict]) -> dict:
    """The final numbers of a history: its last row, the one of the best accuracy, and the time."""
    found = {"final": history[-1], "seconds": round(sum(row.get("seconds", 0.0) for row in history), 3)}
    if "test_acc" in history[-1]:
        found["best"] = max(history, key=lambda row: row["test_acc"])
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
