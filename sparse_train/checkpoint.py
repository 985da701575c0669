"""Everything a run needs to go on as if it had not stopped."""

import io
from pathlib import Path
from typing import Any

import torch

from sparse_train.errors import ConfigError
from sparse_train.files import write_whole

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state whole, or leave the previous checkpoint as it is."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state, or None where there is none. Only tensors and plain values are unpickled.

    Raises:
        ConfigError: for a file that is damaged, of another version, or not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file raises whatever its first bad byte leads to
        raise _unusable(path, "cannot be read") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _unusable(path, f"is not a checkpoint of format {FORMAT}")
    return state


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError("resume", "auto", f"{path} {why}; start over with resume=fresh")
