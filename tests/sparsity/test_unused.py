"""Layers that a step does not use, that are unfrozen, and weights that other code writes: nothing is lost silently."""

import copy
import warnings

import pytest
import torch
from timm.optim import Lookahead
from torch import nn

from sparse_train.errors import ConfigError, DivergedError
from sparse_train.optim import SparseOpt, SparseSGD
from sparse_train.sparsity.methods.dsr import DSR
from sparse_train.sparsity.methods.gmp import GMP, cubic
from sparse_train.sparsity.methods.granet import GraNet
from sparse_train.sparsity.methods.mean import Mean
from sparse_train.sparsity.methods.mest import MEST
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.methods.set import SET
from sparse_train.sparsity.methods.snfs import SNFS
from sparse_train.sparsity.methods.srigl import SRigL
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater

NEED = [RigL, lambda: Mean(RigL(), 3), SNFS, SRigL, GraNet]  # a gradient
DO_NOT = [SET, MEST, DSR, GMP]
KINDS = pytest.mark.parametrize("kind", [SparseSGD, torch.optim.AdamW])
MIDDLE = "middle.weight"


class Three(nn.Module):
    """Three layers, of which a step may skip the one in the middle, as LayerDrop does."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(12, 20), nn.Linear(20, 20), nn.Linear(20, 12)

    def forward(self, x, skip=False):
        x = self.first(x).relu()
        return self.last(x if skip else x + self.middle(x).relu())


def made(method, kind=SparseSGD, total_steps=20, **options):
    """A network that trains for 20 steps, with an update at every fourth."""
    torch.manual_seed(0)
    model = Three()
    topology = Topology(model, 0.7, initial=method.initial or "random")
    if kind is SparseSGD:
        optimizer = SparseSGD(model.parameters(), topology, lr=0.05, momentum=0.9, precondition=SparseOpt())
    else:
        optimizer = kind(model.parameters(), lr=0.01)
    options = {"every": 4, "stop_fraction": 1.0, **options}
    return model, topology, optimizer, Updater(topology, optimizer, method, total_steps, 0.5, **options)


def train(model, optimizer, steps, skip=()):
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(step))
        (model(x, step in skip) - x.roll(1, 1)).square().mean().backward()
        optimizer.step()


# --- layers that a step does not use ---


@KINDS
@pytest.mark.parametrize("method", NEED)
def test_a_layer_that_a_step_skips_keeps_its_mask_in_it(kind, method):
    model, topology, optimizer, updater = made(method(), kind)
    updater.attach()
    train(model, optimizer, range(4))
    before, weight = dict(topology.masks), model.middle.weight.detach().clone()
    total = sum(topology.counts.values())
    with pytest.warns(UserWarning, match=f"no gradient at the mask update of step 4 in {MIDDLE}: ") as said:
        train(model, optimizer, [4], skip=[4])
    assert len(said) == 1
    changed = [not torch.equal(mask, topology.masks[name]) for name, mask in before.items()]
    assert changed[0]
    assert changed[2]
    if updater.prunes:  # in the common ranking it is among the layers: their total is as asked
        asked = round(cubic(total, sum(topology.targets.values()), updater.pruning_progress(4)))
        assert sum(topology.counts.values()) == asked
    else:
        assert not changed[1]
        assert torch.equal(model.middle.weight, weight)
        if not isinstance(updater.method, SRigL):  # whose fan-ins are whole numbers
            assert sum(topology.counts.values()) == total
    with warnings.catch_warnings(action="error"):  # once is enough
        train(model, optimizer, range(5, 9), skip=[8])
    before = topology.masks[MIDDLE]
    train(model, optimizer, range(9, 13))
    assert not torch.equal(before, topology.masks[MIDDLE]), "a step that uses it updates it again"
    for name, mask in topology.masks.items():
        assert int(mask.sum()) == topology.counts[name]
        assert not topology.weights[name][~mask].any()


@pytest.mark.parametrize("method", DO_NOT)
def test_methods_that_need_no_gradient_need_none_of_a_skipped_layer(method):
    model, topology, optimizer, updater = made(method())
    updater.attach()
    with warnings.catch_warnings(action="error"):
        train(model, optimizer, range(20), skip=[4, 16])
    assert updater.plan[MIDDLE][0] > 0
    if method is GMP:
        assert topology.counts == topology.targets
    assert sum(topology.counts.values()) == sum(topology.targets.values())


def test_a_gradual_method_ends_at_its_sparsity_though_its_last_update_skips_a_layer():
    model, topology, optimizer, updater = made(GraNet())
    updater.attach()
    with pytest.warns(UserWarning, match="no gradient"):
        train(model, optimizer, range(20), skip=[16])
    assert sum(topology.counts.values()) == sum(topology.targets.values())


def test_one_that_sees_averages_goes_on_without_one():
    """The layer is skipped by every step since the last update."""
    for method in (Mean(RigL(), 2), SNFS()):
        model, _, optimizer, updater = made(method)
        updater.attach()
        with pytest.warns(UserWarning, match="no gradient"):
            train(model, optimizer, range(20), skip=range(5, 9))


@KINDS
@pytest.mark.parametrize("method", [RigL, SET])
def test_a_layer_that_is_never_used_is_named(kind, method):
    model, topology, optimizer, updater = made(method(), kind)
    updater.attach()
    before = dict(topology.masks)
    train(model, optimizer, range(4), skip=range(5))
    with pytest.raises(RuntimeError, match=f"{MIDDLE} has no gradient to update its mask by at step 4: .* exclude"):
        train(model, optimizer, [4], skip=range(5))
    assert before == topology.masks


@KINDS
def test_a_backward_that_was_forgotten_is_named(kind):
    model, _, optimizer, updater = made(RigL(), kind)
    train(model, optimizer, range(4))
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match=r"first.weight has no gradient .* at step 4: call backward first"):
        updater.update(4)


def test_after_a_restart_a_skipped_layer_is_no_unused_one():
    model, _, optimizer, updater = made(RigL())
    updater.attach()
    train(model, optimizer, range(4))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model, _, optimizer, updater = made(RigL())
    updater.attach()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    with pytest.warns(UserWarning, match=f"no gradient at the mask update of step 4 in {MIDDLE}"):
        train(model, optimizer, [4], skip=[4])


# --- layers that are frozen and unfrozen ---


@pytest.mark.parametrize("method", [RigL, SET, SNFS, DSR, SRigL, GraNet, GMP])
def test_a_frozen_layer_keeps_its_mask_and_its_weights(method):
    model, topology, optimizer, updater = made(method())
    updater.attach()
    train(model, optimizer, range(3))
    model.middle.weight.requires_grad_(False)
    before, weight = dict(topology.masks), model.middle.weight.detach().clone()
    train(model, optimizer, range(3, 20))
    assert torch.equal(topology.masks[MIDDLE], before[MIDDLE])
    assert torch.equal(model.middle.weight, weight)
    assert not torch.equal(topology.masks["first.weight"], before["first.weight"])


@KINDS
def test_a_layer_that_is_unfrozen_must_be_given_to_the_optimizer(kind):
    """Else updates would take its weights and grow none that is trained."""
    torch.manual_seed(0)
    model = Three()
    topology = Topology(model, 0.7)
    model.middle.weight.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = SparseSGD(trained, topology, lr=0.05) if kind is SparseSGD else kind(trained, lr=0.01)
    Updater(topology, optimizer, RigL(), 40, 0.5, every=4).attach()
    train(model, optimizer, range(6))
    model.middle.weight.requires_grad_(True)
    before, weight = topology.masks[MIDDLE], model.middle.weight.detach().clone()
    train(model, optimizer, range(6, 8))
    with pytest.raises(ConfigError, match=rf"{kind.__name__}: does not train {MIDDLE}: .* unfrozen .* add_param_group"):
        train(model, optimizer, [8])
    assert torch.equal(topology.masks[MIDDLE], before)
    assert torch.equal(model.middle.weight, weight)
    optimizer.add_param_group({"params": [model.middle.weight]})
    model.middle.weight.grad = None
    train(model, optimizer, range(8, 14))
    assert not torch.equal(topology.masks[MIDDLE], before)
    assert int(topology.masks[MIDDLE].sum()) == topology.counts[MIDDLE]
    assert (model.middle.weight != weight)[topology.masks[MIDDLE]].any()


# --- weights that others write ---


@KINDS
@pytest.mark.parametrize("then", ["step", "update"])
def test_restored_weights_that_masks_take_are_counted(kind, then):
    """`model.load_state_dict(best)` without the optimizer's state, whose masks are those of the best."""
    model, topology, optimizer, updater = made(RigL(), kind)
    updater.attach()
    train(model, optimizer, range(3))
    best = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(3, 10 if then == "step" else 12))
    model.load_state_dict(best)
    lost = {name: int(((best[name] != 0) & ~mask).sum()) for name, mask in topology.masks.items()}
    assert min(lost.values()) > 0
    with pytest.warns(
        UserWarning,
        match=f"other code wrote {sum(lost.values())} nonzero weights off the masks, in first.weight and 2 more: "
        "they are set to 0 now; with the model's state load the optimizer's",
    ):
        train(model, optimizer, [10 if then == "step" else 12])
    for name, mask in topology.masks.items():
        assert not topology.weights[name][~mask].any()


