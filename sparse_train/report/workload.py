"""What an epoch of a run is: runs whose epochs are the same take the same time on the same hardware."""

import json
from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

KEYS = ("model", "batch_size", "amp", "channels_last", "compile")


def workload(config: DictConfig | Mapping) -> str:
    """Data set, image size, model, and how its steps are computed, as a word to compare by."""
    cfg = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    plain = {key: _plain(cfg[key]) for key in KEYS}
    return json.dumps({"dataset": _name(cfg.dataset), "image_size": cfg.dataset.get("image_size"), **plain})


def _plain(value: object) -> object:
    if not isinstance(value, DictConfig):
        return value
    options = OmegaConf.to_container(value, resolve=True)
    return {**{key: options[key] for key in sorted(options)}, "_target_": _name(value)}


def _name(group: DictConfig) -> str:
    """Without the module: code may move."""
    return group._target_.rsplit(".", 1)[-1]
