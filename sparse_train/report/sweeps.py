"""What a sweep file asks for: the runs it expects, without launching any."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparse_train.config import run_id
from sparse_train.errors import ConfigError, first_line, require, require_one_of
from sparse_train.options.composition import check_parameters, compose
from sparse_train.options.targets import foreign_targets
from sparse_train.report import memory, schema
from sparse_train.source import PACKAGE, ROOT, foreign_code

CONF, SWEEPS = ROOT / "conf", ROOT / "sweeps"
RESULTS = Path("results") if ROOT == PACKAGE else ROOT / "results"  # of an installed package: the working directory's
OWN: list[Path] = []  # a directory of configurations of one's own: its groups, and sweep files beside ours
PAPER = "paper"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        id: the run's.
        factors: the value of each key of the grid, as the sweep file has it, whatever the scale.
        options: those values as the run is given them at this scale.
        task: what it does: "train", or a measurement.
        dataset, epochs: what decides the run's cost; a measurement trains no epochs.
        workload: what an epoch is, in words that are the same for runs of the same speed.
    """

    id: str
    factors: dict[str, str]
    options: dict[str, str]
    dataset: str
    epochs: int
    workload: str = ""
    task: str = "train"


def covering(cells: list[Cell]) -> dict[str, list[str]]:
    """The smallest product that has these cells of a grid: key -> values."""
    return {key: list(dict.fromkeys(cell.options[key] for cell in cells)) for key in cells[0].options}


@dataclass(frozen=True)
class Sweep:
    """A sweep file at one scale: what to run, a grid of cells for each Hydra multirun, and how to show it."""

    name: str
    scale: str
    artifact: dict[str, Any]
    grids: list[list[Cell]]

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells, in the order they are launched, each once."""
        return list({cell.id: cell for cells in self.grids for cell in cells}.values())

    @cached_property
    def factors(self) -> list[str]:
        """Every key of the grids, in their order."""
        return list(dict.fromkeys(key for cell in self.cells for key in cell.factors))


def take(directory: Path) -> None:
    """Look for options and sweep files in a directory of one's own, beside ours.

    Raises:
        ConfigError: for a sweep file with the name of one of ours.
    """
    own = directory.resolve()
    alike = {path.name for path in own.glob("[!_]*.yaml")} & {path.name for path in SWEEPS.glob("*.yaml")}
    right = f"must have no sweep file with the name of one of ours: {', '.join(sorted(alike))}"
    require(own == SWEEPS or not alike, "--config-dir", directory, right)
    OWN[:] = [own]


def names() -> list[str]:
    """The artifacts that exist: tables, figures, then the others, in the order of their numbers."""

    def order(name: str) -> tuple:
        kind = next((k for k in ("table", "fig") if name.startswith(k) and name[len(k) :].isdigit()), None)
        return (0, kind != "table", int(name.removeprefix(kind))) if kind else (1, name)

    return sorted({path.stem for place in (SWEEPS, *OWN) for path in place.glob("[!_]*.yaml")}, key=order)


def sweep_dir(name: str) -> Path:
    """The directory that a sweep file lies in."""
    return next((place for place in OWN if (place / f"{name}.yaml").exists()), SWEEPS)


def file_of(name: str) -> str:
    """A sweep file as people type it."""
    return f"{_typed(name)}/{name}.yaml"


def _typed(name: str) -> str:
    return "sweeps" if sweep_dir(name) == SWEEPS else os.path.relpath(sweep_dir(name))


def is_group(key: str) -> bool:
    """Whether a key chooses an option, rather than being a value."""
    return any((place / key).is_dir() for place in (*OWN, CONF))


@cache
def artifact(name: str) -> dict[str, Any]:
    """How `sweeps/<name>.yaml` is shown, without expanding its grid.

    Raises:
        ConfigError: for a file without such a section.
    """
    return remembered(["artifact", name, _typed(name)], lambda: _artifact(name))


def _artifact(name: str) -> dict[str, Any]:
    shown = _compose(name, (), with_hydra=True).get("artifact")
    said = isinstance(shown, DictConfig) and "title" in shown
    require(said, "artifact", file_of(name), "must be a mapping with a title: how to show what is run")
    return OmegaConf.to_container(shown, resolve=True)


def remembered(key: object, make: Callable[[], Any]) -> Any:
    """What follows from configurations alone: worked out once for each state of the files that they are in."""
    return memory.kept((CONF, SWEEPS, *OWN), key, make)


@cache
def scales() -> dict[str, dict]:
    """The smaller scales, by name."""
    return yaml.safe_load((SWEEPS / "_scales.yaml").read_text())


def every_scale() -> list[str]:
    """The paper's, then the smaller ones."""
    return [PAPER, *scales()]


