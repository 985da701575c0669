"""Model and optimizer alone are what other trainers save: masks and what was visited come back with them."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparse_train.errors import MaskMismatchError
from sparse_train.optim import HAM, SparseOpt, SparseSGD
from sparse_train.sparsity.methods.gmp import GMP
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from support.runs import tensors
from support.steps import same


class Training:
    """A loop that is not ours: it knows of a model and an optimizer."""

    def __init__(self, model, kind, seed=0):
        self.model, self.topology = model, Topology(model, 0.7, seed=seed)
        if kind is SparseSGD:
            slots = {"precondition": SparseOpt(), "mirror": HAM(8.0)}
            self.optimizer = SparseSGD(model.parameters(), self.topology, lr=0.1, momentum=0.9, **slots)
        else:
            self.optimizer = kind(model.parameters(), lr=0.01)
        self.updater = Updater(self.topology, self.optimizer, RigL(), 40, 0.5, every=3)

    def take(self, steps, batch):
        for step in steps:
            self.optimizer.zero_grad()
            images, labels = batch(step)
            F.cross_entropy(self.model(images), labels).backward()
            self.updater.update(step) if self.updater.due(step) else self.optimizer.step()
        return self

    def saved(self):
        """As a trainer's checkpoint file gives it back."""
        file = io.BytesIO()
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, file)
        return torch.load(io.BytesIO(file.getvalue()), weights_only=True)

    def load(self, saved):
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        return self

    def parts(self):
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()["state"]}
        return [value.clone() for value in tensors({**state, "topology": self.topology.state_dict()})]


@pytest.mark.parametrize(
    ("kind", "order"), [(SparseSGD, ("model", "optimizer")), (torch.optim.AdamW, ("optimizer", "model"))]
)
def test_model_and_optimizer_are_all_that_a_restart_needs(kind, order, small_net, batch):
    """In either order: Hugging Face's Trainer loads the optimizer first."""
    whole = Training(small_net(), kind)
    saved = whole.take(range(8), batch).saved()
    visited = whole.topology.itop_rate()
    again = Training(small_net(), kind, seed=1)
    assert not same(whole.topology.masks.values(), again.topology.masks.values())
    for part in order:
        getattr(again, part).load_state_dict(saved[part])
    assert again.topology.itop_rate() == visited > 0.31
    assert same(whole.take(range(8, 20), batch).parts(), again.take(range(8, 20), batch).parts())


def test_an_updater_may_be_made_after_its_optimizer_is_loaded():
    """A gradual method too: it counts on, from the weights that it began with."""

    def made():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
        topology = Topology(model, 0.9, initial="dense")
        return model, topology, SparseSGD(model.parameters(), topology, lr=0.05)

    def pruned(topology, optimizer):
        return Updater(topology, optimizer, GMP(), 60, every=5).attach()

    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            model(torch.randn(8, 16, generator=torch.Generator().manual_seed(step))).pow(2).mean().backward()
            optimizer.step()

    model, topology, optimizer = made()
    pruned(topology, optimizer)
    train(model, optimizer, range(20))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, range(20, 60))
    expected, counts = copy.deepcopy(model.state_dict()), dict(topology.counts)

    model, topology, optimizer = made()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    pruned(topology, optimizer)
    train(model, optimizer, range(20, 60))
    assert topology.counts == counts == topology.targets
    assert same(tensors(model.state_dict()), tensors(expected))


@pytest.mark.parametrize(
    ("kind", "steps"), [(SparseSGD, range(9, 10)), (torch.optim.AdamW, range(8, 9))], ids=["an update", "a step"]
)
def test_an_optimizer_without_its_model_is_refused_before_a_weight_is_lost(kind, steps, small_net, batch):
    saved = Training(small_net(), kind).take(range(8), batch).saved()
    again = Training(small_net(), kind, seed=1).take(range(4), batch)
    before = copy.deepcopy(dict(again.model.named_parameters()))
    again.optimizer.load_state_dict(saved["optimizer"])
    with pytest.raises(
        MaskMismatchError, match=r"conv1.weight has nonzero weights off its mask: load model and optimizer"
    ):
        again.take(steps, batch)
    assert same(before.values(), again.model.parameters())
    again.topology.apply()
    again.take(steps, batch)


def test_a_state_without_masks_takes_no_trained_weight(small_net, batch):
    """As versions before wrote it, and optimizers that know of no masks."""
    first = Training(small_net(), SparseSGD).take(range(8), batch)
    saved = first.saved()
    masks = saved["optimizer"].pop("topology")
    again = Training(small_net(), SparseSGD, seed=1).load(saved)
    with pytest.raises(MaskMismatchError, match="has nonzero weights off its mask"):
        again.take(range(8, 9), batch)
    assert same(
        dict(again.model.named_parameters()).values(), [saved["model"][n] for n, _ in again.model.named_parameters()]
    )
    again.topology.load_state_dict(masks)
    again.load(saved)
    assert same(first.take(range(8, 20), batch).parts(), again.take(range(8, 20), batch).parts())
