"""What a run ran on: enough to say why two results differ."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from sparse_train.source import training_code

PACKAGES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "scikit-learn")


def describe(device: torch.device) -> dict:
    """Versions, git revision, hash of our code, hardware and threads. No host names, paths, environment variables."""
    return {
        "versions": versions(),
        "git": _revision(),
        "code": training_code(),
        "hardware": {"device": _device_name(device), "cpu": _cpu_name(), "system": platform.system()},
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str | None]:
    """Of Python and the packages that results depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def peak_memory_mib(device: torch.device) -> float:
    """The most memory held so far: by this process, or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _revision() -> str | None:
    """The commit of this checkout, "-dirty" where tracked files differ from it; None outside a checkout."""
    root = Path(__file__).parent
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        return subprocess.run(run, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