def is_rehearsal(scale: str) -> bool:
    """Whether its accuracies are evidence of nothing."""
    return scale != PAPER and bool(scales()[scale].get("rehearsal"))


def scale_dir(directory: Path, scale: str) -> Path:
    """Where in a directory of runs or results a scale has its own: smaller ones never mix with the paper's."""
    return directory if scale == PAPER else directory / scale


def command(name: str, scale: str) -> str:
    """What makes an artifact at a scale."""
    if sweep_dir(name) != SWEEPS:
        return f"python -m sparse_train.report reproduce {name} --config-dir {_typed(name)} --scale {scale}"
    return f"make reproduce-{name}" + ("" if scale == PAPER else f" SCALE={scale}")


def reduced(scale: str) -> str:
    """The words for a smaller scale, in brackets; none for the paper's."""
    kind = "REHEARSAL" if is_rehearsal(scale) else "REDUCED SCALE"
    return "" if scale == PAPER else f"[{kind} {scale}: {scales()[scale]['note']}]"


def load(name: str, scale: str = PAPER, references: bool = False) -> Sweep:
    """Expand `sweeps/<name>.yaml` as Hydra's multirun would.

    Args:
        scale: "paper", or one that shrinks the grid (`sweeps/_scales.yaml`).
        references: with the dense and static runs that the artifact offers.

    Raises:
        ConfigError: for a name or scale that does not exist (it lists those that do), and for a grid that names an
            unknown option.
    """
    return _load(name, scale, references)  # one entry, whether the defaults are given or left out


@cache
def _load(name: str, scale: str, references: bool) -> Sweep:
    require_one_of("artifact", name, names())
    require_one_of("scale", scale, every_scale())
    found = remembered(["sweep", name, scale, references, _typed(name)], lambda: _expanded(name, scale, references))
    if any(foreign_code(target) != code for target, code in found["foreign"].items()):
        found = _expanded(name, scale, references)  # a class that is not ours has changed, and so have its runs' ids
    return Sweep(name, scale, artifact(name), [[Cell(**cell) for cell in cells] for cells in found["grids"]])


def _expanded(name: str, scale: str, references: bool) -> dict[str, Any]:
    """The grids, checked; and the code of every class that is not ours, on which ids depend."""
    foreign: dict[str, str | None] = {}
    try:
        sweep = _compose(name, (), with_hydra=True)
        shown = artifact(name)
        main = {key: str(value) for key, value in (sweep.hydra.sweeper.params or {}).items()}
        more = (shown.get("also") or []) + ((shown.get("references") or []) if references else [])
        products = [main, *({**main, **{key: str(value) for key, value in one.items()}} for one in more)]
        if sweep_dir(name) != SWEEPS:  # they become words of commands
            for values in products:
                check_parameters(values)
        grids = [_grid(name, values, scale, foreign) for values in products if values]
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError("artifact", file_of(name), first_line(error)) from error
    schema.check(file_of(name), shown, [cell.factors for cells in grids for cell in cells])
    if scale == PAPER and not references:  # elsewhere several settings may be one
        schema.check_distinct(file_of(name), [(cell.id, cell.factors) for cells in grids for cell in cells])
    return {"grids": [[asdict(cell) for cell in cells] for cells in grids], "foreign": foreign}


