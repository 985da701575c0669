"""The command line's own text: help built from the comments in `conf/`, and one-line error messages."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sparse_train.errors import closest, first_line
from sparse_train.options.targets import PLACES
from sparse_train.source import ROOT

CONF = ROOT / "conf"
SLOTS = ("optimizer/precondition", "optimizer/mirror", "renorm")
GROUPS = ("dataset", "model", "dst", "optimizer", *SLOTS, "scale", "task", "logger", "recipe")

USAGE = """\
python -m sparse_train [KEY=VALUE ...]

Train one sparse network, leave one record, print the directory that holds it.

Examples
  python -m sparse_train
  python -m sparse_train dataset=cifar100 model=resnet20 dst=rigl sparsity=0.95 optimizer=sparseopt
  python -m sparse_train dst=set optimizer=sparseopt_ham renorm=unit epochs=200 seed=1 data_dir=/data
  python -m sparse_train --multirun optimizer=sgd,sparseopt sparsity=0.9,0.95 seed=0,1,2
  torchrun --nproc-per-node=8 -m sparse_train dataset=imagenet model=resnet50 batch_size=1024 amp=bf16

Options
  --multirun            a sweep: one run for each combination of comma-separated values
  --cfg job             print the configuration instead of running it
  --config-dir DIR      look for configurations in a directory of your own too
  --config-name NAME    start from another file than conf/config.yaml
  --version, --help
"""

KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s](?:[^#]|(?<! )#)*?))?(?: +# (?P<comment>.*))?")


def usage(own: str | None = None) -> str:
    """Examples, the options of every group, and every key with its default and its comment.

    Args:
        own: a directory of configurations of one's own, whose options are listed too.
    """
    lines = [USAGE, "Groups: GROUP=OPTION"]
    for group in GROUPS:
        lines.append(f"  {group}")
        found = files(group, own)
        width = max(map(len, found)) + 2
        lines += [f"    {option:{width}}{_about(found[option])}".rstrip() for option in sorted(found)]
    lines += ["", "Keys: KEY=VALUE", *_rows(keys(CONF / "config.yaml"))]
    for group in ("dataset", "model", "dst", "optimizer", *SLOTS, "task", "logger"):
        for title, paths in _files(group):
            every = [row for path in paths for row in keys(path, _package(path, group))]
            rows = [row for row in every if row[0] not in PLACES or row[2]]
            lines += ["", f"Keys of {title}", *_rows(rows)] if rows else []
    return "\n".join([*lines, "", "README.md and docs/ say more."])


def options(group: str, own: str | None = None) -> list[str]:
    """The options of a group, with those in a directory of one's own."""
    return sorted(files(group, own))


def files(group: str, own: str | None = None) -> dict[str, Path]:
    """Option -> its file."""
    places = [CONF, *([Path(own)] if own else [])]
    return {path.stem: path for place in places for path in (place / group).glob("[!_]*.yaml")}


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


def _rows(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    return [f"  {f'{key}={value}':38}{'  ' + comment if comment else ''}".rstrip() for key, value, comment in rows]


def one_line(error: Exception) -> str:
    """What is wrong, the key first, without advice that leads elsewhere."""
    text, cause = str(error), error.__cause__
    if isinstance(error, HydraException):
        for said in (_unknown_key, _unknown_option, _wrong_value, _list):
            if (line := said(text, cause)) is not None:
                return line
        text = "\n".join(filter(None, [text, str(cause) if isinstance(cause, OmegaConfBaseException) else ""]))
    text = re.split(r"\n\s*(?:See https://hydra|Config search path|full_key:)", text)[0]
    return " ".join(re.sub(r"LexerNoViableAltException: ", "cannot be read: ", text).replace("^", "").split())


def _unknown_key(text: str, cause: BaseException | None) -> str | None:
    found = re.fullmatch(r"Could not override '(.+)'\.\nTo append to your config use \+(.*)", text, re.DOTALL)
    if found is None:
        return None
    key, near = found[1], ""
    parent = getattr(cause, "parent_node", None)
    if isinstance(parent, DictConfig) and not parent._is_none():
        near = closest(key.rpartition(".")[2], [name for name in parent if not str(name).startswith("_")])
    return f"{found[2]}: no such key{near or '; --help lists all'}"


def _unknown_option(text: str, cause: BaseException | None) -> str | None:
    found = re.search(r"Could not find '(.+)/(.+)'\n\nAvailable options in '.*':\n((?:\t.*\n?)*)", text)
    if found is None:
        return None
    known = [name for name in found[3].split() if not name.startswith("_")]
    return f"{found[1]}={found[2]}: must be one of {', '.join(known)}{closest(found[2], known)}"


def _wrong_value(text: str, cause: BaseException | None) -> str | None:
    if not text.startswith("Error merging override ") or cause is None:
        return None
    return f"{text.removeprefix('Error merging override ')}: {first_line(cause)}"


def _list(text: str, cause: BaseException | None) -> str | None:
    found = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", text)
    return found and f"{found[1]}: several values need --multirun; a list is written in brackets"
