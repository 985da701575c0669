"""What a configuration may construct, and where: an exact list, so that a shared config cannot run code of its own."""

import inspect
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from sparse_train.errors import ConfigError, closest, require

# Place in the configuration -> what may stand there. Places without a dot are partials: the run gives the rest.
PLACES = {
    place: frozenset(f"sparse_train.{name}" for name in names)
    for place, names in {
        "task": (
            "train.tasks.train",
            "theory.amplification.amplification",
            "theory.balance.balance",
            "theory.bn_gradient.bn_gradient",
            "theory.equilibrium.equilibrium",
            "theory.equivalence.equivalence",
            "theory.equivalence.neuron_steps",
            "theory.gradient_skew.gradient_skew",
            "theory.layer_norm.layer_norm",
            "theory.sign_flips.sign_flips",
            "theory.student_teacher.student_teacher",
        ),
        "dataset": ("data.cifar.cifar100", "data.digits.digits", "data.imagenet.imagenet", "data.mnist.mnist"),
        "model": ("models.imagenet.timm_model", "models.mlp.MLP", "models.resnet_cifar.ResNet20"),
        "topology": ("sparsity.topology.Topology",),
        "dst": ("sparsity.updater.Updater",),
        "dst.growth": ("sparsity.growth.RigL", "sparsity.growth.SET"),
        "optimizer": ("optim.sgd.SparseSGD",),
        "optimizer.precondition": ("optim.equal_angle.EqualAngle", "optim.sparseopt.SparseOpt"),
        "optimizer.renorm": ("optim.renorm.Renorm",),
        "optimizer.mirror": ("optim.ham.HAM",),
        "lr_schedule": ("optim.lr.WarmupCosine",),
        "logger": ("tracking.sinks.Wandb",),
    }.items()
}
TARGETS = frozenset().union(*PLACES.values())
# How many arguments the run gives by position; the configuration says the ones after them.
GIVEN = {"task": 2, "dataset": 1, "topology": 1, "dst": 2, "optimizer": 2, "logger": 2}


def instantiate(cfg: DictConfig, key: str) -> Any:
    """`hydra.utils.instantiate(cfg[key])`, after everything in it has been found in `PLACES`, with keys that it takes.

    Raises:
        ConfigError: for another target, or an argument that a constructor does not take or refuses.
    """
    content = OmegaConf.to_container(cfg[key], resolve=True)
    check_targets(content, key)
    _check_mappings(content, key)
    _check_arguments(content, key)
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


def check_targets(value: Any, where: str) -> None:
    """Refuse every `_target_` below `where` that `PLACES` does not have there, and Hydra's other words of that kind.

    Raises:
        ConfigError: names the place, and what may stand there.
    """
    if isinstance(value, dict):
        if "_target_" in value:
            _check_target(value["_target_"], where)
        for key, item in value.items():
            _check_word(key, item, where)
            check_targets(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_targets(item, f"{where}[{index}]")


def _check_target(target: Any, where: str) -> None:
    known = isinstance(target, str) and target in TARGETS
    require(known, f"{where}._target_", target, "not one of the project's own; see sparse_train/options/targets.py")
    allowed = PLACES.get(where, ())
    here = f"must be one of {', '.join(sorted(allowed))}" if allowed else "nothing is constructed here"
    require(target in allowed, f"{where}._target_", target, here)


def _check_word(key: Any, value: Any, where: str) -> None:
    """`_partial_` is as the project's own options have it; `_args_` and its kind, and logging's `()`, are refused."""
    if key == "_partial_":
        right = where in PLACES and "." not in where
        require(value is right, f"{where}.{key}", value, f"must be {str(right).lower()} here")
    special = key == "()" or (isinstance(key, str) and key.startswith("_") and key.endswith("_"))
    require(not special or key in ("_target_", "_partial_"), f"{where}.{key}", value, "is not allowed")


def _check_mappings(value: Any, where: str) -> None:
    if isinstance(value, dict):
        require("_target_" in value, where, value, "needs a _target_; choose an option of its group")
        for key, item in value.items():
            _check_mappings(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_mappings(item, f"{where}[{index}]")


def _check_arguments(value: Any, where: str) -> None:
    """Refuse a key that its constructor does not take: the constructors' signatures are the groups' schema."""
    if not isinstance(value, dict):
        return
    taken = arguments(value["_target_"], where)
    for key, item in value.items():
        if key not in ("_target_", "_partial_"):
            require(key in taken, f"{where}.{key}", item, f"no such key{closest(key, taken)}")
            _check_arguments(item, f"{where}.{key}")
    if where == "task":  # called at last with all else given; nobody else would say so in time
        for key, parameter in taken.items():
            require(key in value or parameter.default is not parameter.empty, f"{where}.{key}", None, "must be given")


def arguments(target: str, where: str) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor that a configuration may say in its place."""
    parameters = inspect.signature(hydra.utils.get_method(target)).parameters
    return dict(list(parameters.items())[GIVEN.get(where, 0) :])
