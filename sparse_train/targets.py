"""What a configuration may name: an exact list, so that a shared config cannot run code of its own."""

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from sparse_train.errors import ConfigError, require

TARGETS = frozenset(
    f"sparse_train.{name}"
    for name in (
        "data.cifar.cifar100",
        "data.digits.digits",
        "data.imagenet.imagenet",
        "data.mnist.mnist",
        "models.imagenet.timm_model",
        "models.mlp.MLP",
        "models.resnet_cifar.ResNet20",
        "optim.ham.HAM",
        "optim.lr.WarmupCosine",
        "optim.renorm.Renorm",
        "optim.sgd.SparseSGD",
        "optim.sparseopt.SparseOpt",
        "sinks.Wandb",
        "sparsity.growth.RigL",
        "sparsity.growth.SET",
        "sparsity.topology.Topology",
        "sparsity.updater.Updater",
        "tasks.train",
        "theory.balance.balance",
        "theory.bn_gradient.bn_gradient",
        "theory.amplification.amplification",
        "theory.equivalence.equivalence",
        "theory.equivalence.neuron_steps",
        "theory.gradient_skew.gradient_skew",
        "theory.layer_norm.layer_norm",
        "theory.sign_flips.sign_flips",
        "theory.student_teacher.student_teacher",
    )
)


def instantiate(cfg: DictConfig, key: str) -> Any:
    """`hydra.utils.instantiate(cfg[key])`, after every `_target_` in it has been found in `TARGETS`.

    Raises:
        ConfigError: for another target, or an argument that a constructor does not take or refuses.
    """
    _check(OmegaConf.to_container(cfg[key], resolve=True), key)
    try:
        return hydra.utils.instantiate(cfg[key])
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise prefixed(cfg, key, cause) from None
        raise ConfigError(key, cfg[key].get("_target_"), str(cause or error).splitlines()[0]) from None


def make(cfg: DictConfig, key: str, *args: Any, **kwargs: Any) -> Any:
    """Call what `cfg[key]` configures, a partial, with the arguments that only the run knows.

    Raises:
        ConfigError: as `instantiate`; the error names the key as it is written on the command line.
    """
    require(cfg[key] is not None, key, cfg[key], "choose one of the options of its group")
    for name in kwargs:
        require(name not in cfg[key], f"{key}.{name}", cfg[key].get(name), "is set by the run itself; leave it out")
    partial = instantiate(cfg, key)
    try:
        return partial(*args, **kwargs)
    except ConfigError as error:
        raise prefixed(cfg, key, error) from None
    except (TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError) as error:
        raise ConfigError(key, cfg[key].get("_target_"), str(error)) from error


def prefixed(cfg: DictConfig, section: str, error: ConfigError) -> ConfigError:
    """The error with its key as the configuration has it: `every` of section `dst` is `dst.every`."""
    name = error.key.split(".")[-1]
    if name in cfg or not _has(cfg[section], name):
        return error
    return ConfigError(f"{section}.{error.key}", error.value, error.right)


def _has(section: Any, name: str) -> bool:
    return isinstance(section, DictConfig) and name in section


def _check(value: Any, where: str) -> None:
    if isinstance(value, dict):
        target = value.get("_target_")
        require(target is not None, where, value, "needs a _target_; choose an option of its group")
        known = "not one of the project's own; see sparse_train/targets.py"
        require(target in TARGETS, f"{where}._target_", target, known)
        for key, item in value.items():
            _check(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]")
