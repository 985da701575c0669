"""What a sweep file asks for: the runs it expects, without launching any."""

import os
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparse_train.config import run_id
from sparse_train.errors import ConfigError, first_line, require, require_one_of
from sparse_train.options.composition import check_parameters, compose
from sparse_train.report import grid, settings
from sparse_train.report.workload import workload
from sparse_train.source import PACKAGE, ROOT

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
        dataset, epochs: what decides the run's cost; a measurement trains no epochs.
        workload: what an epoch is, in words that are the same for runs of the same speed.
    """

    id: str
    factors: dict[str, str]
    options: dict[str, str]
    dataset: str
    epochs: int
    workload: str = ""


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
        ConfigError: for a file that says nothing of it.
    """
    shown = _compose(name, (), with_hydra=True).get("artifact")
    said = isinstance(shown, DictConfig) and "title" in shown
    require(said, "artifact", file_of(name), "must be a mapping with a title: how to show what is run")
    return OmegaConf.to_container(shown, resolve=True)


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
    try:
        sweep = _compose(name, (), with_hydra=True)
        shown = artifact(name)
        main = {key: str(value) for key, value in (sweep.hydra.sweeper.params or {}).items()}
        more = (shown.get("also") or []) + ((shown.get("references") or []) if references else [])
        products = [main, *({**main, **{key: str(value) for key, value in one.items()}} for one in more)]
        if sweep_dir(name) != SWEEPS:  # they become words of commands
            for values in products:
                check_parameters(values)
        grids = [_grid(name, values, scale) for values in products if values]
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError("artifact", file_of(name), first_line(error)) from error
    settings.check(file_of(name), shown, [cell.factors for cells in grids for cell in cells])
    if scale == PAPER and not references:  # elsewhere several settings may be one
        settings.check_distinct(file_of(name), [(cell.id, cell.factors) for cells in grids for cell in cells])
    return Sweep(name, scale, shown, grids)


def _grid(name: str, values: dict[str, str], scale: str) -> list[Cell]:
    about = scales()[scale] if scale != PAPER else {}
    replace, more = about.get("replace", {}), about.get("more", {})
    asked = {key: grid.extended(grid.values(key, value), more.get(key, {})) for key, value in values.items()}
    taken = {key: grid.shrunk(found, replace.get(key, {})) for key, found in asked.items()}
    fixed = {} if scale == PAPER else {"scale": scale}
    cells, bases = [], {}
    for pairs in product(*taken.values()):
        options = {key: now for key, (_, now) in zip(taken, pairs, strict=True)} | fixed
        factors = {key: then for key, (then, _) in zip(taken, pairs, strict=True)}
        groups = _groups(options)
        if groups not in bases:
            bases[groups] = _compose(name, groups).copy()
        cfg = _with_values(bases[groups], options)  # over the last cell's, which has the same keys
        dataset = cfg.dataset._target_.rsplit(".", 1)[-1]
        epochs, work = (cfg.epochs, workload(cfg)) if cfg.task._target_.endswith(".train") else (0, "")
        cells.append(Cell(run_id(cfg), factors, options, dataset, epochs, work))
    return cells


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
            OmegaConf.update(cfg, key, grid.value(f"{key}={value}"))
    return cfg


def composed(name: str, cell: Cell) -> DictConfig:
    """The whole configuration of one run of the sweep, Hydra's own part included."""
    return _compose(name, tuple(f"{key}={value}" for key, value in cell.options.items()), with_hydra=True).copy()


@cache
def _compose(name: str, overrides: tuple[str, ...], with_hydra: bool = False) -> DictConfig:
    return compose(name, overrides, [sweep_dir(name)], with_hydra=with_hydra)
