"""Whose classes a configuration may name: ours, and those of packages that the person at the keyboard trusts.

Nothing in a configuration can make a package trusted. Only an installed package's entry point or an environment
variable can. Both name modules, and naming a module also trusts everything below it.
"""

import ast
import os
import re
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import isclass, isfunction
from typing import Any

from sparse_train.errors import ConfigError, ForeignError, require
from sparse_train.source import OURS, PACKAGE

GROUP = "sparse_train.targets"  # of entry points
VARIABLE = "SPARSE_TRAIN_TARGETS"  # modules, separated by commas
PATH = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)  # public all the way


def require_known(target: Any, key: str) -> None:
    """Refuse a dotted path that is neither a public class or function of ours nor in a trusted module; import nothing.

    Raises:
        ConfigError: for a package that is not trusted, with the one line that trusts it.
    """
    right, readable = "not one of the project's own", isinstance(target, str) and PATH.fullmatch(target) is not None
    require(readable, key, target, f"{right}: must be a dotted path to a public class or function")
    if target.startswith(OURS):
        module, _, name = target.removeprefix(OURS).rpartition(".")
        require(name in defined(module), key, target, f"{right}: no such class or function")
        return
    package = target.partition(".")[0]
    line = f"; if you trust {package} to run whatever a configuration asks of it: export {VARIABLE}={package}"
    require(trusted_by(target) is not None, key, target, right + ("" if _pythons(package) else line))


@cache
def defined(module: str) -> frozenset[str]:
    """The public classes and functions that a module of ours defines itself, by its text: nothing is imported."""
    path = PACKAGE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    names = (node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    return frozenset(name for name in names if not name.startswith("_"))


def trusted_by(target: str) -> str | None:
    """The trusted module that a dotted path lies in."""
    return next((module for module in trusted() if target.startswith(f"{module}.")), None)


def trusted() -> list[str]:
    """The modules that are trusted besides ours.

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


def resolved(target: str, key: str) -> Any:
    """The class or function, imported; `require_known` has let its path through.

    Raises:
        ConfigError: where there is none, or only one that a trusted module has from elsewhere.
        ForeignError: where a module that is not ours fails while it is imported.
    """
    module, _, name = target.rpartition(".")
    home = f"{trusted_by(target)}." if not target.startswith(OURS) else OURS
    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(key, target, f"no module {error.name} on Python's path") from error
        raise ForeignError(key, target, error) from error
    there = isclass(found) or isfunction(found)
    require(there, key, target, f"{module} has no such class or function")
    own = f"{found.__module__}.".startswith(home)
    require(own, key, target, f"{module} imports it from {found.__module__}, which is not trusted")
    return found
