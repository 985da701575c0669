"""Read `.wandb` files: a LevelDB log whose records are wandb's own protobuf messages."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

IDENT = b":W&B"
BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def frames(data: bytes) -> Iterator[bytes]:
    """The records of a log, as far as it was written: blocks of chunks, each with checksum, length and type."""
    if len(data) < 7:
        return
    assert data.startswith(IDENT)
    place, pending = 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:  # the rest of a block that holds no chunk's head
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        chunk = data[place + 7 : place + 7 + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or len(chunk) < length:
            return
        place += 7 + length
        pending = chunk if kind in (FULL, FIRST) else pending + chunk
        if kind in (FULL, LAST):
            yield pending


def messages(path: Path) -> list[Record]:
    return [Record.FromString(frame) for frame in frames(path.read_bytes())]


def items(entries) -> dict:
    """The keys and values of a message's items."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in entries}


def rows(path: Path) -> list[dict]:
    """What was logged, in order; `_step` among it."""
    return [items(m.history.item) for m in messages(path) if m.WhichOneof("record_type") == "history"]


def run(path: Path) -> dict:
    """Id, name, notes, group, tags and config, as the file opens with."""
    [first, *_] = [m.run for m in messages(path) if m.WhichOneof("record_type") == "run"]
    return {
        "id": first.run_id,
        "name": first.display_name,
        "notes": first.notes,
        "group": first.run_group,
        "tags": list(first.tags),
        "project": first.project,
        "config": items(first.config.update),
    }


def summary(path: Path) -> dict:
    """The summary as its updates leave it."""
    found = {}
    for message in messages(path):
        if message.WhichOneof("record_type") == "summary":
            found |= items(message.summary.update)
    return found


def artifacts(path: Path) -> dict[str, set[str]]:
    """Name -> the files in it."""
    asked = [m.request.log_artifact.artifact for m in messages(path) if m.WhichOneof("record_type") == "request"]
    asked += [m.artifact for m in messages(path) if m.WhichOneof("record_type") == "artifact"]
    return {one.name: {entry.path for entry in one.manifest.contents} for one in asked if one.name}


def exit_code(path: Path) -> int | None:
    """None where the run was not ended."""
    codes = [m.exit.exit_code for m in messages(path) if m.WhichOneof("record_type") == "exit"]
    return codes[-1] if codes else None
