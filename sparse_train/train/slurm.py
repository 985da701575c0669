"""What a SLURM job of ours asks for: submitit's arguments, and the environment in which sbatch is called."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sparse_train.errors import require

PER_RANK = ("--kill-on-bad-exit=1", "--export=ALL")  # a rank that fails ends the others; a rank has the job's variables
# Option -> the end of its SBATCH_ variable, where that is not the option's name in capitals.
VARIABLES = {"name": "JOB_NAME", "timeout_min": "TIMELIMIT", "mem_gb": "MEM_PER_NODE"}
# Ends of SBATCH_ variables that are hidden from sbatch, because they would break saving and resuming.
OURS = ("ARRAY_INX", "SIGNAL", "OUTPUT", "ERROR", "OPEN_MODE", "WAIT", "NO_REQUEUE")
FURTHER = "other options of sbatch go into hydra.launcher.additional_parameters"
GPUS = ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket")


def parameters(options: Mapping[str, Any], typed: Collection[str] = ()) -> dict[str, Any]:
    """submitit's arguments for SLURM.

    A job returns to the queue after its node fails (`--requeue`). `srun` is told the CPUs of a task, which since SLURM
    22.05 it does not take from the job. GPUs are asked for once: by `gpus_per_node`, unless another option does. So are
    CPUs, by `cpus_per_task`.

    Args:
        options: of `conf/hydra/launcher/slurm.yaml`; null is the cluster's default. `setup` is a line or a list of
            them; `additional_parameters` are sbatch's, and one that is false is left out.
        typed: those on the command line.

    Raises:
        ConfigError: names the key.
    """
    given = {key: value for key, value in options.items() if value is not None}
    further, setup = given.pop("additional_parameters", {}), given.pop("setup", [])
    key, lines = "hydra.launcher.setup", [setup] if isinstance(setup, str) else setup
    right = "must be a line of a shell or a list of them, such as '[module load cuda]'"
    require(isinstance(lines, list) and all(isinstance(line, str) for line in lines), key, setup, right)
    key, right = "hydra.launcher.additional_parameters", "must be options of sbatch, such as {mail-user: me}"
    require(isinstance(further, dict), key, further, right)
    minutes = given.get("timeout_min", 1)  # submitit counts with it
    require(type(minutes) is int and minutes > 0, "hydra.launcher.timeout_min", minutes, "must be a number of minutes")
    further = {"requeue": True} | {str(name).replace("_", "-"): value for name, value in further.items()}
    asked = [given.get("gres"), further.get("gres"), os.environ.get("SBATCH_GRES")]
    by_another = any("gpu" in str(gres) for gres in asked) or "gpus_per_task" in given
    by_another = by_another or any(name in further or os.environ.get(variable(name)) for name in GPUS)
    if by_another and "gpus_per_node" not in typed:
        given.pop("gpus_per_node", None)
    if "cpus_per_gpu" in given and "cpus_per_task" not in typed:
        given.pop("cpus_per_task", None)
    cpus = further.get("cpus-per-task", given.get("cpus_per_task"))
    given["srun_args"] = [*PER_RANK, *([f"--cpus-per-task={cpus}"] if cpus else []), *given.get("srun_args", [])]
    given["additional_parameters"] = {name: value for name, value in further.items() if value not in (None, False)}
    return {f"slurm_{key}": value for key, value in {**given, "setup": lines}.items()}


def variable(option: str) -> str:
    """The variable of the environment that means an option of sbatch: SBATCH_PARTITION for `partition`."""
    return f"SBATCH_{VARIABLES.get(option, option.replace('-', '_').upper())}"


@contextmanager
def submitting(typed: Collection[str]) -> Iterator[None]:
    """Inside, sbatch hears the SBATCH_ variables of the user, but for options that were typed and for what we rely on.

    sbatch itself lets them win over a script. Submitted from within a job, the new one inherits nothing of that job.

    Args:
        typed: options of the launcher on the command line.
    """
    away = {variable(option) for option in (*typed, *OURS)}
    if "SLURM_JOB_ID" in os.environ:
        away |= {name for name in os.environ if name.startswith(("SLURM_", "SRUN_")) and name != "SLURM_CONF"}
    kept = {name: os.environ.pop(name) for name in away if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept
