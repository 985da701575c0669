"""Public code of others on our network: their steps and mask updates, from the clones that `parity.peers` pins."""

import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from math import inf
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from parity.adapters import ham_wrapper
from parity.peers import HAM, PEERS, PLACE, Peer, fetch
from sparse_train.sparsity.topology import Topology

Steps = tuple[Callable[[], object], Callable[[], object] | None]  # of one step, and of one mask update
NEVER = {"T_end": 10**9, "delta": 10**8}
BY_CASE = {case: peer for peer in [*PEERS, HAM] for case in peer.cases}


def rigl_torch(model: nn.Module, optimizer: torch.optim.Optimizer, sparsity: float) -> Steps:
    """Its hooks mask gradients while they are made."""
    return _scheduled("rigl-torch", "rigl_torch.RigL", model, optimizer, sparsity)


def srigl(model: nn.Module, optimizer: torch.optim.Optimizer, sparsity: float) -> Steps:
    """The same, of later date; without the constant fan-in."""
    return _scheduled("SRigL", "rigl_torch.rigl_scheduler", model, optimizer, sparsity)


def itop(model: nn.Module, optimizer: torch.optim.Optimizer, sparsity: float) -> Steps:
    """With growth by gradients. Its `add_module` wants a GPU, so masks, ours, are put where it would put them."""
    core = _package(BY_CASE["ITOP"], "sparselearning.core")
    options = {"death_mode": "magnitude", "growth_mode": "gradient", "args": Namespace(fix=True, update_frequency=1)}
    decay = core.CosineDecay(0.3, 10**9)
    masking = core.Masking(optimizer, death_rate=0.3, death_rate_decay=decay, **options)
    masking.modules = [model]
    masking.masks = {name: mask.float() for name, mask in Topology(model, sparsity).masks.items()}
    return masking.step, masking.truncate_weights


def ham(model: nn.Module, optimizer: torch.optim.Optimizer, sparsity: float) -> Steps:
    """Its authors' wrapper, a block of the README. It knows of no masks: weights that are 0 stay it."""
    wrapper = ham_wrapper(_file(HAM))
    Topology(model, sparsity)
    return wrapper(optimizer, 80.0, 0.0, max_weight_norm=inf).step, None  # else it says each


OTHERS = {"rigl-torch, RigL": rigl_torch, "SRigL's RigL": srigl, "ITOP": itop, "dense SGD in HAM's wrapper": ham}


def present(
    make: Callable[[], tuple[nn.Module, torch.optim.Optimizer]], sparsity: float
) -> tuple[dict[str, Steps], list[str]]:
    """What can be had here, by name, and a line for each that cannot."""
    found, missing = {}, []
    for name, others in OTHERS.items():
        try:
            with redirect_stdout(StringIO()):  # they say much
                found[name] = others(*make(), sparsity)
        except (RuntimeError, ImportError) as error:
            missing.append(f"{name} is left out: {error}")
    return found, missing


def _scheduled(case: str, module: str, model: nn.Module, optimizer: torch.optim.Optimizer, sparsity: float) -> Steps:
    options = {"dense_allocation": 1 - sparsity, "ignore_linear_layers": False, **NEVER}
    scheduler = _package(BY_CASE[case], module).RigLScheduler(model, optimizer, **options)
    hooks = [(w, hook) for w, hook in zip(scheduler.W, scheduler.backward_hook_objects, strict=True) if hook]

    def step() -> None:
        for w, hook in hooks:
            hook(w.grad)
        optimizer.step()
        scheduler()

    def update() -> None:
        for w, hook in hooks:
            hook.dense_grad = w.grad
        scheduler._rigl_step()

    return step, update


def _file(peer: Peer) -> Path:
    PLACE.mkdir(exist_ok=True)
    return fetch(peer) / peer.part


def _package(peer: Peer, name: str) -> ModuleType:
    """A module of its clone. Two of them call their package alike, so it is not kept as imported."""
    PLACE.mkdir(exist_ok=True)
    with _path(str(fetch(peer) / peer.path)):
        module = import_module(name)
    root = name.split(".")[0]
    for key in [key for key in sys.modules if key.split(".")[0] == root]:
        del sys.modules[key]
    return module


@contextmanager
def _path(place: str):
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
