"""What every record says of its run besides the results."""

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sparse_train.environment import describe
from sparse_train.interpolations import PATHS


def facts(cfg: DictConfig, name: str, device: torch.device) -> dict:
    """Name, configuration, options taken, the sweep, versions, git revision, hardware and threads."""
    config = {key: value for key, value in OmegaConf.to_container(cfg, resolve=True).items() if key != "artifact"}
    written = OmegaConf.to_container(cfg, resolve=False)
    config |= {key: written[key] for key in PATHS if key in written}  # what the environment says stays there
    return {"name": name, "config": config, "choices": choices(), "sweep": sweep(), **describe(device)}


def choices() -> dict[str, str]:
    """The option taken of each group, by which people call a run."""
    if not HydraConfig.initialized():
        return {}
    taken = HydraConfig.get().runtime.choices
    return {group: option for group, option in taken.items() if not group.startswith("hydra/")}


def sweep() -> str | None:
    """The sweep file that the run was launched by; None for a run of its own."""
    name = HydraConfig.get().job.config_name if HydraConfig.initialized() else None
    return None if name == "config" else name
