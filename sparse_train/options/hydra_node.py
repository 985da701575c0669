"""What a configuration may say to Hydra itself: where runs go, what a sweep varies, and what a launcher asks for.

Hydra constructs callbacks, logging, sweeper and launcher from its own part of the configuration, before a run begins,
and its SLURM launcher writes a shell script. So that part is held against a list; what is not on it stays as it is.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparse_train.errors import ConfigError, first_line, require

# Free: words and numbers that Hydra prints, counts with or makes directories of.
FREE = ("run", "sweep", "mode", "verbose", "searchpath", "help", "hydra_help", "overrides", "runtime")
JOB = ("name", "id", "num", "config_name", "override_dirname", "config")
FIXED: dict[str, tuple] = {"callbacks": ({}, None), "env": ({}, None), "output_subdir": (None, ".hydra")}
FIXED_JOB: dict[str, tuple] = {"env_copy": ([],), "env_set": ({},), "chdir": (False, None)}  # names before values
LOGGING = ("none", "disabled", "default", "stdout", "hydra_debug")  # options of Hydra's own

SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
WORD = re.compile(r"[\w.,:@%+\-\[\]&|*()=/]+( [\w.,:@%+\-\[\]&|*()=/]+)*")  # on one line, without a shell's quotes


class Launcher(NamedTuple):
    """What may be said to a launcher.

    Attributes:
        free: keys with a number, true, false, null or words of `WORD`.
        fixed: keys that stay at one of these values.
    """

    free: tuple[str, ...]
    fixed: dict[str, tuple]


LAUNCHERS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": Launcher((), {}),
    "hydra_plugins.sparse_train.Local": Launcher(("n_jobs",), {}),
    "hydra_plugins.sparse_train.Slurm": Launcher(
        (
            *("name", "partition", "account", "qos", "constraint", "exclude", "comment"),
            *("nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "gpus_per_task", "cpus_per_gpu", "gres"),
            *("mem_gb", "mem_per_gpu", "mem_per_cpu", "timeout_min", "array_parallelism"),
            *("signal_delay_s", "max_num_timeout", "stderr_to_stdout", "wait"),
        ),
        {
            "setup": (None, []),  # lines of a shell
            "additional_parameters": ({},),
        },
    ),
}


def check_hydra(cfg: DictConfig) -> None:
    """Refuse what is not on the lists above.

    Args:
        cfg: a composed configuration with Hydra's own part.

    Raises:
        ConfigError: names the key, and what would be right.
    """
    node = OmegaConf.to_container(cfg.hydra, resolve=False)
    logging = {"hydra_logging": _logging("hydra_logging"), "job_logging": _logging("job_logging")}
    known = {*FREE, *FIXED, *logging, "job", "sweeper", "launcher"}
    _keep(node, {**FIXED, **logging}, known, "hydra")
    _keep(node["job"], FIXED_JOB, {*FIXED_JOB, *JOB}, "hydra.job")
    _check_words(cfg.hydra.job, ("name", "config_name"), "hydra.job")
    _check_sweeper(node.get("sweeper"))
    _check_launcher(cfg.hydra, node.get("launcher"))


def _check_sweeper(node: Any) -> None:
    where = "hydra.sweeper"
    _require_target(node, (SWEEPER,), where)
    _keep(node, {}, {"_target_", "max_batch_size", "params"}, where)
    size, params = node.get("max_batch_size"), node.get("params")
    require(size is None or isinstance(size, int), f"{where}.max_batch_size", size, "must be a whole number, or null")
    require(params is None or isinstance(params, dict), f"{where}.params", params, "must be keys with their values")
    for key, value in (params or {}).items():
        require(not isinstance(value, dict), f"{where}.params.{key}", value, "must be values, separated by commas")


def _check_launcher(hydra: DictConfig, node: Any) -> None:
    where = "hydra.launcher"
    _require_target(node, LAUNCHERS, where)
    launcher = LAUNCHERS[node["_target_"]]
    _keep(node, launcher.fixed, {"_target_", *launcher.free, *launcher.fixed}, where)
    _check_words(hydra.launcher, launcher.free, where)


def _require_target(node: Any, targets: Any, where: str) -> None:
    target = node.get("_target_") if isinstance(node, dict) else node
    known = isinstance(target, str) and target in targets
    require(known, f"{where}._target_", target, f"must be one of {', '.join(targets)}")


def _keep(node: Any, fixed: dict[str, tuple], known: set[str], where: str) -> None:
    require(isinstance(node, dict), where, node, "must be a mapping")
    for key, values in fixed.items():
        value = node.get(key, values[0])
        require(value in values, f"{where}.{key}", value, f"must stay {values[0]}; see SECURITY.md")
    for key, value in node.items():
        require(key in known, f"{where}.{key}", value, "is not allowed; see SECURITY.md")


def _check_words(node: DictConfig, keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        try:
            value = None if key not in node or OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException as error:
            raise ConfigError(f"{where}.{key}", "", first_line(error)) from error
        plain = value is None or isinstance(value, bool | int | float)
        plain = plain or (isinstance(value, str) and WORD.fullmatch(value) is not None)
        require(plain, f"{where}.{key}", repr(value), "must be a number or plain words")


@cache
def _logging(node: str) -> tuple[dict, ...]:
    """What Hydra's own options of a logging node hold."""
    place = files("hydra.conf") / "hydra" / node
    options = [place / f"{option}.yaml" for option in LOGGING]
    return tuple(yaml.safe_load(option.read_text()) for option in options if option.is_file())
