"""Everything a run needs to go on as if it had not stopped."""

import io
from pathlib import Path
from typing import Any

import torch

from sparse_train.files import write_whole

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state whole, or leave the previous checkpoint as it is."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state, or None where there is none. Only tensors and plain values are unpickled."""
    if not path.exists():
        return None
    state = torch.load(path, map_location=device, weights_only=True)
    return state if state.get("format") == FORMAT else None
