"""Assembly and loop, in this process: what a step does, and what the history says of it."""

import copy
import json
import weakref
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from sparse_train.errors import DivergedError
from sparse_train.optim.lr import WarmupCosine
from sparse_train.randomness import generator
from sparse_train.record.metadata import peak_memory_mib
from sparse_train.record.record import Record
from sparse_train.train import loop, tasks
from sparse_train.train.build import build
from sparse_train.train.checkpointing import Interval

EPOCHS, STEPS = 3, 5  # of the tiny run: 200 images in batches of 40
TINY = (
    "dataset=digits",
    "dataset.train_images=200",
    "model=mlp",
    "model.hidden=[16]",
    f"epochs={EPOCHS}",
    "batch_size=40",
    "update_every=4",
    "lr_schedule.warmup_epochs=1",
    "device=cpu",
    "threads=1",
)
DUE = (4, 8)  # mask updates of the tiny run: every 4 steps, in the first 0.75 * 15


@pytest.fixture
def tiny(compose_config):
    """A run of three epochs of five steps, as the overrides change it."""
    return lambda *overrides: build(compose_config(*TINY, *overrides))


@pytest.fixture
def narrow(compose_config):
    """The same with convolutions: a ResNet20 a quarter as wide."""
    convolutions = [override for override in TINY if not override.startswith("model")]
    return lambda *overrides: build(compose_config(*convolutions, "model=resnet20", "model.width=0.25", *overrides))


@pytest.fixture
def to_the_end(tmp_path):
    """Train a run to its end; its history."""

    def train(run):
        record = Record(str(tmp_path), "tiny")
        with record.held():
            loop.train(run, record, [], Interval())
        assert record.status == "complete"
        return record.history

    return train


# --- a step ---


def test_every_group_has_the_scheduled_rate_at_every_step_of_the_run(tiny, to_the_end):
    run = tiny("dst=static", "weight_decay_on=weights", "lr_schedule.reference_batch=256")
    seen, ours = [], run.schedule
    run.schedule = lambda step: np.float64(ours(step))  # as one of numpy's functions gives it; a checkpoint takes none
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append([g["lr"] for g in optimizer.param_groups]))
    rows = to_the_end(run)
    assert {type(rate) for rates in seen for rate in rates} == {type(row["lr"]) for row in rows} == {float}
    schedule = WarmupCosine(0.1, 40, STEPS, EPOCHS, warmup_epochs=1, init=0.0, end=1e-6, reference_batch=256)
    assert seen == [[schedule(step)] * 2 for step in range(EPOCHS * STEPS)]
    assert len({rates[0] for rates in seen}) == EPOCHS * STEPS, "no two steps have the same rate"
    assert [row["step"] for row in rows] == [5, 10, 15]
    assert [row["lr"] for row in rows] == [schedule(4), schedule(9), schedule(14)]


