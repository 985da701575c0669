"""Files are written whole or not at all, and read only where they are files; `~` in a typed path is the home."""

import contextlib
import errno
import json
import math
import os
import secrets
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO


def expanded(word: str) -> str:
    """`runs_dir=~/x` with the home directory, which only some shells put there."""
    key, _, value = word.partition("=")
    return f"{key}={os.path.expanduser(value)}" if value.startswith("~/") else word


def typed_path(text: str) -> Path:
    """Of an option of the command line, likewise."""
    return Path(text).expanduser()


def write_whole(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename: a reader sees the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # no other process's, also elsewhere
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            _to_disk(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first reason is the one to mend
            temporary.unlink(missing_ok=True)
        raise


def append(path: Path, data: bytes) -> None:
    """Write at the end of a file, flushed to the disk. If the process is killed meanwhile, a part may be there."""
    with open(path, "ab") as file:
        file.write(data)
        _to_disk(file)


def _to_disk(file: BinaryIO) -> None:
    """Flush, as far as the file system can: some network mounts have no fsync and say that it is invalid."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def remove_temporaries(directory: Path) -> None:
    """Remove what killed writers left in a directory; to be called while nobody else may write there."""
    for path in directory.glob(".*.tmp"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


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


def read_json_lines(path: Path) -> list[Any]:
    """A value for each line; a last line without its end, of a writer that was killed, is left out.

    Raises:
        OSError, ValueError: as `read_json`.
    """
    return [json.loads(line) for line in read_whole(path).split(b"\n")[:-1]]


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(_strict(value), indent=2, allow_nan=False) + "\n").encode())


def write_json_lines(path: Path, rows: list[dict]) -> None:
    write_whole(path, b"".join(map(json_line, rows)))


def json_line(row: dict) -> bytes:
    return (json.dumps(_strict(row), allow_nan=False) + "\n").encode()


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _strict(value: Any) -> Any:
    """JSON has no infinity: null stands for a number that is not finite."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
