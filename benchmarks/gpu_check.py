"""`make gpu-check`: whether a GPU computes what the CPU does, repeats itself, never waits, and how fast it trains.

Needs no data set. On a GPU it takes less than 8 minutes. With DEVICE=cpu every part runs on small sizes, to test this
file; speeds then have no goal. Each part runs in a process of its own, and one that fails stops no other.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import sparse_train
from benchmarks.forks import FORK, FailedError, Forked, NotHereError
from benchmarks.measure import interleaved
from benchmarks.sections import network, ours, resnet50, step_cases, update_case
from sparse_train import SET, RigL, SparseOpt, SparseSGD, Topology, Updater
from sparse_train.__main__ import CONF
from sparse_train.__main__ import main as entrypoint
from sparse_train.models.init import kaiming_normal
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.process import console, gpus
from sparse_train.process.console import RunBar, piped
from sparse_train.process.distributed import leave
from sparse_train.process.signals import SignalHandler
from sparse_train.record.files import typed_path, write_whole
from sparse_train.record.metadata import describe
from sparse_train.record.record import Record
from sparse_train.train import loop
from sparse_train.train.build import Run, build
from sparse_train.train.checkpointing import Checkpointing, Interval, Progress
from sparse_train.train.device import set_up_torch
from sparse_train.train.graph import StepGraph, Work, recorded
from sparse_train.train.meter import Meter

BUDGET, PATIENCE = 480, 600  # seconds for everything on a GPU, and for a part on a CPU
FINE, MISSED, FAILED, NOT_HERE = "fine", "missed", "failed", "not here"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: was looked at.
        found: in words.
        value: the number, if it is one.
        verdict: "fine"; "missed", a goal, or the time to look; "failed"; "not here"; empty for what has no goal.
    """

    what: str
    found: str
    value: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        images, batch: of an epoch of ResNet20.
        width: of ResNet20.
        large: options of the network in ResNet50's place.
        rounds: how often each time is taken.
        packs: numbers of runs side by side.
    """

    images: int
    batch: int
    width: float
    large: tuple[str, ...]
    rounds: int
    packs: tuple[int, ...]


IMAGENET = (
    "model=resnet50",
    "dataset.image_size=224",
    "+dataset.num_classes=1000",
    "dataset.pad=0",
    "dataset.flip=false",
)
BIG = Size(50_000, 256, 1.0, (*IMAGENET, "batch_size=256", "+dataset.train_images=2560"), 5, (1, 4, 8))
SMALL = Size(32, 8, 0.25, ("model.width=0.25", "batch_size=8", "+dataset.train_images=16"), 1, (1, 2))
RANDOM = ("dataset=cifar100", "dataset._target_=benchmarks.random_images.random_images", "threads=1")


def built(device: torch.device, *options: str) -> Run:
    """A run as the command line would build it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", overrides=[f"device={device.type}", *options]))


def epoch(run: Run, number: int = 0, meter: Meter | None = None) -> float:
    """Train one, by the project's loop; gives its seconds, the wait for the device included."""
    keeper = Checkpointing(run, Record(tempfile.gettempdir(), "gpu-check"), Interval(), SignalHandler())
    meter = meter or run.meter()
    meter.reset()
    started = time.perf_counter()
    loop.train_epoch(run, number, Progress([], 0, meter, 0.0), keeper, started, RunBar(1, len(run.data.train)))
    return time.perf_counter() - started


# --- facts ---


