"""The training loop: every effect of a step is a visible line of it."""

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sparse_train.process.console import EpochLog, RunBar, say
from sparse_train.process.signals import SignalHandler
from sparse_train.randomness import derive
from sparse_train.record.export import export
from sparse_train.record.metadata import peak_memory_mib
from sparse_train.record.record import Record
from sparse_train.sparsity.topology import Topology
from sparse_train.train.build import Run
from sparse_train.train.checkpointing import Checkpointing, Interval, Progress
from sparse_train.train.meter import Meter, normed


class Sink(Protocol):
    """What else receives the record's rows, such as W&B."""

    def log(self, row: dict, topology: Topology | None) -> None: ...

    def finish(self, record: Record) -> None: ...


def train(run: Run, record: Record, sinks: list[Sink], interval: Interval) -> None:
    """Train to the last epoch, from the checkpoint if there is one; leaves a finished record.

    Raises:
        DivergedError: a loss, gradient or weight is not finite; the record says where.
    """
    with SignalHandler() as signals:
        checkpointing = Checkpointing(run, record, interval, signals)
        progress = checkpointing.restore()
        if run.trained:
            known = record.content.get("before_training") if progress.history or progress.steps else None
            run.metadata["before_training"] = before = known or evaluate(run, checkpointing.between_first_tests)
            say(f"  before training, with its first masks: test accuracy {before['test_acc']:.2f}%")
        record.start(progress.history, progress.steps, **run.metadata)
        for sink in sinks:
            for row in record.history:
                sink.log(dict(row), None)
        log, steps = EpochLog(run.epochs), len(run.data.train)
        with closing(RunBar(run.epochs, steps, len(progress.history) * steps + progress.steps)) as bar:
            for epoch in range(len(progress.history), run.epochs):
                started = time.perf_counter() - progress.seconds
                best = max((row["test_acc"] for row in record.history), default=None)
                bar.at(epoch + 1, best)
                trained = train_epoch(run, epoch, progress, checkpointing, started, bar)
                bar.at(epoch + 1, best, "testing")
                progress = Progress(record.history, steps, progress.meter, time.perf_counter() - started)
                tested = evaluate(run, partial(checkpointing.between_tests, progress))
                if not math.isfinite(tested["test_loss"]):
                    checkpointing.diverged(f"the test loss is {tested['test_loss']} in epoch {epoch + 1}")
                renorm = run.optimizer.renorm  # from here on it counts for the next epoch
                clipped = {"clipped_share": renorm.pop_clipped_share() if renorm is not None else None}
                row = {"epoch": epoch + 1, **trained, **clipped, **tested, **topology_metrics(run)}
                row["seconds"] = round(time.perf_counter() - started, 3)
                record.append(row)
                checkpointing.after_epoch(last=epoch + 1 == run.epochs)
                progress.meter.reset()
                progress = Progress(record.history, 0, progress.meter, 0.0)
                for sink in sinks:
                    sink.log(dict(row), run.topology)
                log.tell(record.history)
        checkpointing.files.tidy()
        if run.ranks.main:
            export(run.model, run.topology, record.dir)
        record.finish("complete", peak_memory_mib=round(peak_memory_mib(run.device), 1))
        checkpointing.finished()


def train_epoch(
    run: Run, epoch: int, progress: Progress, checkpointing: Checkpointing, started: float, bar: RunBar
) -> dict:
    """One pass over the training set, or the rest of it after `progress`; `started` is when the epoch began."""
    if progress.steps == 0:  # dropout draws from torch's own generator; a resume in mid-epoch restores it
        rank = (run.ranks.rank,) if run.ranks.rank else ()  # each has images of its own; 0 draws as one process does
        torch.manual_seed(derive(run.seed, "forward", epoch, *rank))
    run.forward.train()
    diagnostics, began = run.diagnostics, time.perf_counter()
    meter, first, last = progress.meter, epoch * len(run.data.train), (epoch + 1) * len(run.data.train) - 1
    batches = run.data.train.epoch(epoch, progress.steps)
    for step, (images, labels) in enumerate(batches, start=first + progress.steps):
        run.set_lr(step)
        if run.graph is not None and run.leaves_masks(step) and not normed(step - first):
            run.graph.step(partial(ordinary_step, run, meter), run.optimizer, meter, images, labels, number=step)
        else:
            run.ask_for_gradients(step, normed(step - first))
            gradients(run, meter, images, labels, step, normed(step - first))

            update = run.updater is not None and run.updater.due(step)
            if run.updater is not None:
                run.updater.observe(step)
            if update:
                checkpointing.check(meter)
                with diagnostics.update(meter, run.updater):
                    run.updater.update(step)
            if not (update and run.updater.skip_step):
                with diagnostics.step(meter) if normed(step - first) else nullcontext():
                    run.optimizer.step()
        bar.step()
        if step < last:
            checkpointing.after_step(step + 1 - first, meter, time.perf_counter() - started)
    checkpointing.check(meter)  # waits for the device, so the time below is that of the work
    ended = time.perf_counter()
    if progress.steps < len(run.data.train):  # a run resumed during its test has averaged them already
        run.average_statistics()
    row = {
        "step": last + 1,
        "lr": float(run.schedule(last)) * run.optimizer.param_groups[0].get("lr_scale", 1),
        "train_loss": meter.mean_loss(),
        "train_acc": meter.accuracy(),
        "grad_norm": meter.mean_norm(),
        "images_per_second": round(meter.images() / (ended - started), 1),
        **diagnostics.trained(meter),
    }
    waited = getattr(run.data.train, "waited", None)  # where workers load images, in this process's part of the epoch
    return row if waited is None else {**row, "data_wait": round(waited / (ended - began), 4)}


def gradients(run: Run, meter: Meter, images: Tensor, labels: Tensor, step: int | Tensor, norm: bool) -> None:
    """A batch, forward and backward; the epoch's sums."""
    run.optimizer.zero_grad()
    loss, correct = run.loss(images, labels)
    loss.backward()
    meter.add(loss, correct, len(labels))
    meter.look(loss, run.model, step, norm)


def ordinary_step(run: Run, meter: Meter, images: Tensor, labels: Tensor, step: int | Tensor) -> None:
    """A step without a mask update, without norms for the history, and whose gradients no method observes."""
    gradients(run, meter, images, labels, step, norm=False)
    run.optimizer.step()


@torch.no_grad()
def evaluate(run: Run, between: Callable[[], None] = lambda: None) -> dict:
    """Loss and accuracy on the whole test set, and on the images that are held out of training, if any.

    Args:
        between: called after each batch that every rank has.
    """
    run.forward.eval()
    row = {}
    for name, split in (("test", run.data.test), ("val", run.data.validation)):
        if split is not None:
            meter, common = run.meter(), -run.ranks.largest(-len(split), run.device)
            for batch, (images, labels) in enumerate(split.epoch(0), start=1):
                loss, correct = run.loss(images, labels)
                meter.add(loss, correct, len(labels))
                if batch <= common:
                    between()
            row |= {f"{name}_loss": meter.mean_loss(), f"{name}_acc": meter.accuracy()}
    return row


def topology_metrics(run: Run) -> dict:
    """What the topology is like now."""
    shares = {"realised_sparsity": run.topology.sparsity(), "itop_rate": run.topology.itop_rate()}
    return {**shares, **run.diagnostics.masks(), "neurons/norm_ratio": run.diagnostics.norm_ratio()}
