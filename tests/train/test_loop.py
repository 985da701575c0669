"""Assembly and loop, in this process: what a step does, and what the history says of it."""

import copy
import json
import weakref
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from sparse_train.errors import DivergedError
from sparse_train.optim.lr import WarmupCosine
from sparse_train.randomness import generator
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
    seen = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append([g["lr"] for g in optimizer.param_groups]))
    rows = to_the_end(run)
    schedule = WarmupCosine(0.1, 40, STEPS, EPOCHS, warmup_epochs=1, init=0.0, end=1e-6, reference_batch=256)
    assert seen == [[schedule(step)] * 2 for step in range(EPOCHS * STEPS)]
    assert len({rates[0] for rates in seen}) == EPOCHS * STEPS, "no two steps have the same rate"
    assert [row["step"] for row in rows] == [5, 10, 15]
    assert [row["lr"] for row in rows] == [schedule(4), schedule(9), schedule(14)]


@pytest.mark.parametrize("decay_on", ["all", "weights"])
def test_parameters_of_one_dimension_may_have_a_rate_of_their_own(tiny, decay_on):
    """The first step, without momentum so far: as many times as long, decay included; the weights' is unchanged."""
    moved = []
    for scale in (1, 4):
        run = tiny("dst=static", "optimizer=sgd", f"weight_decay_on={decay_on}", f"one_dimensional_lr={scale}")
        before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        images, labels = next(iter(run.data.train.epoch(0)))
        run.set_lr(3)
        run.loss(images, labels)[0].backward()
        run.optimizer.step()
        moved.append({name: p.detach() - before[name] for name, p in run.model.named_parameters()})
    ndims = {name: p.ndim for name, p in run.model.named_parameters()}
    assert {1, 2} <= set(ndims.values())
    for name, step in moved[0].items():
        assert step.abs().max() > 0
        torch.testing.assert_close(moved[1][name], step * (4 if ndims[name] == 1 else 1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("dst", ["rigl", "set"])
def test_masks_change_at_steps_counted_over_epochs_with_or_instead_of_a_step(tiny, to_the_end, monkeypatch, dst, skip):
    run = tiny(f"dst={dst}", f"dst.skip_step={skip}")
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


def test_evaluation_is_the_mean_over_the_whole_test_set_and_changes_nothing(tiny, to_the_end):
    run = tiny()
    rows = to_the_end(run)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    row = loop.evaluate(run)
    assert row == {key: rows[-1][key] for key in row}, "the history has what the last weights give"
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())

    raw = load_digits()
    pixels = torch.from_numpy(raw.images[200:]).mul(255 / 16).round()[:, None]  # 1,597 images: the last batch is ragged
    labels = torch.from_numpy(raw.target[200:]).long()
    by_hand = copy.deepcopy(run.model).double().eval()
    with torch.no_grad():
        logits = by_hand((pixels / 255 - 0.3053) / 0.3760)
    assert row["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert row["test_acc"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item(), rel=1e-9)


def test_what_is_held_out_is_tested_on_besides(tiny, to_the_end):
    run = tiny("dataset.validation=50")
    rows = to_the_end(run)
    assert all(row["step"] == 3 * row["epoch"] for row in rows), "150 images to train on"
    raw = load_digits()
    order = torch.randperm(200, generator=generator(0, "validation"))[:50]
    pixels = torch.from_numpy(raw.images[order]).mul(255 / 16).round()[:, None]
    labels = torch.from_numpy(raw.target[order])
    by_hand = copy.deepcopy(run.model).double().eval()
    with torch.no_grad():
        logits = by_hand((pixels / 255 - 0.3053) / 0.3760)
    assert rows[-1]["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert rows[-1]["val_acc"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item(), rel=1e-9)
    assert set(loop.evaluate(tiny())) == {"test_loss", "test_acc"}


def test_targets_are_smoothed_in_training_alone(tiny):
    run = tiny("label_smoothing=0.3")
    images, labels = next(run.data.train.epoch(0))
    for training in (True, False):
        run.model.train(training)
        logs = F.log_softmax(run.forward(images).double(), 1)
        target = F.one_hot(labels, 10) * (0.7 if training else 1.0) + (0.03 if training else 0.0)
        assert run.loss(images, labels)[0].item() == pytest.approx(-(target * logs).sum(1).mean().item(), rel=1e-5)


class Ragged:
    """A split whose batches differ in size."""

    sizes, samples = (40, 7, 13), 60

    def __init__(self, split):
        self.images, self.labels = (torch.cat(parts) for parts in zip(*split.epoch(0), strict=True))

    def __len__(self):
        return len(self.sizes)

    def epoch(self, epoch, start=0):
        return zip(self.images[:60].split(self.sizes), self.labels[:60].split(self.sizes), strict=True)


def test_train_loss_and_accuracy_are_means_over_images_as_the_steps_saw_them(tiny, to_the_end):
    run = tiny("dst=static", "epochs=1")
    run.data = run.data._replace(train=Ragged(run.data.train))
    steps, loss = [], run.loss

    def watched(images, labels):
        mean, correct = loss(images, labels)
        if mean.requires_grad:  # not in testing
            steps.append((mean.item(), correct.item(), len(labels)))
        return mean, correct

    run.loss = watched
    [row] = to_the_end(run)
    assert [count for *_, count in steps] == [40, 7, 13]
    assert row["train_loss"] == pytest.approx(sum(mean * count for mean, _, count in steps) / 60, rel=1e-6)
    assert row["train_acc"] == pytest.approx(100 * sum(correct for _, correct, _ in steps) / 60, rel=1e-9)


def test_the_gradient_norm_is_the_mean_over_every_tenth_step_of_dense_gradients(tiny, to_the_end):
    """Before masks and renormalization, counted from the start of each epoch."""
    run = tiny("batch_size=8", "epochs=2", "dst=static", "renorm=unit")  # 25 steps each: the second starts at step 25
    dense, masked = [], []

    def look(optimizer, *_):
        gradients = {name: p.grad for name, p in run.model.named_parameters()}
        dense.append(sqrt(sum(g.double().square().sum().item() for g in gradients.values())))
        gradients |= {name: gradients[name] * mask for name, mask in run.topology.masks.items()}
        masked.append(sqrt(sum(g.double().square().sum().item() for g in gradients.values())))

    run.optimizer.register_step_pre_hook(look)
    rows = to_the_end(run)
    for row, start in zip(rows, (0, 25), strict=True):
        tenth = [dense[step] for step in (start, start + 10, start + 20)]
        assert row["grad_norm"] == pytest.approx(sum(tenth) / 3, rel=1e-5)
        assert row["grad_norm"] > 1.1 * sum(masked[step] for step in (start, start + 10, start + 20)) / 3


# --- numbers ---


@pytest.mark.parametrize(("amp", "dtype"), [("none", torch.float32), ("bf16", torch.bfloat16)])
def test_amp_is_the_type_of_the_logits_and_of_nothing_that_is_kept(tiny, to_the_end, amp, dtype):
    run = tiny(f"amp={amp}")
    seen = set()
    run.model.register_forward_hook(lambda model, inputs, output: seen.add((model.training, output.dtype)))
    to_the_end(run)
    assert seen == {(True, dtype), (False, dtype)}
    images, labels = next(run.data.train.epoch(0))
    loss, _ = run.loss(images, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(run.forward(images), labels).item(), rel=0.05)
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


class Watching(nn.Module):
    """In place of the network: looks at what it is given."""

    def forward(self, images):
        self.images = images
        return torch.zeros(len(images), 10)


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_lays_out_weights_and_images(narrow, channels_last):
    run = narrow(f"channels_last={channels_last}")
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    other = torch.contiguous_format if channels_last else torch.channels_last
    kernels = [p for p in run.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1]
    assert len(kernels) == 20  # all but the first, for which the layouts are one
    assert all(p.is_contiguous(memory_format=wanted) for p in kernels)
    assert not any(p.is_contiguous(memory_format=other) for p in kernels)

    run.forward = Watching()
    images = torch.rand(4, 3, 8, 8)  # the digits have one channel, for which the layouts are one
    for layout in (torch.contiguous_format, torch.channels_last):
        run.loss(images.contiguous(memory_format=layout), torch.zeros(4).long())
        assert run.forward.images.is_contiguous(memory_format=wanted)
        assert not run.forward.images.is_contiguous(memory_format=other)
        assert torch.equal(run.forward.images, images)


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


def test_init_own_fan_in_scales_each_neuron_by_its_own_fan_in(tiny):
    own, dense = tiny("init=own_fan_in", "sparsity=0.7"), tiny("init=dense_fan_in", "sparsity=0.7")
    for name, mask in dense.topology.masks.items():
        assert torch.equal(own.topology.masks[name], mask)
        fan_in = mask.sum(1, keepdim=True)
        assert len(fan_in.unique()) > 3
        scale = (mask.shape[1] / fan_in.clamp(min=1)).sqrt()
        torch.testing.assert_close(own.topology.weights[name], dense.topology.weights[name] * scale)


def after_growth(run, state):
    """The masks after one update of the run, from the given state."""
    run.load_state_dict(state)
    for p in run.model.parameters():
        p.grad = torch.zeros_like(p)
    run.updater.update(DUE[0])
    return run.topology.masks


def test_the_seed_decides_masks_initial_weights_order_and_growth(tiny):
    first, again, other = tiny("dst=set", "seed=1"), tiny("dst=set", "seed=1"), tiny("dst=set", "seed=2")
    weights = ["layers.1.weight", "layers.4.weight"]
    assert list(first.topology.masks) == weights
    start = copy.deepcopy(first.state_dict())
    for name in weights:
        mask, weight = first.topology.masks[name], first.topology.weights[name]
        assert torch.equal(mask, again.topology.masks[name])
        assert torch.equal(weight, again.topology.weights[name])
        assert not torch.equal(mask, other.topology.masks[name])
        common = mask & other.topology.masks[name]
        assert common.any()
        assert (weight != other.topology.weights[name])[common].all()
    order = [torch.cat([labels for _, labels in run.data.train.epoch(0)]) for run in (first, again, other)]
    assert torch.equal(order[0], order[1])
    assert not torch.equal(order[0], order[2])
    grown = [after_growth(run, start) for run in (first, again, other)]
    for name in weights:
        assert torch.equal(grown[0][name], grown[1][name])
        assert not torch.equal(grown[0][name], grown[2][name])


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        (("dst=static",), 0),
        (("dst=set",), 0),
        (("dst=rigl",), len(DUE) / (EPOCHS * STEPS)),
        (("dst=static", "renorm=unit"), 1),
        (("dst=rigl", "renorm=unit"), 1),
        (("dst=set", "renorm=unit", "optimizer.renorm.over=masked"), 0),
        (("dst=rigl", "renorm=unit", "optimizer.renorm.over=masked"), len(DUE) / (EPOCHS * STEPS)),
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


class Listening:
    """A sink that keeps what it hears."""

    def __init__(self):
        self.epochs, self.ends = [], []

    def log(self, row, topology=None):
        self.epochs.append(row["epoch"])

    def finish(self, record):
        self.ends.append(record.status)


@pytest.fixture
def task(compose_config, tmp_path, monkeypatch):
    """Run the task itself; what it raised, the record on disk, and a sink that listened."""

    def trained(*overrides):
        sink, make = Listening(), tasks.make
        monkeypatch.setattr(tasks, "make", lambda cfg, key, *a: sink if key == "logger" else make(cfg, key, *a))
        record = Record(str(tmp_path), "tiny")
        with pytest.raises(RuntimeError) as raised:
            tasks.train(compose_config(*TINY, "logger=wandb", *overrides), record)
        return raised.value, json.loads((record.dir / "record.json").read_text()), sink

    return trained


def test_a_run_that_raises_is_failed_and_says_why(task, monkeypatch):
    evaluate, calls = loop.evaluate, []

    def failing(run, between):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory\nand a long trace")
        return evaluate(run, between)

    monkeypatch.setattr(loop, "evaluate", failing)
    error, record, sink = task()
    assert str(error).startswith("out of memory")
    assert (record["status"], record["reason"]) == ("failed", "RuntimeError: out of memory")
    assert record["final"]["epoch"] == 1, "what was done stays"
    assert sink.epochs == [1]
    assert sink.ends == ["failed"], "told once the record has its last word"


def test_a_run_whose_loss_is_no_number_is_diverged(task):
    error, record, sink = task("lr=1e30", "lr_schedule.warmup_epochs=0")
    assert isinstance(error, DivergedError)
    assert (record["status"], record["reason"]) == (
        "diverged",
        "the gradients of layers.1.weight and 5 others are not finite at step 1",
    )
    assert (sink.epochs, sink.ends) == ([], ["diverged"])


def test_a_test_loss_that_is_no_number_is_divergence_too(task, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda run, between: {"test_loss": float("inf"), "test_acc": 10.0})
    error, record, _ = task()
    assert isinstance(error, DivergedError)
    assert (record["status"], record["reason"]) == ("diverged", "the test loss is inf in epoch 1")


def test_a_failed_run_leaves_no_model_in_memory(compose_config, tmp_path, monkeypatch):
    """A sweep keeps the error to the end, and with it each frame of its traceback."""
    made = []

    def watched(cfg, ranks):
        run = build(cfg, ranks)
        made.append(weakref.ref(run.model))
        return run

    monkeypatch.setattr(tasks, "build", watched)
    with pytest.raises(DivergedError) as error:
        tasks.train(compose_config(*TINY, "lr=1e30", "lr_schedule.warmup_epochs=0"), Record(str(tmp_path), "tiny"))
    assert made[0]() is None
    assert error.traceback[-1].path.name == "checkpointing.py", "where it came from can still be read"
