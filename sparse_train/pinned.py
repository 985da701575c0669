"""A file that decides a result, named by its path and its content: `PATH@DIGEST`, the first 12 digits of its SHA-256.

A user types the path; the digest enters the run's id, so another file at the same path makes another run, and the
record names both. A digest that is typed too is verified.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sparse_train.errors import ConfigError, require

MODEL, MASKS = "model.safetensors", "masks.safetensors"
KEYS = {"model.weights": MODEL, "topology.initial": MASKS}  # and the file of a run's directory that each means


def is_path(key: str, value: Any) -> bool:
    """Whether it names a file or a directory, and not an option such as "random", which has neither slash nor dot."""
    return isinstance(value, str) and (key == "model.weights" or "/" in value or "." in value)


def paths(config: Mapping) -> Iterator[tuple[str, Any, str]]:
    """Each key of `KEYS` that names a file there, with the section that holds it and its name in the section."""
    for key in KEYS:
        section, name = key.split(".")
        part = config.get(section)
        if isinstance(part, Mapping) and is_path(key, part.get(name)):
            yield key, part, name


def file(key: str, value: str) -> Path:
    """The file that is meant: itself, or that of a run's directory.

    Raises:
        ConfigError: there is none, or it has another content than the digest.
    """
    path, digest = split(value)
    found = Path(path).expanduser()
    found = found / KEYS[key] if found.is_dir() else found
    require(found.is_file(), key, path, f"must be a file, or the directory of a complete run, which has {KEYS[key]}")
    if digest:
        own = _digest(found)
        require(own == digest, key, path, f"has changed: its SHA-256 begins with {own}, not {digest}")
    return found


def split(value: str) -> tuple[str, str]:
    """Path and digest, which is empty where there is none."""
    path, at, digest = value.rpartition("@")
    return (path, digest) if at and re.fullmatch("[0-9a-f]{12}", digest) else (value, "")


def pinned(key: str, value: str) -> str:
    """`PATH@DIGEST`.

    Raises:
        ConfigError: as `file`, of a path without a digest.
    """
    return value if split(value)[1] else f"{value}@{_digest(file(key, value))}"


def tensors(path: Path) -> dict[str, Any]:
    """What a safetensors file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    import safetensors.torch  # brings torch along, which a reader of records does without

    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


def _digest(path: Path) -> str:
    try:
        about = path.stat()
        return _hashed(path, about.st_mtime_ns, about.st_size)
    except OSError as error:
        raise ConfigError("file", path, f"cannot be read ({error.strerror})") from error


@cache
def _hashed(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
