"""What a configuration may construct, and where: a shared one cannot run code of its own.

A class of ours is trusted by the folder that it lies in, so that a new one needs no entry here; a class from elsewhere
by who runs the program (`trust`). Either must take what the run gives in its place.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from sparse_train.errors import ConfigError, ForeignError, closest, first_line, require
from sparse_train.options.trust import require_known, resolved
from sparse_train.source import OURS


class Place(NamedTuple):
    """Where something may be constructed.

    Attributes:
        homes: where in the package its classes lie.
        given: the arguments that the run gives by position.
        named: those that it gives by name. The configuration says all others.
    """

    homes: tuple[str, ...]
    given: tuple[str, ...] = ()
    named: tuple[str, ...] = ()


# Those without a dot are partials: the run gives the rest.
PLACES = {
    "task": Place(("train.tasks", "theory"), ("cfg", "record")),
    "dataset": Place(("data",), ("loading",)),
    "model": Place(("models",), (), ("num_classes", "in_channels")),
    "topology": Place(("sparsity",), ("model",)),
    "dst": Place(("sparsity",), ("topology", "optimizer"), ("total_steps", "seed")),
    "dst.method": Place(("sparsity",)),
    "dst.method.method": Place(("sparsity",)),  # of a method that wraps another
    "dst.method.method.method": Place(("sparsity",)),
    "optimizer": Place(("optim",), ("params", "topology")),
    "optimizer.precondition": Place(("optim",)),
    "optimizer.renorm": Place(("optim",)),
    "optimizer.mirror": Place(("optim",)),
    "lr_schedule": Place(("optim",), (), ("batch_size", "steps_per_epoch", "epochs")),
    "logger": Place(("tracking.sinks",), ("record", "metadata")),
}

PLAIN = ("topology.distribution",)  # where a mapping is a value: densities by pattern
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "null"}
REFUSALS = (TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError, AssertionError)  # timm asserts
FUNCTIONS = ("task", "dataset", "model")  # places where a function of ours may stand; elsewhere it must be a class


def instantiate(cfg: DictConfig, key: str) -> Any:
    """`hydra.utils.instantiate(cfg[key])`, all of it trusted, with keys that it takes.

    Raises:
        ConfigError: for another target, or an argument that a constructor does not take or refuses.
        ForeignError: for whatever else a constructor that is not ours raises.
    """
    content = OmegaConf.to_container(cfg[key], resolve=True)
    check_targets(content, key)
    for place, mapping in _mappings(content, key):
        if place not in PLAIN:
            require("_target_" in mapping, place, mapping, "needs a _target_; choose an option of its group")
            _check_arguments(mapping, place)
    try:
        return hydra.utils.instantiate(cfg[key])
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise prefixed(cfg, key, cause) from None
        raise_foreign(content, key, cause)
        raise ConfigError(key, cfg[key].get("_target_"), first_line(cause)) from None


def make(cfg: DictConfig, key: str, *args: Any, **kwargs: Any) -> Any:
    """Call what `cfg[key]` configures, a partial, with the arguments that only the run knows.

    Raises:
        ConfigError: as `instantiate`; the error names the key as it is written on the command line.
        ForeignError: as `instantiate`.
    """
    require(cfg[key] is not None, key, cfg[key], "choose one of the options of its group")
    for name in kwargs:
        require(name not in cfg[key], f"{key}.{name}", cfg[key].get(name), "is set by the run itself; leave it out")
    partial = instantiate(cfg, key)
    with blamed(cfg, key):
        return partial(*args, **kwargs)


@contextmanager
def blamed(cfg: DictConfig, key: str) -> Iterator[None]:
    """Report a failure within as one of `cfg[key]`.

    Raises:
        ConfigError: as `instantiate`; the error names the key as it is written on the command line.
        ForeignError: as `instantiate`.
    """
    try:
        yield
    except ConfigError as error:
        raise prefixed(cfg, key, error) from None
    except Exception as error:
        raise_foreign(OmegaConf.to_container(cfg[key], resolve=True), key, error)
        if not isinstance(error, REFUSALS):
            raise
        raise ConfigError(key, cfg[key].get("_target_"), str(error)) from error


def prefixed(cfg: DictConfig, section: str, error: ConfigError) -> ConfigError:
    """The error with its key as the configuration has it: `every` of section `dst` is `dst.every`.

    A value that the section takes from a key of the same name, as `topology.sparsity` does, keeps that key.
    """
    name = error.key.split(".")[-1]
    content = OmegaConf.to_container(cfg[section]) if isinstance(cfg[section], DictConfig) else None
    places = [place for place, mapping in _mappings(content, section) if name in mapping]
    if not places or error.key.startswith(f"{section}."):
        return error
    if name in cfg and OmegaConf.is_interpolation(OmegaConf.select(cfg, places[0]), name):
        return error
    return ConfigError(f"{places[0]}.{name}", error.value, error.right)


def check_targets(value: Any, where: str) -> None:
    """Refuse every `_target_` below `where` that `PLACES` does not have there, and Hydra's other words of that kind.

    Raises:
        ConfigError: names the place, and what may stand there.
    """
    for place, mapping in _mappings(value, where):
        if "_target_" in mapping:
            _check_target(mapping["_target_"], place)
        for key, item in mapping.items():
            _check_word(key, item, place)


def foreign_targets(value: Any) -> list[str]:
    """Every `_target_` in it that is not ours."""
    return [target for target, _ in _foreign(value, "")]


def _foreign(value: Any, where: str) -> list[tuple[str, str]]:
    targets = [(str(mapping.get("_target_", OURS)), place) for place, mapping in _mappings(value, where)]
    return [(target, place) for target, place in targets if not target.startswith(OURS)]


def raise_foreign(value: Any, where: str, error: Exception) -> None:
    """Raise what happened as a failure of the target that is not ours, if there is one below `where`.

    Of several it is the one whose code failed, by the traceback; of several of these, or of none, the outermost.

    Raises:
        ForeignError: names it.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    failed = {f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}".split(".__init__")[0] for frame in frames}
    if strangers := sorted(_foreign(value, where), key=lambda found: found[0] not in failed):
        target, place = strangers[0]
        raise ForeignError(place, target, error) from error


