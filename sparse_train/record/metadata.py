"""The metadata of a record: name, configuration, and what the run ran on, to say why two results differ."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sparse_train.options.names import called
from sparse_train.options.targets import foreign_targets
from sparse_train.pinned import paths, pinned
from sparse_train.source import foreign, training_code

PATHS = ("data_dir", "runs_dir")
PACKAGES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "scikit-learn")
ROUNDING = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # instruction sets, as Linux calls them


def metadata(cfg: DictConfig, name: str, device: torch.device) -> dict:
    """Name, configuration, options taken, sweep, versions, git revision, hardware, threads, `compile` and `sync_bn`.

    Where the configuration names classes that are not ours: of each its package, version and code, as `foreign`.
    """
    config = {key: value for key, value in OmegaConf.to_container(cfg, resolve=True).items() if key != "artifact"}
    written = OmegaConf.to_container(cfg, resolve=False)
    config |= {key: written[key] for key in PATHS if key in written}  # what the environment says stays there
    for key, section, part in paths(config):
        section[part] = pinned(key, section[part])
    named = foreign(foreign_targets(config))
    theirs = {"foreign": named} if named else {}
    known = {"name": name, "config": config, "choices": choices(), "sweep": sweep(), **theirs, **describe(device)}
    return known | {key: config[key] for key in ("compile", "sync_bn")}


def choices() -> dict[str, str]:
    """The option taken of each group, by which people call a run."""
    if not HydraConfig.initialized():
        return {}
    return called(HydraConfig.get().runtime.choices)


def sweep() -> str | None:
    """The sweep file that the run was launched by; None for a run of its own."""
    name = HydraConfig.get().job.config_name if HydraConfig.initialized() else None
    return None if name == "config" else name


def describe(device: torch.device) -> dict:
    """Versions, git revision, hash of our code, hardware and threads. No host names, paths, environment variables."""
    return {
        "versions": versions(),
        "git": _revision(),
        "code": training_code(),
        "hardware": {**_device(device), **_cpu(), "system": platform.system()},
        "threads": torch.get_num_threads(),
    } | ({"environment": found} if (found := _arithmetic()) else {})


def _arithmetic() -> dict[str, str]:
    """Variables of the environment that choose other kernels, and so other last bits."""
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_", "DNNL_", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE")
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(names)}


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
    """The commit of this checkout, "-dirty" where tracked files differ from it; None outside a checkout of ours.

    A checkout may belong to another user, as in a container. One that ignores this package, as a user's repository
    ignores its virtual environment, is not ours, and neither is what `GIT_DIR` names.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    root = Path(__file__).parent
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    run = {"capture_output": True, "text": True, "check": True, "timeout": 10, "env": env}
    return subprocess.run(["git", "-c", "safe.directory=*", "-C", str(root), *words], **run).stdout.strip()


def _device(device: torch.device) -> dict:
    """Its name; of a GPU the libraries too, and whether convolutions round to TF32."""
    if device.type != "cuda":
        return {"device": "cpu"}
    libraries = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"device": torch.cuda.get_device_name(device), **libraries, "tf32": torch.backends.cudnn.allow_tf32}


@cache
def _cpu() -> dict[str, str]:
    """Its name, and the instruction sets that decide how sums are rounded: CPUs of one name can differ in them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = about.get("model name") or platform.processor() or platform.machine()
    found = [one for one in ROUNDING if one in about.get("flags", "").split()]
    return {"cpu": name, "instructions": " ".join(found) or torch.backends.cpu.get_cpu_capability()}
