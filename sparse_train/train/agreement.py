"""What the processes of a run must have in common before the first of them writes anything."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sparse_train.options.targets import foreign_targets
from sparse_train.process.distributed import Ranks
from sparse_train.record.metadata import versions
from sparse_train.source import foreign_code, training_code

OWN = ("data_dir", "download", "workers", "gpus", "logger", "artifact")  # what may differ from machine to machine


def require_same_settings(cfg: DictConfig, ranks: Ranks) -> None:
    """All processes must have been started with the same settings, code and packages.

    Raises:
        ConfigError: on every process, with the first key that differs, and where.
    """
    if ranks.world > 1:
        theirs = {target: foreign_code(target) for target in foreign_targets(OmegaConf.to_container(cfg, resolve=True))}
        ranks.require_same({**settings(cfg), "sparse_train": training_code(), **theirs, **versions()})


def settings(cfg: DictConfig) -> dict[str, str]:
    """Dotted key -> value, those of the top level first: the groups' keys follow from them."""
    container = OmegaConf.to_container(cfg, resolve=True)
    flat = dict(_flat({key: value for key, value in container.items() if key not in OWN}))
    return dict(sorted(flat.items(), key=lambda item: item[0].count(".")))


def _flat(value: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(item)