def swap(model, average):
    """Evaluate the average, as timm and accelerate do, and go on with the weights."""
    kept = copy.deepcopy(model.state_dict())
    model.load_state_dict(average)
    model.load_state_dict(kept)


def exchange(model, average):
    for name, p in model.named_parameters():
        p.data, average[name] = average[name], p.data
    for name, p in model.named_parameters():
        p.data, average[name] = average[name], p.data


def write(model, average):
    with torch.no_grad():
        for p in model.parameters():
            p.clamp_(-1, 1)


@pytest.mark.parametrize("kind", [SparseSGD, torch.optim.AdamW, torch.optim.SGD, "lookahead", "compiled"])
@pytest.mark.parametrize("between", [None, swap, exchange, write])
def test_training_and_what_keeps_the_masks_is_not_warned_of(kind, between, monkeypatch):
    optimizer_kind = SparseSGD if isinstance(kind, str) else kind
    model, topology, optimizer, updater = made(RigL(), optimizer_kind)
    updater.attach()
    average = copy.deepcopy(model.state_dict())
    for value in average.values():
        value.fill_(0.5)
    loop = Lookahead(optimizer, k=3) if kind == "lookahead" else optimizer
    if kind == "compiled":
        optimizer.step = torch.compile(optimizer.step, backend="eager")
    looked, lost = [], topology._lost
    monkeypatch.setattr(topology, "_lost", lambda masks: looked.append(masks) or lost(masks))
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", module="torch")
        for step in range(20):
            train(model, loop, [step])
            if between is not None and step % 3 == 0:
                between(model, average)
    if between in (None, exchange) and kind != "lookahead":
        assert len(looked) == 1, "before the first step: what a step does itself makes none wait for the device"


