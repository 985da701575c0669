"""A model's weights from a file: of a run, of a checkpoint of somebody's own trainer, of timm."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_train.errors import ConfigError, require
from sparse_train.pinned import file, tensors
from sparse_train.sparsity.layers import last_weight

WITHIN = ("state_dict", "model", "model_state_dict", "state_dict_ema")  # where trainers put a model's state
WRAPPERS = ("module.", "_orig_mod.", "model.")


def load_weights(model: nn.Module, path: str) -> list[str]:
    """Fill the model from a file; a classifier of another number of classes keeps its own weights.

    Args:
        path: of a `.safetensors` file, of a state dict that `torch.save` wrote, alone or in a trainer's checkpoint, or
            of a run's directory, which has `model.safetensors`. The prefixes of wrappers are left out.

    Returns:
        The names of the classifier's parameters that were not loaded, if it has other classes.

    Raises:
        ConfigError: for a file that cannot be read, and for one of another model, with the first names that differ.
    """
    found, own = _state(file("model.weights", path)), model.state_dict()
    while found and found.keys().isdisjoint(own):
        prefix = next((one for one in WRAPPERS if all(name.startswith(one) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    last = last_weight(model).removesuffix("weight")
    classifier = [f"{last}{part}" for part in ("weight", "bias") if f"{last}{part}" in own]
    other = any(name in found and found[name].shape != own[name].shape for name in classifier)
    new = classifier if other else []
    known = {name: tensor for name, tensor in found.items() if name not in new}
    missing = [name for name in own if name not in found and not name.endswith("num_batches_tracked")]
    for names, right in (
        ([name for name in known if name not in own], "has {} too, which this model has not"),
        ([name for name in missing if name not in new], "lacks {}"),
        ([name for name in known if name in own and known[name].shape != own[name].shape], "has another shape of {}"),
    ):
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        require(not names, "model.weights", path, f"is not of this {type(model).__name__}: it {right.format(listed)}")
    model.load_state_dict(known, strict=False)
    return new


def _state(path: Path) -> dict[str, Tensor]:
    right = "must be a .safetensors file or a state dict of tensors that torch.save wrote"
    try:
        if path.suffix == ".safetensors":
            return tensors(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip, safetensors and torch
        right += "; model.safetensors beside it is one" if path.name == "checkpoint.pt" else ""
        raise ConfigError("model.weights", path, right) from error
    for key in WITHIN:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    plain = isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
    require(plain and bool(content), "model.weights", path, right)
    return content