def _grid(name: str, values: dict[str, str], scale: str, foreign: dict[str, str | None]) -> list[Cell]:
    about = scales()[scale] if scale != PAPER else {}
    taken = {
        key: _taken(parsed(key, value), *(about.get(part, {}).get(key, {}) for part in ("replace", "more")))
        for key, value in values.items()
    }
    fixed = {} if scale == PAPER else {"scale": scale}
    cells, bases = [], {}
    for pairs in product(*taken.values()):
        options = {key: now for key, (_, now) in zip(taken, pairs, strict=True)} | fixed
        factors = {key: then for key, (then, _) in zip(taken, pairs, strict=True)}
        groups = _groups(options)
        if groups not in bases:
            bases[groups] = _compose(name, groups).copy()
            foreign |= {
                target: foreign_code(target) for target in foreign_targets(OmegaConf.to_container(bases[groups]))
            }
        cfg = _with_values(bases[groups], options)  # over the last cell's, which has the same keys
        dataset, task = (_last(cfg[group]._target_) for group in ("dataset", "task"))
        epochs, work = (cfg.epochs, workload(cfg)) if task == "train" else (0, "")
        cells.append(Cell(run_id(cfg), factors, options, dataset, epochs, work, task))
    return cells


def parsed(key: str, value: str) -> list[str]:
    """`a,b,c` or `range(3)` -> its values, by Hydra's own parser."""
    one = OverridesParser.create().parse_override(f"{key}={value}")
    return list(one.sweep_string_iterator()) if one.is_sweep_override() else [one.get_value_element_as_str()]


def _taken(options: list[str], replace: dict, more: dict) -> list[tuple[str, str]]:
    """(as the sweep file has it, as it is run) for every value that the scale keeps, or brings besides."""
    brought, replaced = ({str(key): value for key, value in given.items()} for given in (more, replace))
    every = dict.fromkeys(str(value) for option in options for value in (option, *brought.get(option, ())))
    return [(one, str(now)) for one in every if (now := replaced.get(one, one)) is not None]


WORK = ("model", "batch_size", "amp", "channels_last", "compile")


def workload(config: DictConfig | Mapping) -> str:
    """What an epoch is: data set, image size, model, and how its steps are computed, as a word to compare by.

    Runs whose epochs are the same take the same time on the same hardware.
    """
    parts = {key: config[key] for key in ("dataset", *WORK)}
    plain = {k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in parts.items()}
    if (execution := config.get("execution", "dense")) != "dense":  # which records older than the key do not have
        plain["execution"] = execution
    dataset = plain.pop("dataset")
    if isinstance(plain["model"], dict):
        plain["model"] = dict(sorted(plain["model"].items())) | {"_target_": _last(plain["model"]["_target_"])}
    return json.dumps({"dataset": _last(dataset["_target_"]), "image_size": dataset.get("image_size"), **plain})


def _last(target: str) -> str:
    """The name without the module: code may move."""
    return target.rsplit(".", 1)[-1]


def configuration(name: str, overrides: dict[str, str]) -> DictConfig:
    """The configuration of one run of the sweep.

    Hydra composes in 70 ms. So options of groups are composed once per combination; plain values go into a copy.
    """
    return _with_values(_compose(name, _groups(overrides)).copy(), overrides)


def _groups(overrides: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in overrides.items() if is_group(key))


def _with_values(cfg: DictConfig, overrides: dict[str, str]) -> DictConfig:
    """The same object, with the plain values put into it."""
    for key, value in overrides.items():
        if not is_group(key):
            OmegaConf.update(cfg, key, _value(f"{key}={value}"))
    return cfg


@cache
def _value(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def composed(name: str, cell: Cell) -> DictConfig:
    """The whole configuration of one run of the sweep, Hydra's own part included."""
    return _compose(name, tuple(f"{key}={value}" for key, value in cell.options.items()), with_hydra=True).copy()


@cache
def _compose(name: str, overrides: tuple[str, ...], with_hydra: bool = False) -> DictConfig:
    return compose(name, overrides, [sweep_dir(name)], with_hydra=with_hydra)
