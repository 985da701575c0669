"""Which code a result comes from: a hash of ours, and of a package that is not ours."""

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).parent
# Holds conf/, sweeps/ and the paper's numbers: the package itself where a wheel brought it, else its checkout.
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
OURS = f"{PACKAGE.name}."
# No number of a run depends on these: they show results, write, send, lock and print.
ASIDE = (
    "data/resize.py",
    "errors.py",
    "options/command_line.py",
    "process/console.py",
    "process/workers.py",
    "record/files.py",
    "record/lock.py",
    "report/",
    "source.py",
    "tracking/",
    "train/multirun.py",
)
TEST = re.compile(r"tests?|test_.*\.py|.*_test\.py|conftest\.py")


@cache
def training_code() -> str:
    """12 hexadecimal digits of all files of the package that may change a number.

    `conf/` is left out: what it sets is in the configuration, and so in the run's id.
    """
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return _hash(PACKAGE, (path for path in paths if not path.as_posix().startswith(ASIDE)))


@cache
def foreign_code(target: str) -> str | None:
    """The hash of the package that holds `target`, a dotted path; None if there is no such package.

    Nothing is imported. Comments, layout and tests are left out, which decide no result. A directory without
    `__init__.py` is looked through for the part of it that is named.
    """
    names, spec, search = target.split("."), None, None
    for place in range(1, len(names)):
        name = ".".join(names[:place])
        spec = _found(name) if search is None else PathFinder.find_spec(name, search)
        if spec is None or spec.has_location:  # a file, or a package that is one
            break
        search = list(spec.submodule_search_locations or ())
    if spec is None or not spec.has_location:
        return None
    path = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return _hash(path.parent, [Path(path.name)], _executed)
    inside = (inner.relative_to(path.parent) for inner in path.parent.rglob("*.py"))
    return _hash(path.parent, (inner for inner in inside if not any(map(TEST.fullmatch, inner.parts))), _executed)


def foreign(targets: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """Of each dotted path: the package that it is from, the version that this is installed as, and its code's hash.

    A package that lies on Python's path and is not installed has the version that it says itself, if any.
    """
    targets = sorted(set(targets))
    found = packages_distributions() if targets else {}
    described = {}
    for target in targets:
        package = target.partition(".")[0]
        installed = found.get(package)
        own = getattr(sys.modules.get(package), "__version__", None)
        number = version(installed[0]) if installed else own and str(own)
        described[target] = {"package": package, "version": number, "code": foreign_code(target)}
    return described


def _found(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ValueError:  # a module without a spec, such as __main__
        return None


def _executed(path: Path) -> bytes:
    """The code as Python reads it; a file that it cannot read, as it is."""
    text = path.read_bytes()
    try:
        return ast.unparse(ast.parse(text)).encode()
    except (SyntaxError, ValueError, RecursionError):
        return text


def _whole(path: Path) -> bytes:
    return path.read_bytes()


def _hash(root: Path, files: Iterable[Path], read: Callable[[Path], bytes] = _whole) -> str:
    """Of names and contents, so that what moves or is added counts as well."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.as_posix()}\0".encode() + hashlib.sha256(read(root / file)).digest())
    return total.hexdigest()[:12]
