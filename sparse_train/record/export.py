"""A trained network as files that others can read, and back: `model.safetensors` and `masks.safetensors`."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from sparse_train.errors import ConfigError, require
from sparse_train.options.composition import leaves
from sparse_train.options.targets import check_targets, make
from sparse_train.pinned import tensors
from sparse_train.record.files import read_json, write_whole
from sparse_train.record.integrity import MASKS, MODEL
from sparse_train.source import foreign_code

if TYPE_CHECKING:
    from sparse_train.sparsity.topology import Topology


def export(model: nn.Module, topology: "Topology", directory: Path) -> None:
    """Write the weights (names and shapes are the model's own: timm's for a ResNet50) and the masks, as bools.

    The model may be an average of weights over steps; those off the masks become 0 in it.
    """
    topology.apply_to(model)
    for name, state in ((MODEL, model.state_dict()), (MASKS, topology.masks)):
        # A copy of each: tied weights share their storage, and the file's format takes none that do.
        own = {key: t.detach().cpu().clone(memory_format=torch.contiguous_format) for key, t in state.items()}
        write_whole(directory / name, safetensors.torch.save(own))


def load(run_dir: str | Path) -> nn.Module:
    """The trained model of a complete run, in eval mode on the CPU; its masked weights are 0.

    Warns of a model of somebody's own package that has changed since the run.

    Raises:
        ConfigError: for a directory without a complete run, with damaged files, or with a record that asks for anything
            but a model of ours.
    """
    directory = Path(run_dir)
    try:
        record = read_json(directory / "record.json")
        complete, config, sizes = record["status"] == "complete", record["config"]["model"], record["model_arguments"]
        code = {target: about["code"] for target, about in record.get("foreign", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError("run_dir", str(directory), "holds no readable record.json") from error
    if not complete:
        raise ConfigError("run_dir", str(directory), f"holds a run that is {record['status']}, not complete")
    with torch.device("meta"):  # shapes alone: the file's tensors become the weights, so it bounds what is allocated
        model = _described(config, sizes)
    try:
        model.load_state_dict(_tensors(directory / MODEL), assign=True)
        if any(buffer.is_meta for buffer in model.buffers()):  # no file holds it: its constructor alone fills it
            model = _described(config, sizes)
            model.load_state_dict(_tensors(directory / MODEL))
    except RuntimeError as error:
        raise ConfigError("run_dir", str(directory), f"{MODEL} is not of the model in record.json") from error
    target = config["_target_"]
    if target in code and code[target] != foreign_code(target):
        warnings.warn(f"{target} has changed since the run in {directory}: its model may be another", stacklevel=2)
    return model.eval()


def _described(config: Any, sizes: Any) -> nn.Module:
    """The model that a record describes, which may be a stranger's: what it may say is what `targets.py` lists."""
    require(isinstance(config, dict), "model", config, "must be a mapping")
    for key, value in leaves(config, "model"):
        require("${" not in str(value), key, value, "must be a value: a record refers to nothing")
    check_targets(config, "model")
    right = "must be num_classes and in_channels, whole numbers from 1 to 1,000,000"
    plain = isinstance(sizes, dict) and set(sizes) == {"num_classes", "in_channels"}
    plain = plain and all(type(size) is int and 1 <= size <= 1_000_000 for size in sizes.values())
    require(plain, "model_arguments", sizes, right)
    plain = {key: value for key, value in config.items() if key != "pretrained"}  # the file has its weights
    if config.get("pretrained") is True and isinstance(config.get("name"), str):
        plain["name"] = config["name"].partition(".")[0]  # a tag says which weights of timm's
    return make(OmegaConf.create({"model": plain}), "model", **sizes)


def load_masks(run_dir: str | Path) -> dict[str, Tensor]:
    """Parameter name -> BoolTensor, True where the weight exists.

    Raises:
        ConfigError: `masks.safetensors` is missing or cannot be read.
    """
    return _tensors(Path(run_dir) / MASKS)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return tensors(path)
    except (OSError, ValueError) as error:
        raise ConfigError("run_dir", str(path.parent), f"{path.name} cannot be read") from error
