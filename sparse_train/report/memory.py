"""What takes long to work out from configurations, kept on disk until a file that it may depend on changes."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparse_train.source import PACKAGE

STATES = 4  # so many states of the files are kept, the newest ones


def kept(places: Iterable[Path], key: object, make: Callable[[], Any]) -> Any:
    """What `make` gives, as JSON holds it: from disk if it was made before, and no file has changed since.

    The cache is `$XDG_CACHE_HOME/sparse_train`, by default in `~/.cache`. Where it cannot be written, all is made anew.

    Args:
        places: directories whose YAML files it depends on, besides the code of this package.
        key: what tells it from all else that is kept.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = _directory() / _state(tuple(places)) / f"{name}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        made = make()
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            _forget(path.parent.parent)
        temporary = path.with_name(f".{name}.{os.getpid()}")
        temporary.write_text(json.dumps(made))
        temporary.replace(path)
    except OSError:
        pass  # a cache that cannot be written costs time alone
    return made


def _directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse_train"


@cache
def _state(places: tuple[Path, ...]) -> str:
    """The hash of every file that counts, by its name and content."""
    found = hashlib.sha256(f"{version('hydra-core')} {version('omegaconf')}".encode())
    files = [*PACKAGE.rglob("*.py"), *(path for place in places for path in place.rglob("*.yaml"))]
    for path in sorted(files):
        found.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:24]


def _forget(directory: Path) -> None:
    """Remove what older states of the files left."""
    states = sorted(directory.iterdir(), key=lambda state: state.stat().st_mtime, reverse=True)
    for state in states[STATES:]:
        shutil.rmtree(state, ignore_errors=True)