def _mappings(value: Any, where: str) -> Iterator[tuple[str, dict]]:
    """Every mapping in it, from the outside in, with the key under which it stands."""
    items = []
    if isinstance(value, dict):
        yield where, value
        items = [(f"{where}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    for place, item in items:
        yield from _mappings(item, place)


def _check_target(target: Any, where: str) -> None:
    require_known(target, f"{where}._target_")
    require(where in PLACES, f"{where}._target_", target, "nothing is constructed here")
    homes = [OURS + home for home in PLACES[where].homes]
    right = f"must be from {' or '.join(homes)} here"
    fits = not target.startswith(OURS) or any(target.startswith(f"{home}.") for home in homes)
    require(fits, f"{where}._target_", target, right)


def _check_word(key: Any, value: Any, where: str) -> None:
    """`_partial_` is as the project's own options have it; `_args_` and its kind, and logging's `()`, are refused."""
    if key == "_partial_":
        right = where in PLACES and "." not in where
        require(value is right, f"{where}.{key}", value, f"must be {str(right).lower()} here")
    special = key == "()" or (isinstance(key, str) and key.startswith("_") and key.endswith("_"))
    require(not special or key in ("_target_", "_partial_"), f"{where}.{key}", value, "is not allowed")


def _check_arguments(value: dict, where: str) -> None:
    """Refuse a key that its constructor does not take, and what cannot be called with what the run gives.

    The constructors' signatures are the groups' schema.
    """
    place, target = PLACES[where], value["_target_"]
    found, ours = resolved(target, f"{where}._target_"), target.startswith(OURS)
    parameters = list(inspect.signature(found).parameters.values())
    first, rest = parameters[: len(place.given)], {one.name: one for one in parameters[len(place.given) :]}
    names = tuple(one.name for one in first if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD))
    fits = names == place.given if ours else len(names) == len(place.given)
    fits = fits and (inspect.isclass(found) or where in FUNCTIONS or not ours)
    any_key = any(one.kind is one.VAR_KEYWORD for one in parameters)
    fits = fits and (any_key or set(place.named) <= set(rest))
    gives = ", ".join((*place.given, *place.named)) or "nothing"
    require(
        fits, f"{where}._target_", target, f"must be a class or function that takes what the run gives here: {gives}"
    )
    keys = {key: item for key, item in value.items() if key not in ("_target_", "_partial_")}
    for key, item in keys.items():
        known = key in rest and rest[key].kind is not inspect.Parameter.VAR_KEYWORD
        require(known or any_key, f"{where}.{key}", item, f"no such key{closest(key, rest)}")
        if known and ours:
            _check_kind(item, rest[key].annotation, f"{where}.{key}")
    for key, one in rest.items():
        optional = one.default is not one.empty or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        require(optional or key in keys or key in place.named, f"{where}.{key}", None, "must be given")


def _check_kind(item: Any, annotation: Any, where: str) -> None:
    """Refuse a value that is not of the parameter's kind, which Python would take for another: `no` is true to it."""
    if where in PLACES:
        option = f"must be an option of its group: {where.replace('.', '/')}={item}"
        require(item is None or isinstance(item, dict), where, item, option)
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if all(isinstance(kind, type) and kind in KINDS for kind in kinds):
        fits = type(item) in kinds or (float in kinds and type(item) is int)
        require(fits, where, item, f"must be {' or '.join(KINDS[kind] for kind in kinds)}")
