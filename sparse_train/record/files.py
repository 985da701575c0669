"""Files are written whole or not at all, and read only where they are files."""

import contextlib
import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_checks: dict[str, Callable[[], None]] = {}  # of directories


def write_whole(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename: a reader sees the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        create(temporary, data)
        check(path)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first reason is the one to mend
            temporary.unlink(missing_ok=True)
        raise


def create(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, flushed to the disk.

    Raises:
        FileExistsError: it is there.
    """
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses, on this machine or another."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def remove_temporaries(directory: Path) -> None:
    """Remove what killed writers left in a directory; to be called while nobody else may write there."""
    for path in directory.glob(".*.tmp"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def checked(directory: Path, may_write: Callable[[], None]) -> Iterator[None]:
    """While entered, every file that is written into the directory asks `may_write` first, just before its rename.

    So no writer can forget to. `may_write` raises if this process must not write there any more.
    """
    key = os.path.abspath(directory)
    _checks[key] = may_write
    try:
        yield
    finally:
        del _checks[key]


def check(path: Path) -> None:
    """Ask whether `path` may be written, or removed; for what does so without `write_whole`."""
    if (may_write := _checks.get(os.path.abspath(path.parent))) is not None:
        may_write()


def read_whole(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: also for a directory, and for a pipe, which would never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        OSError: as `read_whole`.
        ValueError: for a file that is no JSON, however it is broken.
    """
    try:
        return json.loads(read_whole(path))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


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
