"""The command line: its words, its help built from the comments in `conf/`, and what is wrong with it on one line."""

import re
import shutil
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    OverrideType,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sparse_train.config import Config
from sparse_train.errors import ConfigError, closest, require
from sparse_train.options.composition import CONF
from sparse_train.options.targets import PLACES

FREE = "hydra.launcher.additional_parameters"  # which takes any key
SLOTS = ("optimizer/precondition", "optimizer/mirror", "renorm")
GROUPS = ("dataset", "model", "dst", "optimizer", *SLOTS, "scale", "task", "logger", "recipe", "hydra/launcher")

USAGE = """\
python -m sparse_train [KEY=VALUE ...] [GROUP=OPTION ...]

Train one sparse network, leave one record, print the directory that holds it.

Examples
  python -m sparse_train
  python -m sparse_train dataset=cifar100 dst=rigl sparsity=0.95 optimizer=sparseopt
  python -m sparse_train dst=set renorm=unit epochs=200 seed=1 data_dir=/data
  python -m sparse_train --multirun optimizer=sgd,sparseopt seed=0,1,2
  torchrun --nproc-per-node=8 -m sparse_train dataset=imagenet model=resnet50

Options
  --multirun            a sweep: one run for each combination of comma-separated values
  --cfg job             print the configuration instead of running it
  --layers              print each layer's density and FLOPs instead of running it
  --config-dir DIR      look for configurations in a directory of your own too
  --config-name NAME    start from another file than conf/config.yaml
  --help keys           every key with its default
  --version, --hydra-help
"""

KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s](?:[^#]|(?<! )#)*?))?(?: +# (?P<comment>.*))?")


def parser() -> ArgumentParser:
    """Hydra's flags, which may stand among the overrides, and our own `--help`, `--version` and `--layers`."""
    made = ArgumentParser(prog="python -m sparse_train", add_help=False, allow_abbrev=False)
    for flags in ("--help -h", "--version", "--hydra-help", "--resolve"):
        made.add_argument(*flags.split(), action="store_true")
    mode = made.add_mutually_exclusive_group()
    for flags in ("--run -r", "--multirun -m", "--layers", "--shell-completion -sc"):
        mode.add_argument(*flags.split(), action="store_true")
    mode.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    mode.add_argument("--info", "-i", nargs="?", const="all")
    made.add_argument("--package", "-p")
    made.add_argument("--config-name", "-cn")
    made.add_argument("--config-path", "-cp")
    made.add_argument("--config-dir", "-cd")
    made.add_argument("overrides", nargs="*")
    return made


def hydras(given: Namespace, overrides: Iterable[str]) -> list[str]:
    """The words that Hydra is given: its flags, then the overrides."""
    ours = ("help", "version", "layers", "config_path", "config_dir", "overrides")
    flags = {f"--{name.replace('_', '-')}": value for name, value in vars(given).items() if value and name not in ours}
    words = [word for flag, value in flags.items() for word in ([flag] if value is True else [flag, value])]
    return [*words, *overrides]


def parsed(word: str) -> Override:
    """One KEY=VALUE.

    Raises:
        ConfigError: for anything else.
    """
    name, _, text = word.partition("=")
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        right = "cannot be read; write KEY=VALUE, and quote what has spaces or brackets"
        raise ConfigError(name, text, right) from error


def checked(override: Override, directories: list[str]) -> Override:
    """Refuse unknown keys of the top level, and options that a group does not have, such as `dst=null`.

    Args:
        directories: of the user's own, whose options count too.

    Returns:
        The override; with `glob(...)` replaced by what it means, and `+` before an option of sbatch.

    Raises:
        ConfigError: names the key, with the options of its group.
    """
    name, given, text = override.input_line.partition("=")
    key = override.key_or_group
    if key.startswith(FREE) and override.type == OverrideType.CHANGE:
        return parsed(f"++{override.input_line}")
    known = [*Config.__dataclass_fields__, "hydra", *GROUPS]
    places = [Path(place, key) for place in (CONF, *directories)]
    hydras, group = key.startswith("hydra/"), any(place.is_dir() for place in places)
    own = group or re.split(r"[.@/]", key)[0] in known
    require(own, key, text, f"no such key{closest(key, known) or '; --help keys lists all'}")
    value = override.value()
    if not given or not (group or hydras) or isinstance(value, RangeSweep | IntervalSweep):
        return override
    choices = options(key, directories)
    right = f"must be one of {', '.join(choices)}"
    if isinstance(value, Glob) and not hydras:
        require(bool(value.filter(choices)), key, text, right)
        return parsed(f"{name}={','.join(value.filter(choices))}")
    for one in _each(value):
        said = one if isinstance(one, str) else text
        fits = isinstance(one, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", one) is not None  # no ../elsewhere
        fits = fits and (hydras or any(place.joinpath(f"{one}.yaml").is_file() for place in places))
        require(fits, key, said, right + closest(said, choices))
    return override


def _each(value: Any) -> list:
    """The options that a value names: one, those of a list, or those of a sweep."""
    words = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
    return [word.text if isinstance(word, QuotedString) else word for word in words]


def usage(every_key: bool = False, directories: Iterable[str] = ()) -> str:
    """Examples, flags and the options of every group; or every key with its default and its comment.

    Args:
        directories: of the user's own, whose options are listed too.
    """
    if not every_key:
        lines = [USAGE, "Groups: GROUP=OPTION"]
        for group in GROUPS:
            found = files(group, directories)
            lines += [f"  {group}", *_rows(((f"  {option}", _about(found[option])) for option in sorted(found)), 18)]
        return "\n".join([*lines, "", "--help keys lists the keys; README.md and docs/ say more."])
    lines = ["Keys: KEY=VALUE", *_rows(_said(keys(CONF / "config.yaml")))]
    for group in ("dataset", "model", "dst", "optimizer", *SLOTS, "task", "logger"):
        for title, paths in _files(group):
            rows = [row for path in paths for row in _said(keys(path, _package(path, group)))]
            lines += ["", f"Keys of {title}", *_rows(rows)] if rows else []
    return "\n".join(lines)


def options(group: str, directories: Iterable[str] = ()) -> list[str]:
    """The options of a group, with those in directories of the user's own."""
    return sorted(files(group, directories))


def files(group: str, directories: Iterable[str] = ()) -> dict[str, Path]:
    """Option -> its file."""
    return {path.stem: path for place in (CONF, *directories) for path in Path(place, group).glob("[!_]*.yaml")}


def _files(group: str) -> Iterator[tuple[str, list[Path]]]:
    """(title, files): the fragments that options share, then each option."""
    yield group, sorted((CONF / group).glob("_*.yaml"))
    for option in options(group):
        yield f"{group}={option}", [CONF / group / f"{option}.yaml"]


def keys(path: Path, package: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted key, value, comment) of every key of a configuration file but Hydra's own."""
    stack: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        found = KEY.fullmatch(line)
        if found is None:
            continue
        depth = len(found["indent"])
        stack = [*((at, key) for at, key in stack if at < depth), (depth, found["key"])]
        names = [package, *(key for _, key in stack)]
        hidden = names[1] in ("defaults", "hydra") or found["key"] in ("_target_", "_partial_")
        if not hidden and found["value"] is not None:
            yield ".".join(filter(None, names)), found["value"].strip(), found["comment"] or ""


def _package(path: Path, group: str) -> str:
    """Where in the configuration a file of a group goes."""
    found = re.match(r"# @package (\S+)", path.read_text())
    return {"_global_": ""}.get(found[1], found[1]) if found else group.replace("/", ".")


def _about(path: Path) -> str:
    """The first comment of a file."""
    lines = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ")]
    return next((line for line in lines if not line.startswith("@package")), "")


def _said(rows: Iterable[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """(KEY=VALUE, comment) of every key but the empty slots, which are groups."""
    return [(f"{key}={value}", comment) for key, value, comment in rows if comment or key not in PLACES]


def _rows(rows: Iterable[tuple[str, str]], width: int = 36) -> Iterator[str]:
    """Words, and beside them what they mean, wrapped at the terminal's width."""
    wrap = textwrap.TextWrapper(shutil.get_terminal_size().columns, subsequent_indent=" " * (width + 4))
    wrap.break_long_words = wrap.break_on_hyphens = False
    for words, comment in rows:
        yield from wrap.wrap(f"  {words:{width}}  {comment}".rstrip())


def one_line(error: Exception) -> str:
    """What is wrong, the key first, without advice that leads elsewhere."""
    text, cause = str(error), error.__cause__
    if isinstance(error, HydraException):
        for said in (_unknown_key, _unknown_option, _wrong_value):
            if (line := said(text, cause)) is not None:
                return line
        text = "\n".join(filter(None, [text, str(cause) if isinstance(cause, OmegaConfBaseException) else ""]))
    text = re.split(r"\n\s*(?:See https://hydra|Config search path|full_key:)", text)[0]
    return " ".join(re.sub(r"LexerNoViableAltException: ", "cannot be read: ", text).replace("^", "").split())


FULL_KEY = "\n    full_key:"  # where OmegaConf's own advice begins


def _unknown_key(text: str, cause: BaseException | None) -> str | None:
    found = re.fullmatch(r"Could not override '(.+)'\.\nTo append to your config use \+(.*)", text, re.DOTALL)
    if found is None:
        return None
    key, near = found[1], ""
    parent = getattr(cause, "parent_node", None)
    if isinstance(parent, DictConfig) and not parent._is_none():
        last = key.rpartition(".")[2]
        near = closest(last, [name for name in parent if not str(name).startswith("_")])
        near = near or (f"; did you mean {last}?" if last in Config.__dataclass_fields__ else "")
    return f"{found[2]}: no such key{near or '; --help keys lists all'}"


def _unknown_option(text: str, cause: BaseException | None) -> str | None:
    found = re.search(r"Could not find '(.+)/(.+)'\n\nAvailable options in '.*':\n((?:\t.*\n?)*)", text)
    if found is None:
        return None
    known = [name for name in found[3].split() if not name.startswith("_")]
    return f"{found[1]}={found[2]}: must be one of {', '.join(known)}{closest(found[2], known)}"


def _wrong_value(text: str, cause: BaseException | None) -> str | None:
    if not text.startswith("Error merging override ") or cause is None:
        return None
    return f"{text.removeprefix('Error merging override ')}: {str(cause).partition(FULL_KEY)[0]}"