def facts(device: torch.device, size: Size) -> Iterator[Row]:
    """What everything below was found with."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        set_up_torch(compose("config"), device)
    about = describe(device)
    for what, found in {**about["versions"], **about["hardware"], "code": about["code"]}.items():
        yield Row(what, str(found))
    yield Row("matrix products in TF32", str(torch.backends.cuda.matmul.allow_tf32))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield Row("GPUs", str(gpus.count()))
        yield Row("memory", f"{properties.total_memory / 2**30:.0f} GiB", properties.total_memory / 2**30)
        yield Row(
            "compute capability",
            f"{properties.major}.{properties.minor}, kernels {' '.join(torch.cuda.get_arch_list())}",
        )
        yield Row("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            yield Row("driver", subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip())
    lacks = gpus.why_not(device) if device.type == "cuda" else ""
    yield Row("kernels for this device", lacks or "yes", verdict=FAILED if lacks else FINE)


# --- the same numbers ---


def agreement(device: torch.device, size: Size) -> Iterator[Row]:
    """30 steps with mask updates in float64: the CPU against the GPU, or against channels last on the CPU."""
    layout = torch.contiguous_format if device.type == "cuda" else torch.channels_last
    for method in (RigL(), SET()):
        name = type(method).__name__
        one = thirty_steps(method, torch.device("cpu"), torch.contiguous_format, size.width)
        other = thirty_steps(method, device, layout, size.width)
        differ = sum(int((mask != other.masks[key].cpu()).sum()) for key, mask in one.masks.items())
        changed = sum(int((mask ^ one.visited[key]).sum()) for key, mask in one.masks.items())
        yield Row(
            f"{name}: mask positions that differ",
            f"{differ}; {changed:,} changed on the way",
            differ,
            judged(not differ and changed),
        )
        apart = max(float((w - other.weights[key].cpu()).detach().abs().max()) for key, w in one.weights.items())
        yield Row(
            f"{name}: largest difference of a weight (at most 1e-9)", f"{apart:.1e}", apart, judged(apart <= 1e-9)
        )


def thirty_steps(method: Any, device: torch.device, layout: torch.memory_format, width: float) -> Topology:
    model = ResNet20(10, width=width)
    kaiming_normal(model, 0)
    model.to(device, torch.float64, memory_format=layout)
    topology = Topology(model, 0.9)
    optimizer = SparseSGD(
        model.parameters(), topology, lr=0.05, momentum=0.9, weight_decay=5e-4, precondition=SparseOpt()
    )
    updater = Updater(topology, optimizer, method, total_steps=40, every=7)
    for step in range(30):
        draw = torch.Generator().manual_seed(step)
        images = torch.randn(16, 3, 16, 16, generator=draw, dtype=torch.float64).to(device, memory_format=layout)
        labels = torch.randint(10, (16,), generator=draw).to(device)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        if updater.due(step):
            updater.update(step)
        else:
            optimizer.step()
    return topology


# --- waits ---

# Where the host may wait for the device, and how often in an epoch. An update may wait as it needs.
ALLOWED = {"updater.update": math.inf, "checkpointing.check": math.inf, "memory.epoch": 6}
ALLOWED |= {f"meter.{name}": 4 for name in ("mean_loss", "accuracy", "mean_norm", "images", "noted")}
READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal")  # what waits, of operations on a CPU


class Waits:
    """Counts where the host waits for the device: function of ours -> how often, by `set_sync_debug_mode`.

    On a CPU it counts the operations that would wait on a GPU.
    """

    def __init__(self, device: torch.device):
        self.places, self.undetermined, self.cuda = Counter[str](), set[str](), device.type == "cuda"

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        if not self.cuda:
            with Reading(self.note):
                yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = self.warned
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")

    def warned(self, message: Warning | str, *_: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            self.note()
        elif "deterministic" in str(message):
            self.undetermined.add(str(message).split()[0])

    def note(self) -> None:
        home, frame, seen = str(Path(sparse_train.__file__).parent), sys._getframe(1), []
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(home) and not code.co_name.startswith("<"):
                seen.append(f"{Path(code.co_filename).stem}.{code.co_name}")
            frame = frame.f_back
        self.places[next((name for name in seen if name in ALLOWED), seen[0] if seen else "elsewhere")] += 1


class Reading(TorchDispatchMode):
    def __init__(self, note: Callable[[], None]):
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function.overloadpacket.__name__ in READING:
            self.note()
        return function(*args, **(kwargs or {}))


def waits(device: torch.device, size: Size) -> Iterator[Row]:
    """The second epoch of ResNet20, with mask updates."""
    options = (f"model.width={size.width}", f"batch_size={size.batch}", f"+dataset.train_images={12 * size.batch}")
    run, seen = built(device, *RANDOM, *options, "update_every=5", "epochs=3"), Waits(device)
    with seen.watching():
        epoch(run)
        seen.places.clear()  # a first epoch makes what the others use
        epoch(run, 1)
    for place, count in seen.places.most_common():
        most = ALLOWED.get(place, 0)
        right = "as it needs" if most == math.inf else f"at most {most}"
        yield Row(f"waits in {place} ({right})", f"{count} in 12 steps", count, judged(count <= most))
    there = seen.places["updater.update"]
    yield Row("the watch sees waits at all: those of mask updates", str(there), there, judged(there))
    yield Row("operations without a deterministic algorithm", ", ".join(sorted(seen.undetermined)) or "none")


# --- the same again ---

DIGITS = ("dataset=digits", "model.width=0.5", "update_every=3", "epochs=3", "threads=1", "optimizer=sparseopt_ham")


def commanded(environment: dict[str, str], options: tuple[str, ...], log: Path, kill_in: int = 0) -> Iterator[None]:
    """`python -m sparse_train OPTION...`, and SIGKILL in the given call of the loss."""
    os.environ.update(environment)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    console.quiet(False)
    calls, loss = [], Run.loss

    def killed(run: Run, *batch: Any) -> Any:
        calls.append(1)
        if len(calls) == kill_in:
            os.kill(os.getpid(), 9)
        return loss(run, *batch)

    Run.loss = killed
    sys.argv = ["sparse_train", *options]
    try:
        entrypoint()
    except SystemExit as stop:
        if stop.code:
            sys.stderr.flush()
            raise FailedError(log.read_text().strip().splitlines()[-1]) from None
    leave()
    yield from ()


def trained(place: Path, device: torch.device, *options: str, ranks: int = 1, kill_in: int = 0) -> Path:
    """Train by command in processes of their own; gives the run's directory."""
    environments: list[dict[str, str]] = [{}]
    if ranks > 1:
        port = str(20_000 + os.getpid() % 20_000)
        common = {
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        common |= {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
        environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    words = (*options, f"device={device.type}", f"runs_dir={place / 'runs'}")
    place.mkdir(exist_ok=True)
    children = [Forked(commanded, one, words, place / f"log{rank}", kill_in) for rank, one in enumerate(environments)]
    try:
        for child in children:
            list(child.results(120))
    finally:
        for child in children:
            child.stop()
    [found] = (place / "runs").glob("*/record.json")
    return found.parent


def repetition(device: torch.device, size: Size) -> Iterator[Row]:
    """Digits with ResNet20, by command: two runs, and one that is killed in its second epoch and resumed."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        first = trained(place / "first", device, *DIGITS)
        second = trained(place / "second", device, *DIGITS)
        with contextlib.suppress(FailedError):
            trained(place / "killed", device, *DIGITS, "checkpoint_steps=2", kill_in=14)
        [broken] = (place / "killed" / "runs").glob("*/record.json")
        if json.loads(broken.read_text())["status"] != "running":
            raise FailedError("the run that was to be killed was not")
        resumed = trained(place / "killed", device, *DIGITS, "checkpoint_steps=2")
        for name, other in (("run twice", second), ("killed and resumed", resumed)):
            for file in ("model.safetensors", "masks.safetensors"):
                same = (first / file).read_bytes() == (other / file).read_bytes()
                yield Row(f"{name}: {file}", "the same bytes" if same else "differs", verdict=judged(same))
        content = (place / "killed" / "log0").read_text()
        yield Row(
            "the killed run took up its checkpoint",
            str("resuming after" in content),
            verdict=judged("resuming after" in content),
        )


# --- a step as one CUDA graph ---


def graphs(device: torch.device, size: Size) -> Iterator[Row]:
    """Two epochs of ResNet20 with mask updates, replayed, against the same steps launched one by one."""
    there = device.type == "cuda"
    if not there:
        yield Row("CUDA graphs", "not here: they need a GPU; each step is launched instead", verdict=NOT_HERE)
    sizes = (f"model.width={size.width}", f"batch_size={size.batch}", f"+dataset.train_images={24 * size.batch}")
    options = (*RANDOM, *sizes, "update_every=5", "epochs=2")
    cases = {
        "RigL + SparseOpt + HAM, bounded norm": ("optimizer=sparseopt_ham", "renorm=unit"),
        "bf16, channels last": ("optimizer=sparseopt", *FAST),
        "equal angles, by SET": ("optimizer=equal_angle", "dst=set"),
    }
    for name, how in cases.items():
        yield from attempt(name, 90, replayed, name, device, recorded if there else launched, *options, *how)


def replayed(name: str, device: torch.device, record: Callable[[Work], Work], *options: str) -> Iterator[Row]:
    made, ends = [], []

    def counted(work: Work) -> Work:
        made.append(work)
        return record(work)

    for recording in (counted, launched):
        run = built(device, *options)
        run.graph, meter = StepGraph(recording), run.meter()
        for number in range(2):
            epoch(run, number, meter)
        ends.append([*run.model.state_dict().values(), *run.topology.masks.values()])
    same = all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    yield Row(f"{name}: weights and masks", "the same bits" if same else "differ", verdict=judged(same))
    yield Row(f"{name}: recorded", f"{len(made)} times in 48 steps", len(made), judged(len(made) == 1))


def launched(work: Work) -> Work:
    """In a recording's place: every step of `StepGraph` is launched, with its tensors."""
    return work


# --- several processes ---


def processes(device: torch.device, size: Size) -> Iterator[Row]:
    """NCCL in a world of one; two processes that share this device by gloo, against one; SyncBN."""
    yield from attempt("a world of one", 60, world_of_one, device)
    yield from attempt("two processes by gloo", 200, pair, device)
    yield from attempt("SyncBN", 200, synchronized, device)


def world_of_one(device: torch.device) -> Iterator[Row]:
    there = device.type == "cuda"
    if not there:
        yield Row("NCCL", "not here: it needs a GPU; gloo instead", verdict=NOT_HERE)
    how = {"backend": "cpu:gloo,cuda:nccl", "device_id": torch.device("cuda", 0)} if there else {"backend": "gloo"}
    with tempfile.TemporaryDirectory() as directory:
        dist.init_process_group(**how, init_method=f"file://{directory}/store", rank=0, world_size=1)
        ones, objects = torch.ones(3, device=device), [None]
        dist.all_reduce(ones)
        dist.all_gather_object(objects, {"lr": 0.1})
        same = bool((ones == 1).all()) and objects == [{"lr": 0.1}]
        yield Row(f"{dist.get_backend()}: a sum, and an object", "right" if same else "wrong", verdict=judged(same))
        model, batch = network(device), torch.randn(8, 3, 32, 32, device=device)
        parallel = DistributedDataParallel(model)
        [expected] = torch.autograd.grad(model(batch).square().mean(), model.conv1.weight)
        model.zero_grad()
        parallel(batch).square().mean().backward()
        apart = float((model.conv1.weight.grad - expected).abs().max() / expected.abs().max())
        yield Row("DistributedDataParallel: gradient against none", f"{apart:.1e}", apart, judged(apart < 1e-4))
        dist.destroy_process_group()


def pair(device: torch.device) -> Iterator[Row]:
    plain = (
        "dataset=digits",
        "model=mlp",
        "model.norm=none",
        "update_every=3",
        "epochs=2",
        "threads=1",
        "sparsity=0.8",
    )
    yield from compared("two processes by gloo", device, 1e-4, "backend=gloo", *plain)


def synchronized(device: torch.device) -> Iterator[Row]:
    if device.type != "cuda":
        raise NotHereError("torch's SyncBatchNorm needs a GPU")
    options = ("dataset=digits", "model.width=0.5", "update_every=3", "epochs=1", "threads=1", "tf32=false")
    yield from compared("SyncBN", device, 1e-2, "backend=gloo", "sync_bn=true", *options)


def compared(name: str, device: torch.device, within: float, *options: str) -> Iterator[Row]:
    """The run of two processes that share the device, against that of one."""
    with tempfile.TemporaryDirectory() as directory:
        records = []
        for ranks in (1, 2):
            run_dir = trained(Path(directory, str(ranks)), device, *options, ranks=ranks)
            records.append(json.loads((run_dir / "record.json").read_text()))
        count = records[1]["processes"]
        yield Row(f"{name}: processes in the record", str(count), verdict=judged(count == 2))
        losses = [record["final"]["test_loss"] for record in records]
        apart = abs(losses[0] - losses[1]) / losses[0]
        said = f"{apart:.1e}: {losses[0]:.6f} and {losses[1]:.6f}"
        yield Row(f"{name}: test loss against one process (at most {within:g})", said, apart, judged(apart <= within))


# --- speed ---


def optimizer(device: torch.device, size: Size) -> Iterator[Row]:
    """ResNet50: the optimizer's step against dense fused SGD, and a mask update."""
    make = resnet50 if size is BIG else network
    times = interleaved(step_cases(make, device), device, rounds=size.rounds, calls=20 if size is BIG else 1)
    base = median(times["dense SGD, fused"])
    for name, seconds in times.items():
        ratio = median(seconds) / base
        goal = f" (at most {GOAL_STEP:g})" if name == "RigL + SparseOpt" else ""
        verdict = judged(ratio <= GOAL_STEP, MISSED) if goal and size is BIG else ""
        yield Row(
            f"step over dense fused SGD's: {name}{goal}",
            f"{ratio:.2f}; {1000 * median(seconds):.3f} ms",
            ratio,
            verdict,
        )
    for method in (RigL(), SET()):
        optimizer = ours(make(device), {"precondition": SparseOpt()})
        update = update_case(Updater(optimizer.topology, optimizer, method, total_steps=10**9, every=1), optimizer)
        found = 1000 * median(interleaved({"": update}, device, rounds=size.rounds)[""])
        yield Row(f"mask update, {type(method).__name__}", f"{found:.1f} ms", found)


GOAL_STEP, GOAL_RATE = 1.1, 0.98
ROOMY = 30 * 2**30  # bytes; ResNet50 with 256 images needs about 24 GiB
FAST = ("amp=bf16", "channels_last=true")


def small_network(device: torch.device, size: Size) -> Iterator[Row]:
    """ResNet20 on images of CIFAR's size, RigL + SparseOpt: seconds an epoch, and several runs side by side."""
    options = (*RANDOM, f"model.width={size.width}", f"batch_size={size.batch}", f"+dataset.train_images={size.images}")
    for name, how in {"eager, float32": (), "bf16, channels last": FAST}.items():
        yield from attempt(name, 90, timed, name, device, size, *options, *how)
    name = "bf16, channels last, reduce-overhead"
    yield from attempt(name, 150, timed, name, device, size, *options, *FAST, "compile=reduce-overhead")
    for name, how in {"a step as one graph": (), "a step as one graph, compiled": ("compile=true",)}.items():
        name = f"bf16, channels last, {name}"
        yield from attempt(name, 150, timed, name, device, size, *options, *FAST, "execution=graph", *how)
    for count in size.packs:
        name = f"{count} side by side: a run's share of the time"
        yield from attempt(name, 90, packed, name, device, size, count, *options, *FAST)


def timed(name: str, device: torch.device, size: Size, *options: str) -> Iterator[Row]:
    if device.type != "cuda" and {"compile=reduce-overhead", "execution=graph"} & set(options):
        raise NotHereError("it is CUDA graphs")
    run = built(device, *options)
    meter = run.meter()
    epoch(run, 0, meter)
    seconds = median(epoch(run, number, meter) for number in range(1, 1 + size.rounds))
    yield Row(name, f"{seconds:.3f} s an epoch, {run.data.train.samples / seconds:,.0f} images/s", seconds)


def packed(name: str, device: torch.device, size: Size, count: int, *options: str) -> Iterator[Row]:
    ready = FORK.Barrier(count)
    children = [Forked(beside, ready, device, size.rounds, *options) for _ in range(count)]
    try:
        seconds = max(found for child in children for found in child.results(80)) / count
    finally:
        for child in children:
            child.stop()
    yield Row(name, f"{seconds:.3f} s an epoch", seconds)


def beside(ready: Any, device: torch.device, rounds: int, *options: str) -> Iterator[float]:
    run = built(device, *options)
    epoch(run)
    ready.wait()
    started = time.perf_counter()
    for number in range(1, 1 + rounds):
        epoch(run, number)
    yield (time.perf_counter() - started) / rounds


def large_network(device: torch.device, size: Size) -> Iterator[Row]:
    """ResNet50 in bf16 with channels last: images a second, sparse and dense, and by a loop without this project."""
    options = (*RANDOM, *size.large, *FAST, "deterministic=false")
    if device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory < ROOMY:
        options += ("batch_size=64",)
    sparse, dense = (
        built(device, *options, "optimizer=sparseopt"),
        built(device, *options, "dst=dense", "optimizer=sgd"),
    )
    cases = {"sparse, RigL + SparseOpt": lambda: epoch(sparse), "dense, by our loop": lambda: epoch(dense)}
    cases["dense, by a plain loop"] = plain(dense)
    times = interleaved(cases, device, rounds=size.rounds)
    base = median(times["dense, by a plain loop"])
    for name, seconds in times.items():
        share = base / median(seconds)
        goal = f" (at least {GOAL_RATE:g} of the plain loop)" if name.startswith("sparse") else ""
        found = f"{dense.data.train.samples / median(seconds):,.0f} images/s, {share:.3f} of the plain loop"
        verdict = judged(share >= GOAL_RATE, MISSED) if goal and size is BIG else ""
        yield Row(f"{name}{goal}", found, dense.data.train.samples / median(seconds), verdict)


def plain(run: Run) -> Callable[[], float]:
    """The loop that everybody writes, on the same model and batches: autocast, fused SGD, the loss read at the end."""
    model = deepcopy(run.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)

    def train() -> float:
        model.train()
        total = torch.zeros((), device=run.device)
        for images, labels in run.data.train.epoch(0):
            optimizer.zero_grad()
            with torch.autocast(run.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item()

    return train


# --- all of it ---

# name -> title, seconds at most on a GPU, what is done
PARTS: dict[str, tuple[str, float, Callable[[torch.device, Size], Iterator[Row]]]] = {
    "facts": ("Facts", 60, facts),
    "agreement": ("30 float64 steps with mask updates: CPU against device", 90, agreement),
    "waits": ("An epoch under set_sync_debug_mode: waits only where allowed", 90, waits),
    "repetition": ("Run twice; killed and resumed", 150, repetition),
    "graphs": ("A step as one CUDA graph", 120, graphs),
    "processes": ("Several processes", 240, processes),
    "optimizer": ("ResNet50's optimizer", 90, optimizer),
    "small": ("ResNet20, an epoch of CIFAR's size", 300, small_network),
    "large": ("ResNet50, bf16 with channels last", 120, large_network),
}


def judged(fine: object, otherwise: str = FAILED) -> str:
    return FINE if fine else otherwise


def attempt(name: str, seconds: float, work: Callable[..., Iterator[Row]], *arguments: Any) -> Iterator[Row]:
    """Its rows, in a process of its own; and one for what went wrong."""
    try:
        yield from Forked(work, *arguments).results(seconds)
    except NotHereError as error:
        yield Row(name, f"not here: {error}", verdict=NOT_HERE)
    except FailedError as error:
        yield Row(name, f"failed: {error}", verdict=FAILED)


def available(asked: str) -> Iterator[str]:
    """Where the parts compute. A process of its own asks, for one that asked could fork none that use CUDA."""
    why = "" if asked == "cpu" else gpus.why_none()
    if why and (asked == "cuda" or (asked == "auto" and gpus.signs())):
        raise FailedError(why)
    yield "cpu" if asked == "cpu" or why else "cuda"


def quietly(work: Callable[[torch.device, Size], Iterator[Row]], kind: str) -> Iterator[Row]:
    """A part, silent but for its rows."""
    console.quiet(True)
    if torch.cuda._is_in_bad_fork():
        raise FailedError("CUDA was used before this process was forked")
    yield from work(torch.device(kind), SMALL if kind == "cpu" else BIG)


def check(kind: str, names: list[str]) -> tuple[str, list[dict]]:
    """Run these parts on the CPU or a GPU, printing each row as it comes; gives the verdict and all rows by part."""
    started, parts, verdicts = time.monotonic(), [], []
    for name in names:
        title, most, work = PARTS[name]
        began = time.monotonic()
        budget = BUDGET - (began - started) if kind == "cuda" else math.inf
        left = min(budget, most if kind == "cuda" else PATIENCE)
        print(f"\n{title}", flush=True)
        rows = []
        late = Row(title, f"not measured: the {BUDGET} s are over; alone: --part {name}", verdict=MISSED)
        for row in attempt(title, left, quietly, work, kind) if left > 0 else [late]:
            if row.verdict == FAILED and time.monotonic() - began >= budget:
                row = late
            rows.append(row)
            print(f"  {row.what:<72} {row.found:<44} {row.verdict}".rstrip(), flush=True)
        verdicts += [row.verdict for row in rows]
        parts.append({"name": name, "title": title, "seconds": round(time.monotonic() - began, 1)})
        parts[-1]["rows"] = [asdict(row) for row in rows]
    return next((bad for bad in (FAILED, MISSED) if bad in verdicts), FINE), parts


@piped()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--out", type=typed_path, default=Path("results/mine/gpu-check.json"))
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        [kind] = Forked(available, arguments.device).results(60)
    except FailedError as error:
        parser.exit(1, f"error: device={arguments.device}: {error}\n")
    if kind == "cpu":
        print("A CPU only tests the check: small sizes, a narrow ResNet20 in ResNet50's place, speeds without goals.")
    verdict, parts = check(kind, arguments.part or list(PARTS))
    seconds = round(time.monotonic() - started, 1)
    found = {"verdict": verdict, "seconds": seconds, "python": platform.python_version(), "parts": parts}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out, (json.dumps(found, indent=1) + "\n").encode())
    print(f"\n{verdict}: {seconds:.0f} s; {arguments.out}")
    sys.exit(verdict != FINE)


if __name__ == "__main__":
    main()
