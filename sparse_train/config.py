"""The top level of the configuration: its keys, their types, and which of them decide a result.

The groups below it have no schema of their own: the constructors they name are their schema.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from sparse_train.errors import closest, require, require_one_of
from sparse_train.pinned import file, paths, pinned, split
from sparse_train.source import OURS, foreign_code

# Incremented when a change of the code alters results, so that old and new records never pass for the same run.
NUMERICS = 1

# What decides a result, and so a run's id. Never here: paths, workers, device, threads, execution, logger, checkpoint
# intervals.
SCIENCE = (
    "task",
    "dataset",
    "model",
    "init",
    "topology",
    "dst",
    "optimizer",
    "weight_decay_on",
    "label_smoothing",
    "one_dimensional_lr",
    "lr_schedule",
    "sparsity",
    "epochs",
    "batch_size",
    "seed",
    "amp",
    "tf32",
    "channels_last",
    "compile",
    "scale",
)

# Like the number of threads, this changes only how a result is rounded. Ids are computed as if it had this value.
LAST_BITS = {"compile": False}

# Of the topology, a name alone is a list of one.
LISTS = ("include", "exclude")

# Of a task that does not train by recipe, only these decide the result, besides the task's own options, scale and seed.
SCIENCE_OF = {
    "balance": (),
    "bn_gradient": ("dataset", "batch_size"),
    "dead_neuron": ("dataset", "batch_size"),
    "equilibrium": ("dataset", "batch_size"),
    "equivalence": ("dataset", "batch_size"),
    "gradient_skew": ("dataset", "model", "batch_size"),
    "layer_norm": ("dataset", "batch_size"),
    "neuron_steps": ("dataset", "batch_size"),
    "sign_flips": (),
    "student_teacher": (),
}

# A key added later goes here with the value that means "as before": at that value it is left out of the id, so that
# records committed before it existed keep theirs. Dotted path -> value.
AS_BEFORE: dict[str, Any] = {
    "dst.start_fraction": 0.0,
    "model.pretrained": False,
    "model.weights": None,
    "tf32": True,
}

CHOICES = {
    "amp": ("none", "bf16"),
    "backend": ("auto", "gloo"),
    "device": ("auto", "cpu", "cuda"),
    "execution": ("dense", "csr", "auto", "graph"),
    "init": ("dense_fan_in", "lecun_normal", "own_fan_in", "over_sqrt_c"),
    "weight_decay_on": ("all", "weights"),
    "s_avg": ("layer", "global", "none"),
    "resume": ("auto", "fresh", "anyway"),
}

# (least, most) of whole numbers. Beyond the upper ones, a machine or a library fails without a clear message.
LIMITS = {
    "epochs": (1, 100_000),
    "batch_size": (1, 1_000_000),
    "update_every": (1, inf),
    "checkpoint_steps": (1, inf),
    "seed": (0, inf),
    "threads": (1, 1024),
    "workers": (0, 1024),
}


@dataclass
class Config:
    """Every key of the top level; an unknown one is an error. `conf/config.yaml` says what each means."""

    task: Any = MISSING
    dataset: Any = MISSING
    model: Any = MISSING
    init: str = MISSING
    topology: Any = MISSING
    dst: Any = None
    optimizer: Any = MISSING
    weight_decay_on: str = MISSING
    lr_schedule: Any = MISSING
    logger: Any = None
    artifact: Any = None

    sparsity: float = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING
    one_dimensional_lr: float = MISSING
    label_smoothing: float = MISSING
    s_avg: str = MISSING
    drop_fraction: float = MISSING
    update_every: int = MISSING
    seed: int = MISSING
    scale: str = MISSING

    amp: str = MISSING
    tf32: bool = MISSING
    channels_last: bool = MISSING
    compile: Any = MISSING
    execution: str = MISSING
    sync_bn: bool = MISSING
    device: str = MISSING
    backend: str = MISSING
    gpus: list[int] | None = None
    deterministic: bool = MISSING
    threads: int | None = None
    workers: int | None = None

    runs_dir: str = MISSING
    data_dir: str = MISSING
    download: bool = MISSING
    resume: str = MISSING
    checkpoint_minutes: float = MISSING
    checkpoint_steps: int | None = None


ConfigStore.instance().store("schema", Config)


def check(cfg: DictConfig) -> None:
    """Refuse values of the top level that no constructor sees.

    Raises:
        ConfigError: names the key and what would be right.
    """
    for key in cfg:  # Hydra itself lets +key=value through
        known = Config.__dataclass_fields__
        require(key in known, key, cfg[key], f"no such key{closest(key, known) or '; --help keys lists all'}")
    for key in ("task", "dataset", "model", "topology", "optimizer", "lr_schedule", "dst", "logger"):
        chosen = isinstance(cfg[key], DictConfig) or (cfg[key] is None and key in ("dst", "logger"))
        single = key in ("topology", "lr_schedule")  # has no options
        right = (
            f"set its keys; --help keys lists them, as {key}.*" if single else "choose one of the options of its group"
        )
        require(chosen, key, cfg[key], right)
    for key, options in CHOICES.items():
        require_one_of(key, cfg[key], options)
    known = isinstance(cfg.compile, bool) or cfg.compile == "reduce-overhead"
    require(known, "compile", cfg.compile, "must be one of false, true, reduce-overhead")
    require(0 <= cfg.lr < inf, "lr", cfg.lr, "must be at least 0, and finite")
    require(0 <= cfg.sparsity < 1, "sparsity", cfg.sparsity, "must be in [0, 1): the share of weights that are zero")
    rate = cfg.one_dimensional_lr
    require(0 <= rate < inf, "one_dimensional_lr", rate, "must be at least 0, and finite: it multiplies lr")
    smoothing = cfg.label_smoothing
    require(0 <= smoothing < 1, "label_smoothing", smoothing, "must be in [0, 1): the target's share for all classes")
    require(0 <= cfg.momentum < 1, "momentum", cfg.momentum, "must be in [0, 1)")
    require(0 <= cfg.weight_decay < inf, "weight_decay", cfg.weight_decay, "must be at least 0, and finite")
    require(0 <= cfg.drop_fraction <= 1, "drop_fraction", cfg.drop_fraction, "must be in [0, 1]")
    for key, (least, most) in LIMITS.items():
        require(cfg[key] is None or cfg[key] >= least, key, cfg[key], f"must be at least {least}")
        require(cfg[key] is None or cfg[key] <= most, key, cfg[key], f"must be at most {most:,}")
    gpus = cfg.gpus is None or (len(cfg.gpus) and min(cfg.gpus) >= 0)
    require(gpus, "gpus", cfg.gpus, "must be a list of numbers of GPUs, such as [0,1], or null")
    require(cfg.checkpoint_minutes > 0, "checkpoint_minutes", cfg.checkpoint_minutes, "must be above 0")
    for key in ("runs_dir", "data_dir"):
        require(cfg[key].isprintable(), key, repr(cfg[key]), "must be a path of printable characters")
    for key, section, name in paths(cfg):
        file(key, section[name])
    mirror = cfg.topology.get("sparsity")
    dense = mirror == 0 and cfg.sparsity != 0
    require(not dense, "sparsity", cfg.sparsity, "dst=dense trains every weight: leave sparsity out, or use dst=static")
    same = mirror is None or mirror == cfg.sparsity
    require(same, "topology.sparsity", mirror, "mirrors sparsity and must equal it: give sparsity instead")


def run_id(cfg: DictConfig | Mapping, foreign: Mapping[str, Mapping] | None = None) -> str:
    """12 hexadecimal digits that depend on what decides the result, and on nothing else.

    Our classes enter the hash by name, so they may move. Foreign classes enter by module and by the hash of their
    package's code: the recorded one (`foreign`: dotted path -> `source.foreign`) if given, else the current one.
    """
    codes = {target: said["code"] for target, said in (foreign or {}).items()}
    task = _named(str(cfg["task"].get("_target_")), codes)
    keys = {"task", "scale", "seed", *SCIENCE_OF[task]} if task in SCIENCE_OF else SCIENCE
    there = [key for key in keys if key in cfg or key not in AS_BEFORE]  # a record may be older than a key
    science = {key: _canonical(_resolved(LAST_BITS.get(key, cfg[key])), codes) for key in there}
    for section, key in (("optimizer", "lr"), ("lr_schedule", "base_lr")):  # where ids have it since the first record
        if isinstance(science.get(section), dict):
            science[section].setdefault(key, _canonical(_resolved(cfg["lr"]), codes))
    for key, section, name in paths(science):  # of a file, its content decides the result, and not its place
        section[name] = split(pinned(key, section[name]))[1]
    topology = science.get("topology")
    if isinstance(topology, dict):
        topology |= {key: [topology[key]] for key in LISTS if isinstance(topology.get(key), str)}
    for path, value in AS_BEFORE.items():
        _leave_out(science, path.split("."), value)
    return hashlib.sha256(json.dumps({"numerics": NUMERICS, **science}, sort_keys=True).encode()).hexdigest()[:12]


def _resolved(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _canonical(value: Any, codes: Mapping[str, str | None]) -> Any:
    """The value without what may change while the result stays: where a class lives, and 1 written as 1.0."""
    if isinstance(value, dict):
        return {
            key: _named(str(item), codes) if key == "_target_" else _canonical(item, codes)
            for key, item in value.items()
            if key != "_partial_"
        }
    if isinstance(value, list):
        return [_canonical(item, codes) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _named(target: str, codes: Mapping[str, str | None]) -> str:
    if target.startswith(OURS):
        return target.rsplit(".", 1)[-1]
    return f"{target} {codes[target] if target in codes else foreign_code(target)}"


def _leave_out(science: Any, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        science = science.get(key) if isinstance(science, dict) else None
    if isinstance(science, dict) and path[-1] in science and science[path[-1]] == value:
        del science[path[-1]]
