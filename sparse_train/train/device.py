"""The device of a run, and how torch computes on it."""

import ctypes
import os
from functools import cache

import torch
from omegaconf import DictConfig

from sparse_train.errors import require
from sparse_train.process import gpus
from sparse_train.process.console import say
from sparse_train.process.distributed import Ranks
from sparse_train.process.workers import is_worker, worker

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
WORKSPACE = ":4096:8"  # with which cuBLAS repeats its results (its documentation, section 2.1.4)


def pick_device(cfg: DictConfig, ranks: Ranks | None = None) -> torch.device:
    """The CPU or a GPU, as `device` and `gpus` ask; with several processes each has its own GPU.

    Warns where `device=auto` takes the CPU of a machine that seems to have GPUs.

    Raises:
        ConfigError: for GPUs that torch cannot use, and says why.
    """
    several = ranks is not None and ranks.world > 1
    why = "device=cpu uses none; leave one of the two out" if cfg.device == "cpu" else gpus.why_none()
    require(not why or cfg.gpus is None, "gpus", cfg.gpus, why)
    require(not why or cfg.device != "cuda", "device", cfg.device, f"{why}; use device=cpu or auto")
    if why:
        if cfg.device == "auto" and (there := gpus.signs()):
            _warn(f"the CPU is used, though there is {there}: {why}")
        return torch.device("cpu")
    right = "is for runs side by side; CUDA_VISIBLE_DEVICES names the GPUs of a run of several processes"
    require(cfg.gpus is None or not several, "gpus", cfg.gpus, right)
    right = f"there are GPUs 0 to {gpus.count() - 1}"
    require(cfg.gpus is None or max(cfg.gpus) < gpus.count(), "gpus", cfg.gpus, right)
    right = "has a GPU for each of several runs side by side; add hydra/launcher=local, or name one GPU"
    require(cfg.gpus is None or len(cfg.gpus) == 1 or is_worker(), "gpus", cfg.gpus, right)
    device = torch.device("cuda")
    if several:
        device = torch.device("cuda", ranks.gpu)
    elif cfg.gpus is not None:
        device = torch.device("cuda", cfg.gpus[worker() % len(cfg.gpus)])
        torch.cuda.set_device(device)
    unknown = gpus.why_not(device)
    require(not unknown, "device", device, unknown)
    return device


@cache
def _warn(line: str) -> None:
    """Once in a process, however many runs it has."""
    say(f"warning: {line}")


def set_up_torch(cfg: DictConfig, device: torch.device, tf32: bool | None = None) -> None:
    """Threads, on a CPU whether freed memory is kept, and on a GPU whether results repeat and how convolutions round.

    With `deterministic` an operation without a deterministic algorithm warns and runs. Products of matrices are exact
    float32 in any case, torch's default.

    Args:
        tf32: instead of the configured one.
    """
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    torch.backends.cudnn.deterministic = cfg.deterministic
    torch.backends.cudnn.benchmark = not cfg.deterministic
    if device.type != "cuda":  # on a CPU results repeat anyway
        _keep_freed_memory()
        return
    torch.backends.cudnn.allow_tf32 = cfg.tf32 if tf32 is None else tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(cfg.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # which only takes time
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)


@cache
def _keep_freed_memory() -> None:
    """Tells malloc to keep freed memory for the next step, where it is glibc's (mallopt(3)).

    By default it returns every large block to the system, and each step's activations cause their page faults anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, 2**31 - 1)
