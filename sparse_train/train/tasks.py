"""The main task: what the processes of a run must agree on, its first lines, and its training.

`task=...` names a function that takes the configuration and the record.
"""

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from traceback import clear_frames

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sparse_train.errors import ConfigError, require
from sparse_train.options.targets import foreign_targets, make
from sparse_train.process.console import say, table
from sparse_train.process.distributed import Ranks
from sparse_train.record import segments
from sparse_train.record.checkpoint import Checkpoints
from sparse_train.record.files import read_json_lines
from sparse_train.record.integrity import HISTORY
from sparse_train.record.metadata import versions
from sparse_train.record.record import AGAIN, Record
from sparse_train.source import foreign_code, training_code
from sparse_train.sparsity.layers import parameters
from sparse_train.sparsity.topology import Topology
from sparse_train.train import loop
from sparse_train.train.build import Run, build, loading
from sparse_train.train.checkpointing import Interval

OWN = ("data_dir", "download", "workers", "gpus", "logger", "artifact")  # what may differ from machine to machine
SLOW_BF16 = "this CPU has no fast bfloat16 (AVX-512 has): a step takes several times as long as with amp=none"


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Free the memory of the run inside when it ends, and count the peak of the next one anew.

    In a sweep the error of a failed run outlives it, and holds each frame of its traceback with the model in it.
    """
    try:
        yield
    except BaseException as error:
        link: BaseException | None = error
        while link is not None:
            clear_frames(link.__traceback__)
            link = link.__cause__ or link.__context__
        raise
    finally:
        gc.collect()
        with contextlib.suppress(OSError):  # Linux alone has it
            Path("/proc/self/clear_refs").write_text("5")
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()


@released()
def train(cfg: DictConfig, record: Record) -> None:
    """Train one sparse network."""
    run = build(cfg, record.ranks)
    here = run.device.type == "cuda" or record.ranks.world == 1
    require(here or not cfg.sync_bn, "sync_bn", cfg.sync_bn, "torch's SyncBatchNorm needs GPUs; use sync_bn=false")
    with record.held() as ending:
        if record.finished:  # by another process, in the meantime
            return
        require_same_files(record, run, anyway=cfg.resume == "anyway")
        for line in card(run, record.id):
            say(line)
        sinks = [] if cfg.logger is None or not run.ranks.main else [make(cfg, "logger", record, run.metadata)]
        for sink in sinks:
            ending.callback(sink.finish, record)
        loop.train(run, record, sinks, Interval(cfg.checkpoint_minutes, cfg.checkpoint_steps))


def require_same_files(record: Record, run: Run, anyway: bool) -> None:
    """A run that goes on must do so with the images that it began with.

    Raises:
        ConfigError: says what differs, unless the run is to go on `anyway`.
    """
    there = record.ranks.from_main(lambda: Checkpoints(record.dir).exist())
    if there and (words := segments.other_files(record.content, run.data.files)) is not None:
        right = f"{record.dir}: {words}; start over with resume=fresh, or go on with resume=anyway"
        require(anyway, "resume", "auto", right)
        say(f"{record.dir}: {words}")


def look_at_files(cfg: DictConfig, record: Record) -> None:
    """A finished run is launched again: report if its images are others by now, as far as they are there."""
    if record.ranks.main and "data" in record.content:
        with contextlib.suppress(ConfigError):
            now = make(cfg, "dataset", loading(cfg, torch.device("cpu"), Ranks())).files
            if (words := segments.other_files(record.content, now)) is not None:
                say(f"{record.dir}: {words}; {AGAIN}")


def tell(cfg: DictConfig, record: Record) -> None:
    """A finished run is launched again: a logger gets all of it, and sends what has not arrived."""
    if cfg.logger is None or not record.ranks.main or "epoch" not in record.content.get("final", {}):
        return
    sink = make(cfg, "logger", record, record.content)
    for row in read_json_lines(record.dir / HISTORY):
        sink.log(row, None)
    sink.finish(record)


def require_same_settings(cfg: DictConfig, ranks: Ranks) -> None:
    """All processes must have been started with the same settings, code and packages, before one writes anything.

    Raises:
        ConfigError: on every process, with the first key that differs, and where.
    """
    if ranks.world > 1:
        theirs = {target: foreign_code(target) for target in foreign_targets(OmegaConf.to_container(cfg, resolve=True))}
        ranks.require_same({**settings(cfg), "sparse_train": training_code(), **theirs, **versions()})


def settings(cfg: DictConfig) -> dict[str, str]:
    """Dotted key -> value, those of the top level first: the groups' keys follow from them."""
    container = OmegaConf.to_container(cfg, resolve=True)
    items = [(key, value) for key, value in container.items() if key not in OWN]
    found = {}
    for key, value in items:  # which grows as groups are met
        if isinstance(value, dict):
            items += [(f"{key}.{name}", item) for name, item in value.items()]
        else:
            found[key] = str(value)
    return found


