"""Files are written whole or not at all."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename: a reader sees the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(_strict(value), indent=2, allow_nan=False) + "\n").encode())


def write_json_lines(path: Path, rows: list[dict]) -> None:
    write_whole(path, "".join(json.dumps(_strict(row), allow_nan=False) + "\n" for row in rows).encode())


def _strict(value: Any) -> Any:
    """JSON has no infinity: null stands for a number that is not finite."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