def test_parameters_of_one_dimension_may_have_a_rate_of_their_own(tiny):
    """The first step, without momentum so far: four times as long, decay included; the weights' is unchanged."""
    moved = []
    for scale in (1, 4):
        run = tiny("dst=static", "optimizer=sgd", f"one_dimensional_lr={scale}")
        before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        images, labels = next(iter(run.data.train.epoch(0)))
        run.set_lr(3)
        run.loss(images, labels)[0].backward()
        run.optimizer.step()
        moved.append({name: p.detach() - before[name] for name, p in run.model.named_parameters()})
    for (name, p), step in zip(run.model.named_parameters(), moved[0].values(), strict=True):
        assert step.abs().max() > 0
        torch.testing.assert_close(moved[1][name], step * (4 if p.ndim == 1 else 1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("skip", [True, False])
def test_masks_change_at_steps_counted_over_epochs_with_or_instead_of_a_step(tiny, to_the_end, monkeypatch, skip):
    run = tiny(f"dst.skip_step={skip}")
    events, update = [], run.updater.update
    monkeypatch.setattr(run.updater, "update", lambda step: (events.append(f"update {step}"), update(step)))
    run.optimizer.register_step_post_hook(lambda *_: events.append("step"))
    to_the_end(run)
    expected = []
    for step in range(EPOCHS * STEPS):
        if step in DUE:
            expected.append(f"update {step}")
        if not (step in DUE and skip):
            expected.append("step")
    assert events == expected


def test_growth_sees_the_gradient_of_the_step_at_which_masks_change(tiny, to_the_end, monkeypatch):
    run = tiny("dst=rigl", "renorm=unit")
    weight = run.model.layers[1].weight
    made, seen, update = [], [], run.updater.update
    weight.register_hook(lambda gradient: made.append(gradient.clone()))  # of this step, before any is added to it
    monkeypatch.setattr(run.updater, "update", lambda step: (seen.append(weight.grad.clone()), update(step)))
    to_the_end(run)
    assert len(made) == EPOCHS * STEPS
    assert all(torch.equal(gradient, made[step]) for gradient, step in zip(seen, DUE, strict=True))


# --- modes and means ---


def test_training_trains_and_evaluation_evaluates(tiny, to_the_end):
    """Batch statistics and gradients in training, in every epoch; running statistics and no gradients in testing."""
    run = tiny()
    seen = []

    def look(model, inputs, output):
        [mode] = {module.training for module in model.modules()}
        seen.append((mode, output.requires_grad, len(output)))

    run.model.register_forward_hook(look)
    to_the_end(run)
    training, testing = [(True, True, 40)] * STEPS, [(False, False, 1000), (False, False, 597)]
    assert seen == (training + testing) * EPOCHS
    assert run.model.layers[2].num_batches_tracked == EPOCHS * STEPS


def test_evaluation_is_the_mean_over_all_images_and_changes_nothing(tiny, to_the_end):
    """Over the 1,597 of the test set, whose last batch is ragged, and over those that are held out of training."""
    run = tiny("dataset.validation=50")
    rows = to_the_end(run)
    assert all(row["step"] == 3 * row["epoch"] for row in rows), "150 images to train on"
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    row = loop.evaluate(run)
    assert row == {key: rows[-1][key] for key in row}, "the history has what the last weights give"
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())

    raw, by_hand = load_digits(), copy.deepcopy(run.model).double().eval()
    held_out = torch.randperm(200, generator=generator(0, "validation"))[:50]
    for name, chosen in (("test", slice(200, None)), ("val", held_out)):
        pixels, labels = torch.from_numpy(raw.images[chosen]), torch.from_numpy(raw.target[chosen])
        with torch.no_grad():
            logits = by_hand((pixels.mul(255 / 16).round()[:, None] / 255 - 0.3053) / 0.3760)
        assert row[f"{name}_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        right = (logits.argmax(1) == labels).double().mean().item()
        assert row[f"{name}_acc"] == pytest.approx(100 * right, rel=1e-9)
    assert set(loop.evaluate(tiny())) == {"test_loss", "test_acc"}


def test_targets_are_smoothed_in_training_alone(tiny):
    run = tiny("label_smoothing=0.3")
    images, labels = next(run.data.train.epoch(0))
    for training in (True, False):
        run.model.train(training)
        logs = F.log_softmax(run.forward(images).double(), 1)
        target = F.one_hot(labels, 10) * (0.7 if training else 1.0) + (0.03 if training else 0.0)
        assert run.loss(images, labels)[0].item() == pytest.approx(-(target * logs).sum(1).mean().item(), rel=1e-5)


# --- numbers ---


def test_amp_is_the_type_of_the_logits_and_of_nothing_that_is_kept(tiny, to_the_end):
    run = tiny("amp=bf16")
    seen = set()
    run.model.register_forward_hook(lambda model, inputs, output: seen.add((model.training, output.dtype)))
    to_the_end(run)
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    images, labels = next(run.data.train.epoch(0))
    loss, _ = run.loss(images, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(run.forward(images), labels).item(), rel=0.05)
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_channels_last_lays_out_weights_and_images(narrow):
    run = narrow("channels_last=true")
    kernels = [p for p in run.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1]
    assert len(kernels) == 20  # all but the first, for which the layouts are one
    assert all(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in kernels)
    seen = []
    run.forward = lambda images: seen.append(images) or torch.zeros(len(images), 10)
    images = torch.rand(4, 3, 8, 8)  # the digits have one channel, for which the layouts are one
    run.loss(images, torch.zeros(4).long())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen[0], images)


# --- what assembly passes on ---


@pytest.mark.parametrize("on", ["all", "weights"])
def test_decay_pulls_on_what_the_key_says(tiny, on):
    run = tiny(f"weight_decay_on={on}", "weight_decay=0.25", "sparsity=0.5")
    with torch.no_grad():
        for p in run.model.parameters():
            p.copy_(torch.rand(p.shape) + 1)
    run.topology.apply()
    before = [p.detach().clone() for p in run.model.parameters()]
    for group in run.optimizer.param_groups:
        group["lr"] = 0.5
    for p in run.model.parameters():
        p.grad = torch.zeros_like(p)
    run.optimizer.step()
    assert {p.ndim for p in before} == {1, 2}
    for p, was in zip(run.model.parameters(), before, strict=True):
        expected = was * (1 - 0.5 * 0.25) if p.ndim > 1 or on == "all" else was
        torch.testing.assert_close(p.detach(), expected)


def test_the_seed_decides_masks_initial_weights_order_and_growth(tiny):
    first, again, other = (tiny("dst=set", f"seed={seed}") for seed in (1, 1, 2))
    start = copy.deepcopy(first.state_dict())

    def drawn(run):
        order = torch.cat([labels for _, labels in run.data.train.epoch(0)])
        masks, weights = ({**part} for part in (run.topology.masks, run.topology.weights))
        weights = {name: weight.detach().clone() for name, weight in weights.items()}
        run.load_state_dict(start)
        for p in run.model.parameters():
            p.grad = torch.zeros_like(p)
        run.updater.update(DUE[0])
        return {"order": order, **weights, **{f"mask of {name}": mask for name, mask in masks.items()}}, run.topology

    (found, grown), (same, as_grown), (different, otherwise) = map(drawn, (first, again, other))
    assert {name: torch.equal(value, same[name]) for name, value in found.items()} == dict.fromkeys(found, True)
    assert {name: torch.equal(value, different[name]) for name, value in found.items()} == dict.fromkeys(found, False)
    for name, mask in grown.masks.items():
        assert torch.equal(mask, as_grown.masks[name])
        assert not torch.equal(mask, otherwise.masks[name])
        common = found[f"mask of {name}"] & different[f"mask of {name}"]
        assert common.any()
        assert (found[name] != different[name])[common].all()


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        (("dst=set", "renorm=unit", "optimizer.renorm.over=masked"), 0),
        (("dst=rigl",), len(DUE) / (EPOCHS * STEPS)),
        (("dst=static", "renorm=unit"), 1),
    ],
)
def test_training_flops_count_the_dense_gradient_where_it_is_needed(tiny, overrides, share):
    """At RigL's updates, and at every step where the norm of the dense gradients is bounded."""
    run = tiny(*overrides)
    kept = run.topology.counts
    dense, sparse = 2 * (64 * 16 + 16 * 10), 2 * sum(kept.values())
    assert sparse < 0.2 * dense
    expected = ((1 - share) * 3 * sparse + share * (2 * sparse + dense)) / (3 * dense)
    assert run.metadata["flops"]["training_ratio"] == pytest.approx(expected, rel=1e-9)


