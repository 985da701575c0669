"""Where a configuration comes from, and what a file from elsewhere may not say.

What the user typed is trusted, and so is what stands in this checkout's `conf/` and `sweeps/`. Hydra reads every other
directory through `Elsewhere`, which checks a file before anything of it is composed.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from sparse_train.errors import ConfigError, require
from sparse_train.options.targets import check_targets
from sparse_train.source import ROOT

CONF, SWEEPS = ROOT / "conf", ROOT / "sweeps"
# What a file from elsewhere may say to Hydra itself, besides the parameters of a sweep.
HYDRA = ("hydra.mode", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.sweeper.max_batch_size")
REFERENCE = re.compile(r"\$\{(?![\w.\[\]]*\bhydra\b)[\w.\[\]]+\}")  # no resolver, not Hydra's part
DEFAULT = re.compile(r"(optional |override )*/?(?!hydra\b)[\w-]+([/.][\w-]+)*(@(?![\w.]*\bhydra\b)[\w.]+)?")
OPTION = re.compile(r"[\w-]+([/.][\w-]+)*|\$\{\w+\}")
PARAMETER = re.compile(r"[+~]*(?!hydra\b)\w+([./]\w+)*=[^$\\]*")
SPECIAL = re.compile(r"\b_[a-z]+_\b|\.\.")  # Hydra's words such as _target_, and steps to other directories
ELSEWHERE = "may not stand in a file from elsewhere: type it, or put the file into conf/; see SECURITY.md"


def compose(
    name: str, overrides: Iterable[str], after: Iterable = (), before: Iterable = (), with_hydra: bool = False
) -> DictConfig:
    """The configuration `name` of `conf/` or of a directory of the user's, with these overrides.

    Args:
        after, before: directories, as of `searched`.
        with_hydra: keep Hydra's own part.

    Raises:
        ConfigError: for a directory that does not exist, and for what a file from elsewhere may not say.
        HydraException: for names and values that do not fit.
    """
    with searched(after, before), hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, list(overrides), return_hydra_config=with_hydra)


@contextmanager
def searched(after: Iterable[str | Path], before: Iterable[str | Path] = ()) -> Iterator[None]:
    """Inside, Hydra looks for configurations in these directories too, after `conf/` or before it, and checks them."""
    for plugin in (Elsewhere, Directories):
        Plugins.instance().register(plugin)
    outside = Directories.after, Directories.before
    Directories.after, Directories.before = [*map(_place, after)], [*map(_place, before)]
    try:
        yield
    finally:
        Directories.after, Directories.before = outside


def _place(directory: str | Path) -> str:
    path = Path(directory).resolve()
    require(path.is_dir(), "--config-dir", directory, "must be a directory")
    ours = any(path.is_relative_to(place) for place in (CONF, SWEEPS))
    return f"{'file' if ours else Elsewhere.scheme()}://{path}"


class Directories(SearchPathPlugin):
    """Hands Hydra the directories of `searched`."""

    after: ClassVar[list[str]] = []
    before: ClassVar[list[str]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for path in self.after:
            search_path.append("user", path)
        for path in self.before:
            search_path.prepend("user", path, SearchPathQuery(provider="main"))


class Elsewhere(FileConfigSource):
    """A directory that is not this checkout's: as Hydra's own source of files, but each is checked as it is read."""

    @staticmethod
    def scheme() -> str:
        return "elsewhere"

    def load_config(self, config_path: str) -> ConfigResult:
        try:
            found = super().load_config(config_path)
        except (OSError, ValueError, YAMLError) as error:
            path = Path(self.path, self._normalize_file_name(config_path))
            raise ConfigError("file", path, f"cannot be read: {' '.join(str(error).split())}") from error
        check_file(OmegaConf.to_container(found.config, resolve=False), config_path, found.header["package"])
        return found


def check_file(content: Any, path: str, package: str | None) -> None:
    """Refuse what could run code or read the environment, in a file from elsewhere.

    Args:
        content: its keys and values, not resolved.
        path: its group and name.
        package: where its header puts it; None: where its group does.

    Raises:
        ConfigError: names the key.
    """
    group = path.rpartition("/")[0]
    package = (group.replace("/", ".") if package is None else package).removeprefix("_global_").lstrip(".")
    require("hydra" not in re.split(r"\W", f"{path}.{package}"), path, package, ELSEWHERE)
    keys = dict(content) if isinstance(content, dict) else {"": content}
    defaults = keys.pop("defaults", None) or []
    require(isinstance(defaults, list), f"defaults of {path}", defaults, "must be a list")
    for default in defaults:
        for key, options in default.items() if isinstance(default, dict) else [(default, None)]:
            require(DEFAULT.fullmatch(str(key)) is not None, f"defaults of {path}", key, ELSEWHERE)
            for option in options if isinstance(options, list) else [options]:
                plain = option is None or OPTION.fullmatch(str(option)) is not None
                require(plain, f"defaults of {path}", option, ELSEWHERE)
    own = keys.get("hydra")
    sweeper = own.get("sweeper") if isinstance(own, dict) else None
    parameters = (sweeper.pop("params", None) if isinstance(sweeper, dict) else None) or {}
    require(isinstance(parameters, dict), "hydra.sweeper.params", parameters, "must be a mapping")
    check_parameters(parameters)
    for key, value in leaves(own, "hydra"):
        require(key in HYDRA, key, value, ELSEWHERE)
    check_targets(keys, package)
    for key, value in leaves(keys, package):
        require("${" not in REFERENCE.sub("", str(value)), key, value, ELSEWHERE)


def check_parameters(parameters: dict[str, Any]) -> None:
    """Refuse what a sweep file from elsewhere may not put among a run's overrides.

    Raises:
        ConfigError: names the key.
    """
    for key, value in parameters.items():
        where, word = f"hydra.sweeper.params.{key}", f"{key}={value}"
        right = "must be values with commas between them, such as rigl,set or 0,1,2"
        require(not isinstance(value, list), where, value, right)
        plain = PARAMETER.fullmatch(word) is not None and SPECIAL.search(word) is None
        require(plain and not isinstance(value, dict), where, value, ELSEWHERE)


def leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is no mapping and no list."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{key}[{index}]")
    elif value is not None:
        yield key, value
