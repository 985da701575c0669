"""What speed relies on: few operations in a step, none that waits for the device, and the bits of a plain step."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import library as operators
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.optim.sgd import sgd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse_train.optim import HAM, Renorm, SparseOpt, SparseSGD
from sparse_train.optim.clip import clip_grad_norm_
from sparse_train.optim.ham import mirror_factor
from sparse_train.process.console import RunBar
from sparse_train.process.signals import SignalHandler
from sparse_train.record.record import Record
from sparse_train.sparsity import updater as updates
from sparse_train.sparsity.masks import masked_top_k
from sparse_train.sparsity.methods.mean import Mean
from sparse_train.sparsity.methods.ranked import Ranked
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.methods.set import SET
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.train.build import build
from sparse_train.train.checkpointing import Checkpointing, Interval, Progress
from sparse_train.train.diagnostics import Diagnostics
from sparse_train.train.loop import train_epoch
from sparse_train.train.meter import Meter
from support.steps import gradients, same_parameters, take_step

WAIT = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal"}  # for the device
SLOTS = {
    "sgd": {},
    "sparseopt": {"precondition": SparseOpt()},
    "ham": {"mirror": HAM(8.0, 1e-3)},
    "sparseopt_ham": {"precondition": SparseOpt(), "mirror": HAM(8.0)},
    "dense norm": {"precondition": SparseOpt(), "renorm": Renorm(), "mirror": HAM(8.0)},
    "masked norm": {"precondition": SparseOpt(), "renorm": Renorm(0.5, over="masked")},
    "scaled decay": {"precondition": SparseOpt(scale_decay=True)},
    "nesterov": {"nesterov": True},
}


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __enter__(self):
        self.names = Counter()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def step_operations(model, slots):
    """The operations of one step, after a first that makes room."""
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e-3)
    optimizer = SparseSGD(model.parameters(), Topology(model, 0.5), lr=0.1, momentum=0.9, weight_decay=5e-4, **slots)
    optimizer.step()
    with Operations() as operations:
        optimizer.step()
    del operations.names["as_strided"]  # a view: nothing is computed
    return operations.names


# --- the step ---


@pytest.mark.parametrize("name", SLOTS)
def test_a_step_waits_for_nothing_and_has_as_few_operations_for_many_layers(name):
    def net(depth):
        return nn.Sequential(*[nn.Linear(6, 6) for _ in range(depth)])

    names = step_operations(net(20), SLOTS[name])
    assert not WAIT & set(names)
    assert names.total() <= 40, names
    assert names == step_operations(net(2), SLOTS[name])


class OnDevice(Operations):
    """Collects the devices of all tensors with elements that operations are given, and how often they leave it."""

    def __enter__(self):
        self.moved, self.devices = [], set()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.numel() > 1}
        made = super().__torch_dispatch__(func, types, args, kwargs)
        devices = given | {t.device.type for t in tree_leaves(made) if isinstance(t, torch.Tensor)}
        self.devices |= devices
        if len(devices) > 1:
            self.moved.append(func.overloadpacket.__name__)
        return made


@pytest.fixture
def pretended_gpu(monkeypatch, small_net):
    """CUDA tensors without values: what would wait for one raises. They need no GPU; a backward pass would.

    One thing waits, and does nothing here: an update asks whether scores are finite.
    """
    network = type(small_net())
    monkeypatch.setattr(updates, "finite", lambda *_: True)
    with operators._scoped_library("aten", "IMPL") as library, FakeTensorMode():
        library.impl("_fused_sgd_", lambda *_, **__: None, "Meta")  # torch has none
        with torch.device("cuda"):
            model = network()
        for p in model.parameters():
            p.grad = torch.empty_like(p)
        yield model


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", ["dense norm", "masked norm", "scaled decay"])
def test_steps_and_updates_stay_on_the_device_and_never_wait_for_it(pretended_gpu, name):
    topology = Topology(pretended_gpu, 0.9, exclude="first_conv")
    slots = dict(SLOTS[name])
    if renorm := slots.get("renorm"):  # another: it keeps its counts on the device
        slots["renorm"] = Renorm(renorm.max_norm, renorm.over)
    optimizer = SparseSGD(pretended_gpu.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=5e-4, **slots)
    with OnDevice() as seen:
        for method in (RigL(), Ranked(Mean(RigL(), 1), "invariant"), SET()):
            updater = Updater(topology, optimizer, method, total_steps=100, every=1)
            optimizer.step()
            updater.observe(1)
            updater.update(1)
            optimizer.step()
            optimizer.step()
            clip_grad_norm_(pretended_gpu.parameters(), topology, 1.0)
            if method.needs_gradient:
                assert not seen.moved
                assert seen.devices == {"cuda"}
    assert set(seen.moved) == {"_to_copy"}, "SET draws on the CPU"
    assert len(seen.moved) == len(topology.masks)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_diagnostics_stay_on_the_device_and_never_wait_for_it(pretended_gpu):
    topology = Topology(pretended_gpu, 0.9)
    optimizer = SparseSGD(pretended_gpu.parameters(), topology, lr=0.1, precondition=SparseOpt())
    updater = Updater(topology, optimizer, RigL(), total_steps=100, every=1)
    looks, meter = Diagnostics(pretended_gpu, topology, optimizer), Meter(torch.device("cuda"))
    with OnDevice() as seen:
        with looks.step(meter):
            optimizer.step()
        with looks.update(meter, updater):
            updater.update(1)
    assert not seen.moved
    assert seen.devices == {"cuda"}


def test_what_waits_for_a_pretended_gpu_is_found(pretended_gpu):
    with pytest.raises(DynamicOutputShapeException):
        pretended_gpu.fc.weight.nonzero()
    with pytest.raises(DataDependentOutputException):
        bool(pretended_gpu.fc.weight.sum() > 0)
    with OnDevice() as seen:
        pretended_gpu.fc.weight.cpu()
    assert seen.moved == ["_to_copy"]


def test_an_epoch_waits_as_often_as_it_is_read_whatever_its_length(compose_config, tmp_path):
    def waits(batch_size):
        options = ["model=mlp", f"batch_size={batch_size}", "epochs=9", "update_every=1000", f"runs_dir={tmp_path}"]
        cfg = compose_config("dataset=digits", "optimizer=sparseopt_ham", "renorm=unit", *options)
        run = build(cfg)
        record = Record(tmp_path, str(batch_size))
        with SignalHandler() as interruption:
            checkpointing = Checkpointing(run, record, Interval(), interruption)
            place = Progress([], 0, run.meter(), 0.0)
            with Operations() as operations:
                train_epoch(run, 0, place, checkpointing, 0.0, RunBar(1, 1))
        return sum(operations.names[name] for name in WAIT)

    assert waits(50) == waits(200) > 0


# --- the bits ---


def plain_step(model, topology, momentum, rates, slots, decay=5e-4):
    """A step as its docstring has it, one tensor after the other."""
    names = {name: p for name, p in model.named_parameters() if p.grad is not None}
    scales = slots["precondition"].scales(topology) if "precondition" in slots else {}
    scales = {name: scale.to(names[name].dtype) for name, scale in scales.items()}
    renorm, mirror = slots.get("renorm"), slots.get("mirror")
    grads = {name: p.grad * scales.get(name, 1) for name, p in names.items()}
    masked = {name: grad * topology.masks.get(name, True) for name, grad in grads.items()}
    if renorm is not None:
        seen = grads if renorm.over == "dense" else masked
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in seen.values()]))
        bound = 1 / (norm / renorm.max_norm).clamp(min=1)
        masked = {name: seen[name] * bound * topology.masks.get(name, True) for name in names}
    for name, p in names.items():
        momentum.setdefault(name, torch.zeros_like(p))
        grad = masked[name]
        if "precondition" in slots and slots["precondition"].scale_decay and name in scales:
            grad = grad + decay * (scales[name] - 1) * p
        hyper = {
            "weight_decay": decay,
            "momentum": 0.9,
            "dampening": 0.0,
            "nesterov": "nesterov" in slots,
            "maximize": False,
        }
        sgd([p], [grad], [momentum[name]], fused=True, lr=rates[name], **hyper)
        if mirror is not None and p.ndim > 1:
            p.mul_(mirror_factor(p, masked[name], rates[name], mirror.alpha, mirror.beta))
        if name in topology.masks:
            p.mul_(topology.masks[name])


@pytest.mark.parametrize(
    ("name", "layout"),
    [*((name, torch.contiguous_format) for name in SLOTS), ("dense norm", torch.channels_last)],
)
def test_a_step_has_the_bits_of_a_plain_one(small_net, batch, name, layout):
    """In two parameter groups of their own learning rates, through two updates of the masks."""
    ours, plain = (small_net().to(memory_format=layout) for _ in range(2))
    topology, plain_topology = (Topology(model, 0.6, exclude=["fc.weight"]) for model in (ours, plain))
    slots = SLOTS[name]
    params, rates = list(ours.parameters()), dict.fromkeys(dict(ours.named_parameters()), 0.1)
    rates |= dict.fromkeys(list(rates)[4:], 0.02)
    groups = [{"params": params[:4]}, {"params": params[4:], "lr": 0.02}]
    optimizer = SparseSGD(groups, topology, lr=0.1, momentum=0.9, weight_decay=5e-4, **slots)
    updater = Updater(topology, optimizer, RigL(), total_steps=10**6, every=5)
    momentum = {}
    for step in range(11):
        images, labels = batch(step)
        losses = []
        for model in (ours, plain):
            losses.append(gradients(model, (images.contiguous(memory_format=layout), labels)))
        assert torch.equal(*losses), step
        if updater.due(step):
            updater.update(step)
            for key, mask in topology.masks.items():
                plain_topology.replace(key, mask)
                momentum[key].mul_(mask)
        optimizer.step()
        with torch.no_grad():
            plain_step(plain, plain_topology, momentum, rates, slots)
        assert same_parameters(ours, plain), step
    for p, expected in zip(ours.parameters(), momentum.values(), strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], expected)


@pytest.mark.parametrize("largest", [True, False])
def test_the_masked_top_k_are_the_first_of_all_sorted_and_those_of_topk_among_ties(largest):
    """Half of the scores are rounded, so that many are equal."""
    generator = torch.Generator().manual_seed(0)
    for case in range(40):
        scores = torch.rand(300, generator=generator)
        if case % 2:
            scores = (scores * 20).round() / 20
        among = torch.rand(300, generator=generator) < 0.6
        count = int(torch.randint(0, int(among.sum()) + 1, (1,), generator=generator))
        found = masked_top_k(scores.view(20, 15).requires_grad_(), among.view(20, 15), count, largest)
        candidates = torch.where(among, scores, -torch.inf if largest else torch.inf)
        assert set(found.tolist()) == set(candidates.topk(count, largest=largest, sorted=False).indices.tolist())
        assert among[found].all()
        expected = scores[among].sort(descending=largest).values[:count]
        assert torch.equal(scores[found].sort(descending=largest).values, expected)


# --- other code ---


def test_autograd_knows_that_a_step_changed_the_weights(small_net, batch):
    model = small_net()
    optimizer = SparseSGD(model.parameters(), Topology(model, 0.6), lr=0.1)
    take_step(model, optimizer, batch(0))
    images, labels = batch(1)
    loss = F.cross_entropy(model(images), labels)
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
