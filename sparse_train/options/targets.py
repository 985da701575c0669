"""What a configuration constructs: classes and functions by their dotted paths, with the arguments that they take.

A class of ours belongs to a key by the folder that it lies in, so that a new one needs no entry here. The constructors'
signatures are the groups' schema. Files from elsewhere may name only our classes, and those of packages that the user
trusts: by an installed package's entry point or by an environment variable, which no configuration can set.
"""

import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from traceback import walk_tb
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from sparse_train.errors import ConfigError, ForeignError, closest, first_line, require
from sparse_train.source import OURS

GROUP = "sparse_train.targets"  # of entry points
VARIABLE = "SPARSE_TRAIN_TARGETS"  # modules, separated by commas; each trusts everything below it
PATH = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)  # public all the way


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
    "optimizer": Place(("optim",), ("params", "topology"), ("lr",)),
    "optimizer.precondition": Place(("optim",)),
    "optimizer.renorm": Place(("optim",)),
    "optimizer.mirror": Place(("optim",)),
    "lr_schedule": Place(("optim",), (), ("base_lr", "batch_size", "steps_per_epoch", "epochs")),
    "logger": Place(("tracking.sinks",), ("record", "metadata")),
}

PLAIN = ("topology.distribution",)  # where a mapping is a value: densities by pattern
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "null"}
REFUSALS = (TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError, AssertionError)  # timm asserts
OF_THE_RUN = {"model": ("weights",)}  # what the run reads itself: no constructor gets it
FUNCTIONS = ("task", "dataset", "model")  # places where a function of ours may stand; elsewhere it must be a class


def instantiate(cfg: DictConfig, key: str) -> Any:
    """`hydra.utils.instantiate(cfg[key])`, with targets that belong there and the keys that they take.

    Raises:
        ConfigError: for another target, or an argument that a constructor does not take or refuses.
        ForeignError: for whatever else a constructor that is not ours raises.
    """
    content = OmegaConf.to_container(cfg[key], resolve=True)
    for name in OF_THE_RUN.get(key, ()):
        content.pop(name, None)
    for place, mapping in _mappings(content, key):
        if place not in PLAIN or "_target_" in mapping:
            _check_arguments(mapping, _resolved(mapping, place), place)
    try:
        return hydra.utils.instantiate(content)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise prefixed(cfg, key, cause) from None
        if theirs := foreign_error(content, key, cause):
            raise theirs from cause
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
        if theirs := foreign_error(OmegaConf.to_container(cfg[key], resolve=True), key, error):
            raise theirs from error
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
    """Refuse every `_target_` below `where` that is neither ours nor in a module that the user trusts; import nothing.

    Raises:
        ConfigError: for a package that is not trusted, with the one line that trusts it.
    """
    for place, mapping in _mappings(value, where):
        if "_target_" in mapping:
            target, key = mapping["_target_"], f"{place}._target_".lstrip(".")
            _require_path(target, key)
            package = target.partition(".")[0]
            known = target.startswith((OURS, *(f"{module}." for module in trusted())))
            line = f"; if you trust {package} to run whatever a configuration asks of it: export {VARIABLE}={package}"
            require(known, key, target, "not one of the project's own" + ("" if _pythons(package) else line))


def trusted() -> list[str]:
    """The modules that the user trusts besides ours.

    Raises:
        ConfigError: for Python's own modules, which can run anything.
    """
    said = [name for name in os.environ.get(VARIABLE, "").replace(" ", "").split(",") if name]
    for name in said:
        plain = PATH.fullmatch(f"{name}.x") is not None and not _pythons(name.partition(".")[0])
        require(plain, VARIABLE, name, "must be modules with classes for configurations, and none of Python's own")
    installed = (entry.module for entry in entry_points(group=GROUP))
    return said + [name for name in installed if not _pythons(name.partition(".")[0])]


def _pythons(package: str) -> bool:
    return package in sys.stdlib_module_names or package == "builtins"


def foreign_targets(value: Any) -> list[str]:
    """Every `_target_` in it that is not ours."""
    return [target for target, _ in _foreign(value, "")]


def foreign_error(value: Any, where: str, error: Exception) -> ForeignError | None:
    """What happened as a failure of the target that is not ours; None if there is none below `where`.

    Of several it is the one whose code failed, by the traceback; of several of these, or of none, the outermost.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    failed = {f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}".split(".__init__")[0] for frame in frames}
    strangers = sorted(_foreign(value, where), key=lambda found: found[0] not in failed)
    return ForeignError(strangers[0][1], strangers[0][0], error) if strangers else None


def _foreign(value: Any, where: str) -> list[tuple[str, str]]:
    targets = [(str(mapping.get("_target_", OURS)), place) for place, mapping in _mappings(value, where)]
    return [(target, place) for target, place in targets if not target.startswith(OURS)]


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


def _require_path(target: Any, key: str) -> None:
    readable = isinstance(target, str) and PATH.fullmatch(target) is not None
    require(readable, key, target, "must be a dotted path to a public class or function")


def _resolved(mapping: dict, where: str) -> Any:
    """The class or function that a mapping names, imported; it belongs there, and its module defines it.

    Raises:
        ConfigError: for another.
        ForeignError: where a module that is not ours fails while it is imported.
    """
    require("_target_" in mapping, where, mapping, "needs a _target_; choose an option of its group")
    target, key = mapping["_target_"], f"{where}._target_"
    _require_path(target, key)
    require(where in PLACES, key, target, "nothing is constructed here")
    module, _, name = target.rpartition(".")
    if ours := target.startswith(OURS):
        homes = [OURS + home for home in PLACES[where].homes]
        here = any(target.startswith(f"{home}.") for home in homes)
        require(here, key, target, f"must be from {' or '.join(homes)} here")
    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(key, target, f"no module {error.name} on Python's path") from error
        raise ForeignError(key, target, error) from error
    require(inspect.isclass(found) or inspect.isfunction(found), key, target, f"{module} has no such class or function")
    home = module if ours else module.partition(".")[0]
    own = f"{found.__module__}.".startswith(f"{home}.")
    require(own, key, target, f"{module} imports it from {found.__module__}: name it there")
    return found


def _check_arguments(value: dict, found: Any, where: str) -> None:
    """Refuse a key that its constructor does not take, and what cannot be called with what the run gives."""
    place, target = PLACES[where], value["_target_"]
    ours, partial = target.startswith(OURS), "." not in where
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
    said = value.get("_partial_", False)
    require(said is partial, f"{where}._partial_", said, f"must be {str(partial).lower()} here")
    keys = {key: item for key, item in value.items() if key not in ("_target_", "_partial_")}
    for key, item in keys.items():
        known = key in rest and rest[key].kind is not inspect.Parameter.VAR_KEYWORD
        takes = known or (any_key and not str(key).startswith("_"))  # Hydra's own words begin so: _args_
        inherited = f" of {target}; ~{where}.{key} leaves it out, if an option brought it"
        require(takes, f"{where}.{key}", item, f"no such key{closest(key, rest) or ('' if ours else inherited)}")
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
