"""Which GPUs torch can use here, and in words why it can use none."""

import os
import re
import warnings
from functools import cache
from glob import glob

import torch

SLURMS = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS", "SLURM_GPUS_ON_NODE")
OLDER = "docs/installation.md says how to install torch for it"


@cache
def why_none() -> str:
    """Why torch can use no GPU; empty where it can. Asked once, since torch warns of the cause only once."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    if found := re.search(r"found version (\d+)", " ".join(str(one.message) for one in said)):
        runs = f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}"
        return f"the NVIDIA driver runs CUDA {runs}, too old for this torch, built for {torch.version.cuda}; {OLDER}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "this torch sees no CUDA device" + ("" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})")


def count() -> int:
    """How many GPUs torch can use."""
    return 0 if why_none() else torch.cuda.device_count()


def signs() -> str:
    """What shows that there are GPUs, whether torch can use them or not; empty if nothing does, or they are hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    variables = (f"{name}={os.environ[name]}" for name in SLURMS if os.environ.get(name))
    return next(iter([*sorted(glob("/dev/nvidia[0-9]*")), *variables]), "")


def why_not(device: torch.device) -> str:
    """Why this torch has no kernels for a GPU; empty where it has them.

    Machine code (`sm_`) runs on the same major version of the architecture from its minor version on, and
    intermediate code (`compute_`) on every later one (NVIDIA's CUDA C++ Programming Guide, section 3.1).
    """
    has, built = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    for kind, digits in (re.match(r"(\w+?)_(\d+)", name).groups() for name in built):
        version = divmod(int(digits), 10)
        if version <= has and (kind == "compute" or version[0] == has[0]):
            return ""
    name = torch.cuda.get_device_name(device)
    return f"{name} has compute capability {has[0]}.{has[1]}, which this torch has no kernels for; {OLDER}"
