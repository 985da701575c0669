"""Jobs in SLURM's queue: put there by a multirun, counted and cancelled by their numbers."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sparse_train.errors import ConfigError
from sparse_train.report.launch.child import option


def jobs_dir(runs_dir: Path, name: str) -> Path:
    """Where the jobs of a sweep leave their numbers and logs; on a cluster, a directory that all nodes see."""
    return runs_dir / ".slurm" / name


def submit(command: Sequence[str], folder: Path) -> None:
    """Have a Hydra multirun put its runs into the queue; it returns as soon as all of them are there.

    Raises:
        ConfigError: for jobs that were not taken, with SLURM's reason.
    """
    _require("sbatch")
    place = option("hydra.sweep.dir", folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f"))
    done = subprocess.run([*command, "hydra.launcher.wait=false", place], capture_output=True, text=True, check=False)
    if done.returncode:
        _, _, said = done.stderr.strip().partition("error: launcher=slurm: ")
        raise ConfigError("launcher", "slurm", said or done.stderr.strip().splitlines()[-1].removeprefix("error: "))


def states(folder: Path) -> Counter[str]:
    """State -> jobs in the queue of what was submitted there: PENDING, RUNNING and others of SLURM's words."""
    found: Counter[str] = Counter()
    if ids := _ids(folder):
        listed = _run("squeue", "--me", "--array", "--noheader", "--format=%F %T")
        for line in listed.splitlines():
            number, state = line.split()
            if number in ids:
                found[state] += 1
    return found


def cancel(folder: Path) -> int:
    """Take what is there out of the queue, stopping what runs; it has saved and can resume. Gives the jobs' number."""
    count = states(folder).total()
    if count:
        _run("scancel", *sorted(_ids(folder)))
    return count


def _ids(folder: Path) -> set[str]:
    """The numbers of all jobs ever submitted there; an array has one."""
    return {path.parent.name.split("_")[0] for path in folder.glob("*/.submitit/*/*_submitted.pkl")}


def _run(*command: str) -> str:
    _require(command[0])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError("launcher", "slurm", f"{command[0]} says: {done.stderr.strip()}")
    return done.stdout


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise ConfigError("launcher", "slurm", f"there is no {program} here: run this where SLURM's commands are")
