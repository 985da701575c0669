"""Several processes, one run: torchrun or SLURM starts them, one per GPU; none starts another.

Every rank trains on its share of the same global batches; gradients are averaged before anything looks at them, and all
random choices are named, so masks agree by construction. Only rank 0 writes.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sparse_train.errors import require
from sparse_train.process import console, gpus

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # with a rank that neither answers nor dies
SILENCE = 5.0  # seconds of waiting for the others before a line says so


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: of `world`; 0 writes.
        local: which of the processes on this machine, and so which GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def gpu(self) -> int:
        """The index of this process's GPU: its own among the machine's, or 0 if SLURM shows it only one."""
        return self.local % torch.cuda.device_count()

    def cpus(self) -> int:
        """CPUs for this process, at least 1: those that it may run on, shared with the ranks of this machine that may
        run on them too, and with the runs beside this one. All ranks must call it."""
        from sparse_train.process.workers import side_by_side  # needs signals that Windows has not

        mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        found: list = [(socket.gethostname(), mine)] * self.world
        if self.world > 1:
            dist.all_gather_object(found, found[0])
        sharing = Counter(cpu for host, theirs in found if host == socket.gethostname() for cpu in theirs)
        return max(1, len(mine) // max(sharing[cpu] for cpu in mine) // side_by_side())

    def sum(self, value: Tensor) -> Tensor:
        """Over all ranks, on every one of them; a new tensor."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        return self._reduced(value, dist.ReduceOp.MAX)

    def largest(self, value: int, device: torch.device) -> int:
        """Of all ranks' numbers; waits for all of them."""
        return int(self.max(torch.tensor(int(value), device=device))) if self.world > 1 else int(value)

    def gathered(self, value: Tensor) -> Tensor:
        """(world, ...): everybody's, on every rank."""
        if self.world == 1:
            return value[None]
        parts = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(parts, value)
        return torch.stack(parts)

    def require_same(self, what: Mapping[str, Any]) -> None:
        """Raise an error on every rank, with the key, unless all ranks have the same values."""
        if self.world == 1:
            return
        found: list = [None] * self.world
        dist.all_gather_object(found, dict(what))
        for key in dict.fromkeys(key for theirs in found for key in theirs):
            first = found[0].get(key)
            for rank, theirs in enumerate(found):
                right = f"on process {rank}, but {first} on process 0; all processes of a run need the same"
                require(theirs.get(key) == first, key, theirs.get(key), right)

    def from_main(self, choice: Callable[[], T]) -> T:
        """Call `choice` on rank 0 and return its result on every rank; its error is raised on every rank."""
        if self.world == 1:
            return choice()
        found: list = [None, None]
        if self.main:
            try:
                found[0] = choice()
            except Exception as error:
                found[1] = error
        dist.broadcast_object_list(found, src=0)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def _reduced(self, value: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value, how)
        return value


def join(device: str = "auto", backend: str = "auto") -> Ranks:
    """Join the processes that torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, ...) started; alone without them.

    Called again, it gives the same answer: a sweep joins once.

    Args:
        device, backend: as configured. NCCL carries tensors on GPUs, unless the backend is gloo; gloo carries others.

    Raises:
        ConfigError: if there are fewer GPUs than processes on this machine, and NCCL connects them.
    """
    ranks = _from_environment()
    if ranks.world > 1 and not dist.is_initialized():
        how: dict[str, Any] = {"backend": "gloo"}
        if device != "cpu" and gpus.count():
            if backend == "auto":
                _require_a_gpu_each(ranks)
                how = {"backend": "cpu:gloo,cuda:nccl", "device_id": torch.device("cuda", ranks.gpu)}
            torch.cuda.set_device(ranks.gpu)
        with _connecting(ranks):
            dist.init_process_group(**how, rank=ranks.rank, world_size=ranks.world, timeout=PATIENCE)
    console.quiet(not ranks.main)
    return ranks


@contextlib.contextmanager
def _connecting(ranks: Ranks) -> Iterator[None]:
    """While the processes wait for each other, signals end this one at once, and one line says what it waits for."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    said = f"process {ranks.rank} waits for the other {ranks.world - 1} at {where}"
    timer = threading.Timer(SILENCE, console.say, [f"{said}, {PATIENCE.seconds // 60} minutes at most"])
    timer.daemon = True
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGINT)} if main else {}
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def present() -> Ranks:
    """This process among those that torch knows of, whoever joined them; alone without."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks()


def leave() -> None:
    """Part from the others at the end of the program."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _from_environment() -> Ranks:
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return Ranks(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))
    world = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if world == 1:
        return Ranks()
    env.setdefault("MASTER_ADDR", _first_node(env["SLURM_STEP_NODELIST"]))
    step = 101 * int(env.get("SLURM_STEP_ID", 0))  # two steps of a job may run side by side
    env.setdefault("MASTER_PORT", str(20_000 + (int(env["SLURM_JOB_ID"]) + step) % 20_000))
    return Ranks(int(env["SLURM_PROCID"]), world, int(env["SLURM_LOCALID"]))


def _require_a_gpu_each(ranks: Ranks) -> None:
    """SLURM may show each task one GPU of its own, which is then GPU 0; torchrun shows every process all of them."""
    torchrun, there = "RANK" in os.environ, gpus.count()
    if torchrun:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.local + 1))
    else:  # "4(x2),2": four tasks on two nodes each, two on the next
        tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", str(ranks.local + 1))
        here = max(int(part.partition("(")[0]) for part in tasks.split(","))
    right = f"there {'is 1 GPU' if there == 1 else f'are {there} GPUs'} on this machine, and each process needs its own"
    enough = here <= there or (there == 1 and not torchrun)
    require(enough, "processes", here, f"{right}; start {there}, or let them share by backend=gloo")


def _first_node(nodes: str) -> str:
    """`gpu[03-07]` -> `gpu03`, by SLURM's own reading."""
    return subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    ).stdout.split()[0]