def card(run: Run, run_id: str) -> list[str]:
    """The run's name and id, what is trained, for how long and on what; and warnings."""
    kept = sum(run.topology.counts.values())
    sparse = sum(mask.numel() for mask in run.topology.masks.values())
    dense = dense_parameters(run.model, run.topology)
    also = f"; dense: {sum(dense.values()):,} ({named(dense)})" if dense else ""
    epochs = "1 epoch" if run.epochs == 1 else f"{run.epochs:,} epochs"
    steps = "1 step" if len(run.data.train) == 1 else f"{len(run.data.train):,} steps"
    numbers = "bf16" if run.autocast else "fp32"
    threads = torch.get_num_threads()
    where = str(run.device) if run.device.type != "cpu" else f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    processes = f", {run.ranks.world} processes" if run.ranks.world > 1 else ""
    compiled = "; torch.compile delays the first step" if run.metadata["compile"] else ""
    executed = "" if (how := run.metadata["execution"]) == "dense" else f"; {how}"
    lines = [
        f"{run.metadata['name']} (run {run_id})",
        f"  {type(run.model).__name__}: {kept:,} of {sparse:,} weights ({kept / sparse:.2%}){also}",
        f"  {epochs} of {steps} on {where}{processes}, {numbers}{compiled}{executed}; * marks the best so far",
    ]
    if run.autocast and run.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        lines.append(f"  warning: {SLOW_BF16}")
    if run.trained and run.topology.initial in ("random", "constant_fan_in"):
        words = f"{run.topology.initial} masks keep trained weights at random"
        lines.append(f"  warning: {words}; topology.initial=magnitude keeps the largest of each layer")
    if run.updater is not None and (warning := run.updater.idle()):
        lines.append(f"  warning: {warning}")
    return lines


def dense_parameters(model: nn.Module, topology: Topology) -> dict[str, int]:
    """How many parameters stay dense: of each weight outside the topology by its name, norms, biases, and others."""
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(path, recurse=False):
            if own not in topology.masks:
                norm = "norm" in type(module).__name__.lower()
                one_dimensional = "norms" if norm else "biases" if own.endswith("bias") else "others"
                kind = own if parameter.ndim > 1 else one_dimensional
                found[kind] = found.get(kind, 0) + parameter.numel()
    return found


def named(dense: dict[str, int]) -> str:
    """`fc.weight, norms, biases`; three weights or more are only counted."""
    kinds = [kind for kind in ("norms", "biases", "others") if kind in dense]
    weights = [name for name in dense if name not in kinds]
    return ", ".join([*(weights if len(weights) < 3 else [f"{len(weights)} layers"]), *kinds])


def layers(cfg: DictConfig) -> None:
    """Print each layer's shape, weights, density and FLOPs at the end of the run that `cfg` describes."""
    with released():
        run = build(cfg)
        densities, flops = run.metadata["layers"], run.metadata["flops"]
        shapes = {name: parameter.shape for name, parameter in parameters(run.model).items()}
    rows, weights, kept = [], 0, 0
    for name, of in flops["layers"].items():
        density, size = densities.get(name, 1.0), shapes[name].numel()
        weights, kept = weights + size, kept + round(density * size)
        words = ["x".join(map(str, shapes[name])), f"{size:,}", f"{round(density * size):,}", f"{density:.2%}"]
        rows.append([name, *words, *(f"{count / 1e6:,.3f}" for count in of.values())])
    totals = [f"{flops[key] / 1e6:,.3f}" for key in ("inference_dense", "inference_sparse")]
    head = ["weight", "shape", "weights", "kept", "density", "dense MFLOPs", "sparse MFLOPs"]
    table(head, rows, ["all", "", f"{weights:,}", f"{kept:,}", f"{kept / weights:.2%}", *totals], words=(0, 1))
    if flops["training_ratio"] is not None:
        print(f"MFLOPs are of one image's forward pass. Training takes {flops['training_ratio']:.1%} of a dense run's.")
