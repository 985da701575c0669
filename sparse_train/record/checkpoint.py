"""Everything a run needs to resume with the same result."""

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import torch

from sparse_train.errors import ConfigError, first_line
from sparse_train.process.console import say
from sparse_train.record.files import read_whole, write_whole
from sparse_train.record.integrity import CHECKPOINT

FORMAT = 4
MAGIC = "sparse_train checkpoint"


class Checkpoints:
    """The newest checkpoint of a run, and the one before it.

    A file is one line of text, its format and the SHA-256 of the rest, and then what `torch.save` wrote. It is written
    whole or not at all, and only tensors and plain values are unpickled.

    Args:
        directory: the run's.
    """

    def __init__(self, directory: Path):
        self.newest, self.previous = directory / CHECKPOINT, directory / "checkpoint.previous.pt"
        self.damaged = False  # whether the newest file is, so that the previous one is the one to keep
        self.verified = False  # whether what is saved can be loaded

    def save(self, state: dict[str, Any]) -> None:
        """Write `state`. The newest file becomes the previous one first, so a write that fails leaves that one.

        Raises:
            ConfigError: for what could not be loaded again, such as numbers of numpy in a method's state.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        if not self.verified:
            _require_loads(payload)
            self.verified = True
        if self.newest.exists() and not self.damaged:
            os.replace(self.newest, self.previous)
        write_whole(self.newest, f"{MAGIC} {FORMAT} {hashlib.sha256(payload).hexdigest()}\n".encode() + payload)
        self.damaged = False

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state that is whole, or None where there is no checkpoint.

        Raises:
            ConfigError: where there are checkpoints and none can be used; where one cannot be read, since it may be
                whole and the next one saved would replace it.
        """
        damaged = []
        for path in (self.newest, self.previous):
            try:
                state = read(path, device)
            except FileNotFoundError:
                continue
            except OSError as error:
                right = f"{path} cannot be read ({error.strerror}); make it readable, or move it away"
                raise ConfigError("resume", "auto", right) from error
            except ValueError as error:
                damaged.append(str(error))
                continue
            self.damaged = bool(damaged)
            for problem in damaged:
                say(f"warning: {problem}; falling back to the previous one")
            return state
        if damaged:
            raise ConfigError("resume", "auto", f"{'; '.join(damaged)}; start over with resume=fresh")
        return None

    def exist(self) -> bool:
        """Whether there is one, whole or not."""
        return self.newest.exists() or self.previous.exists()

    def tidy(self) -> None:
        """The run is complete: the newest is enough."""
        self.previous.unlink(missing_ok=True)


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state in one file.

    Raises:
        OSError: for a file that cannot be read.
        ValueError: for a file that is damaged, of another version, or not a checkpoint.
    """
    head, _, payload = read_whole(path).partition(b"\n")
    words = head.decode("ascii", "replace").rsplit(" ", 2)
    if len(words) != 3 or words[0] != MAGIC:
        raise ValueError(f"{path} is not a checkpoint, or its head is damaged")
    if words[1] != str(FORMAT):
        raise ValueError(f"{path} has format {words[1][:20]}; this version reads {FORMAT}")
    if words[2] != hashlib.sha256(payload).hexdigest():
        raise ValueError(f"{path} is damaged: its checksum does not match")
    try:
        return _loaded(payload, device)
    except Exception as error:  # whatever an unpickler may raise
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from error


def _loaded(payload: bytes, device: torch.device | str) -> dict[str, Any]:
    return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)


def _require_loads(payload: bytes) -> None:
    try:
        _loaded(payload, "cpu")
    except Exception as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        right = "cannot be loaded again: states of methods and optimizers must have tensors and plain values"
        raise ConfigError("state_dict", found[1] if found else first_line(error), right) from error


def first_not_finite(weights: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> str | None:
    """The first of the weights and buffers that is not finite; None if all are.

    Args:
        before: for buffers, whether they were finite when the run began: an attention's mask may never be.
    """
    bad = (name for name, value in weights.items() if not value.isfinite().all())
    return next((name for name in bad if before.get(name, True)), None)
