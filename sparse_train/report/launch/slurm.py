"""Jobs in SLURM's queue: put there by Hydra's submitit launcher, counted and cancelled by their numbers."""

import shutil
import subprocess
import time
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
    """Have a Hydra multirun put its runs into the queue, and return as soon as all of them are there.

    The launcher would wait for its jobs, which do not need it: it is ended.

    Raises:
        ConfigError: for jobs that were not taken, with SLURM's reason.
    """
    _require("sbatch")
    sweep = folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")
    sweep.mkdir(parents=True)
    log = sweep / "launcher.log"
    with log.open("w") as out:
        process = subprocess.Popen([*command, option("hydra.sweep.dir", sweep)], stdout=out, stderr=out)
        while not _submitted(sweep):
            if process.poll() is not None:
                said = log.read_text().strip().splitlines()
                raise ConfigError(
                    "launcher", "slurm", f"SLURM accepted no job: {said[-1] if said else ''} (full log: {log})"
                )
            time.sleep(0.2)
        process.terminate()
        process.wait()


def _submitted(sweep: Path) -> bool:
    """Whether every job has its number: submitit writes all jobs down, submits them at once, and moves each then."""
    return any(sweep.glob(".submitit/*/*_submitted.pkl")) and not any(sweep.glob(".submitit/*.pkl"))


def queue(folder: Path) -> Counter:
    """State -> jobs in the queue of what was submitted there: PENDING, RUNNING and others of SLURM's words."""
    states: Counter = Counter()
    if ids := _ids(folder):
        listed = _run("squeue", "--me", "--array", "--noheader", "--format=%F %T")
        for line in listed.splitlines():
            number, state = line.split()
            if number in ids:
                states[state] += 1
    return states


def cancel(folder: Path) -> int:
    """Take what is there out of the queue, stopping what runs; it has saved and can resume. Gives the jobs' number."""
    count = queue(folder).total()
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
