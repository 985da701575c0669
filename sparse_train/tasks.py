"""What one run can do: `task=...` names a function here that takes the configuration and the record."""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sparse_train import loop
from sparse_train.build import build
from sparse_train.record import Record
from sparse_train.targets import make


def train(cfg: DictConfig, record: Record) -> None:
    """Train one sparse network."""
    run = build(cfg)
    run.facts |= {"name": name(cfg), "choices": choices()}
    sinks = [] if cfg.logger is None else [make(cfg, "logger", record, run.facts)]
    try:
        loop.train(run, record, sinks)
    except (MemoryError, OSError, RuntimeError) as error:
        if record.status == "running":
            record.finish("failed", reason=f"{type(error).__name__}: {error}".splitlines()[0])
        raise


def name(cfg: DictConfig) -> str:
    """Readable, and the same wherever the run is launched: digits resnet20 rigl sparseopt 0.9 seed 0."""
    taken = choices()
    parts = [taken.get(group, "") for group in ("dataset", "model", "dst", "optimizer")]
    renorm = "renormalized" if cfg.optimizer.renorm is not None else ""
    return " ".join([*filter(None, [*parts, renorm]), f"{cfg.sparsity:g}", f"seed {cfg.seed}"])


def choices() -> dict[str, str]:
    """The option taken of each group, by which people call a run."""
    if not HydraConfig.initialized():
        return {}
    taken = HydraConfig.get().runtime.choices
    return {group: option for group, option in taken.items() if not group.startswith("hydra/")}