def test_a_wrapper_whose_weights_have_what_was_dropped_is_warned_of_once():
    """As an implementation of Lookahead with slow weights of its own."""
    model, topology, optimizer, updater = made(RigL())
    updater.attach()
    slow, fast = [p.detach().clone() for p in model.parameters()], list(model.parameters())

    def synchronized():
        for step in range(20):
            train(model, optimizer, [step])
            if step % 3 == 2:
                with torch.no_grad():
                    torch._foreach_lerp_(slow, fast, 0.5)
                    torch._foreach_copy_(fast, slow)

    with pytest.warns(UserWarning, match="other code wrote") as said:
        synchronized()
    assert len(said) == 1
    assert topology.agreed


# --- what is not a number, where no weight is ---


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_without_numbers_off_the_mask_is_told(bad):
    """In SparseSGD, as in torch's SGD, it makes its weight NaN; the error says that no weight of the network was."""
    model, topology, optimizer, updater = made(RigL())
    train(model, optimizer, range(3))
    off = (~topology.masks[MIDDLE]).nonzero()[:2]
    model.middle.weight.grad[off[:, 0], off[:, 1]] = bad
    optimizer.step()
    for p in model.parameters():
        p.grad.zero_()
    with pytest.raises(
        DivergedError,
        match=f"{MIDDLE} is not finite at the mask update of step 4: 2 of its weights are off the mask, where a "
        "gradient was inf or NaN",
    ):
        updater.update(4)