# --- going on, and not going on ---


@pytest.fixture
def task(compose_config, tmp_path):
    """Run the task itself; what it raised, and the record on disk."""

    def trained(*overrides):
        record = Record(str(tmp_path), "tiny")
        with pytest.raises(RuntimeError) as raised:
            tasks.train(compose_config(*TINY, *overrides), record)
        return raised, json.loads((record.dir / "record.json").read_text())

    return trained


def test_a_run_that_raises_is_failed_and_says_why(task, monkeypatch):
    evaluate, calls = loop.evaluate, []

    def failing(run, between):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory\nand a long trace")
        return evaluate(run, between)

    monkeypatch.setattr(loop, "evaluate", failing)
    _, record = task()
    assert (record["status"], record["reason"]) == ("failed", "RuntimeError: out of memory")
    assert record["final"]["epoch"] == 1, "what was done stays"


def test_a_test_loss_that_is_no_number_is_divergence_too(task, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda run, between: {"test_loss": float("inf"), "test_acc": 10.0})
    error, record = task()
    assert error.type is DivergedError
    assert (record["status"], record["reason"]) == ("diverged", "the test loss is inf in epoch 1")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone counts anew")
def test_the_peak_of_memory_is_each_runs_own():
    with tasks.released(), mmap(-1, 2**28) as block:  # 256 MiB
        for page in range(0, 2**28, 4096):
            block[page] = 1
        high = peak_memory_mib(torch.device("cpu"))
    assert peak_memory_mib(torch.device("cpu")) < high - 128


def test_a_failed_run_leaves_no_model_in_memory(task, monkeypatch):
    """A sweep keeps the error to the end, and with it each frame of its traceback."""
    made = []

    def watched(cfg, ranks):
        run = build(cfg, ranks)
        made.append(weakref.ref(run.model))
        return run

    monkeypatch.setattr(tasks, "build", watched)
    error, _ = task("lr=1e30", "lr_schedule.warmup_epochs=0")
    assert error.type is DivergedError
    assert made[0]() is None
    assert error.traceback[-1].path.name == "checkpointing.py", "where it came from can still be read"
