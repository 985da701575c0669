"""How people call a run: by the options that it takes."""

from collections.abc import Mapping

from omegaconf import DictConfig

PRESETS = ("sgd", "sparseopt", "ham", "sparseopt_ham", "equal_angle")  # of the optimizer; each names its slots
SLOTS = ("precondition", "mirror")


def called(taken: Mapping[str, str]) -> dict[str, str]:
    """Group -> option, of Hydra's choices. A preset is called by its slots, which may have been replaced."""
    options = {group: option for group, option in taken.items() if not group.startswith("hydra/")}
    if options.get("optimizer") in PRESETS:
        options["optimizer"] = "_".join(_slots(options)) or "sgd"
    return options


def run_name(cfg: DictConfig, options: Mapping[str, str]) -> str:
    """Like `digits resnet20 rigl sparseopt 0.9 seed 0`, wherever it is launched; `options` are those of `called`."""
    parts = [options.get(group, "") for group in ("dataset", "model", "dst", "optimizer")]
    parts[1] = cfg.model.name if parts[1] == "timm" else parts[1]
    parts += [slot for slot in _slots(options) if slot not in parts[-1]]
    parts.append("renormalized" if cfg.optimizer.renorm is not None else "")
    parts.append("own densities" if cfg.topology.get("sparsity", 0) is None else f"{cfg.sparsity:g}")
    parts.append("pretrained" if from_trained(cfg) else "")
    return " ".join([*filter(None, parts), f"seed {cfg.seed}"])


def from_trained(cfg: DictConfig) -> bool:
    """Whether the run starts from a trained model."""
    return bool(cfg.model.get("weights") or cfg.model.get("pretrained"))


def _slots(options: Mapping[str, str]) -> list[str]:
    """The optimizer's filled slots."""
    taken = [options.get(f"optimizer/{slot}", "none") for slot in SLOTS]
    return [option for option in taken if option != "none"]
