"""What a sweep file asks for: the runs it expects, without launching any."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sparse_train.config import run_id
from sparse_train.errors import require

ROOT = Path(__file__).parents[2]
CONF, SWEEPS = ROOT / "conf", ROOT / "sweeps"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its id, and the value of each factor the sweep varies."""

    id: str
    factors: dict[str, str]


@dataclass(frozen=True)
class Sweep:
    """A sweep file: its cells, in the order they are launched, and how to show them."""

    name: str
    artifact: dict[str, Any]
    cells: list[Cell]


def names() -> list[str]:
    """The artifacts that exist."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def load(name: str, overrides: tuple[str, ...] = ()) -> Sweep:
    """Expand `sweeps/<name>.yaml` exactly as Hydra's multirun would.

    Args:
        overrides: as on the command line after the sweep's name; they win over the file.

    Raises:
        ConfigError: for a name that does not exist; it lists those that do.
    """
    require(name in names(), "artifact", name, f"must be one of {', '.join(names())}")
    search = f"hydra.searchpath=[file://{CONF}]"
    with initialize_config_dir(str(SWEEPS), version_base="1.3"):
        sweep = compose(name, overrides=[search], return_hydra_config=True)
        grid = [f"{key}={value}" for key, value in (sweep.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create().parse_overrides([*grid, *overrides])
        [jobs] = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        cells = [
            Cell(run_id(compose(name, overrides=[search, *job])), dict(o.split("=", 1) for o in job)) for job in jobs
        ]
    return Sweep(name, OmegaConf.to_container(sweep.artifact, resolve=True), cells)
