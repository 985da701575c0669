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


def made(method, kind=SparseSGD, frozen=False):
    """A network that trains for 20 steps, with an update within every fourth."""
    torch.manual_seed(0)
    model = Three()
    topology = Topology(model, 0.7, initial=method.initial or "random")
    model.middle.weight.requires_grad_(not frozen)
    trained = [p for p in model.parameters() if p.requires_grad]
    if kind is SparseSGD:
        optimizer = SparseSGD(trained, topology, lr=0.05, momentum=0.9, precondition=SparseOpt())
    else:
        optimizer = kind(trained, lr=0.01)
    updater = Updater(topology, optimizer, method, 20, 0.5, every=4, stop_fraction=1.0)
    return model, topology, optimizer, updater.attach()


def train(model, optimizer, steps, skip=()):
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(step))
        (model(x, step in skip) - x.roll(1, 1)).square().mean().backward()
        optimizer.step()


def changed(topology, before):
    return [name for name, mask in topology.masks.items() if not torch.equal(mask, before[name])]


def require_masked(topology):
    for name, mask in topology.masks.items():
        assert int(mask.sum()) == topology.counts[name]
        assert not topology.weights[name][~mask].any()


# --- layers that a step does not use ---


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (RigL(), SparseSGD),
        (RigL(), torch.optim.AdamW),
        (Mean(RigL(), 3), SparseSGD),
        (SNFS(), SparseSGD),
        (SRigL(), SparseSGD),
        (GraNet(), SparseSGD),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_layer_that_a_step_skips_keeps_its_mask_in_it(method, kind):
    model, topology, optimizer, updater = made(method, kind)
    train(model, optimizer, range(4))
    before, weight = dict(topology.masks), model.middle.weight.detach().clone()
    total = sum(topology.counts.values())
    with pytest.warns(UserWarning, match=f"no gradient at the mask update of step 4 in {MIDDLE}: ") as said:
        train(model, optimizer, [4], skip=[4])
    assert len(said) == 1
    if updater.prunes:  # in the common ranking it is among the layers: their total is as asked
        total = round(cubic(total, sum(topology.targets.values()), updater.pruning_progress(4)))
    else:
        assert changed(topology, before) == ["first.weight", "last.weight"]
        assert torch.equal(model.middle.weight, weight)
    if not isinstance(method, SRigL):  # whose fan-ins are whole numbers
        assert sum(topology.counts.values()) == total
    with warnings.catch_warnings(action="error"):  # once is enough
        train(model, optimizer, range(5, 9), skip=[8])
    before = dict(topology.masks)
    train(model, optimizer, range(9, 13))
    assert MIDDLE in changed(topology, before), "a step that uses it updates it again"
    require_masked(topology)


@pytest.mark.parametrize("method", [MEST(), DSR(), GMP()])
def test_methods_that_need_no_gradient_need_none_of_a_skipped_layer(method):
    model, topology, optimizer, updater = made(method)
    with warnings.catch_warnings(action="error"):
        train(model, optimizer, range(20), skip=[4, 16])
    assert updater.plan[MIDDLE][0] > 0
    assert sum(topology.counts.values()) == sum(topology.targets.values())


@pytest.mark.parametrize(
    ("method", "skip"),
    [(GraNet(), [16]), (SNFS(), range(5, 9)), (Mean(RigL(), 2), range(5, 9))],  # as long as an average sees
)
def test_training_ends_at_its_sparsity_though_updates_skip_a_layer(method, skip):
    model, topology, optimizer, _ = made(method)
    with pytest.warns(UserWarning, match="no gradient"):
        train(model, optimizer, range(20), skip=skip)
    assert sum(topology.counts.values()) == sum(topology.targets.values())


@pytest.mark.parametrize(("method", "kind"), [(RigL(), SparseSGD), (SET(), torch.optim.AdamW)])
def test_a_layer_that_is_never_used_is_named_and_so_is_a_backward_that_was_forgotten(method, kind):
    model, topology, optimizer, updater = made(method, kind)
    before = dict(topology.masks)
    train(model, optimizer, range(4), skip=range(5))
    with pytest.raises(RuntimeError, match=f"{MIDDLE} has no gradient to update its mask by at step 4: .* exclude"):
        train(model, optimizer, [4], skip=range(5))
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match=r"first.weight has no gradient .* at step 4: call backward first"):
        updater.update(4)
    assert before == topology.masks


def test_after_a_restart_a_skipped_layer_is_no_unused_one():
    model, _, optimizer, _ = made(RigL())
    train(model, optimizer, range(4))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model, _, optimizer, _ = made(RigL())
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    with pytest.warns(UserWarning, match=f"no gradient at the mask update of step 4 in {MIDDLE}"):
        train(model, optimizer, [4], skip=[4])


# --- layers that are frozen and unfrozen ---


@pytest.mark.parametrize("method", [RigL(), SET(), SNFS(), DSR(), SRigL(), GraNet()])
def test_a_frozen_layer_keeps_its_mask_and_its_weights(method):
    model, topology, optimizer, _ = made(method)
    train(model, optimizer, range(3))
    model.middle.weight.requires_grad_(False)
    before, weight = dict(topology.masks), model.middle.weight.detach().clone()
    train(model, optimizer, range(3, 20))
    assert changed(topology, before) == ["first.weight", "last.weight"]
    assert torch.equal(model.middle.weight, weight)


@KINDS
def test_a_layer_that_is_unfrozen_must_be_given_to_the_optimizer(kind):
    """Else updates would take its weights and grow none that is trained."""
    model, topology, optimizer, _ = made(RigL(), kind, frozen=True)
    train(model, optimizer, range(6))
    model.middle.weight.requires_grad_(True)
    before, weight = dict(topology.masks), model.middle.weight.detach().clone()
    train(model, optimizer, range(6, 8))
    with pytest.raises(ConfigError, match=rf"{kind.__name__}: does not train {MIDDLE}: .* unfrozen .* add_param_group"):
        train(model, optimizer, [8])
    assert MIDDLE not in changed(topology, before)
    assert torch.equal(model.middle.weight, weight)
    optimizer.add_param_group({"params": [model.middle.weight]})
    model.middle.weight.grad = None
    train(model, optimizer, range(8, 14))
    assert MIDDLE in changed(topology, before)
    require_masked(topology)
    assert (model.middle.weight != weight)[topology.masks[MIDDLE]].any()


# --- weights that others write ---


@pytest.mark.parametrize(
    ("kind", "at"),
    [(SparseSGD, 10), (torch.optim.AdamW, 10), (SparseSGD, 12)],
    ids=["our step", "another's step", "an update"],
)
def test_restored_weights_that_masks_take_are_counted(kind, at):
    """`model.load_state_dict(best)` without the optimizer's state, whose masks are those of the best."""
    model, topology, optimizer, _ = made(RigL(), kind)
    train(model, optimizer, range(3))
    best = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(3, at))
    model.load_state_dict(best)
    before = dict(topology.masks)
    lost = {name: int(((best[name] != 0) & ~mask).sum()) for name, mask in before.items()}
    assert min(lost.values()) > 0
    with pytest.warns(
        UserWarning,
        match=f"other code wrote {sum(lost.values())} nonzero weights off the masks, in first.weight and 2 more: "
        "they are set to 0 now; with the model's state load the optimizer's",
    ):
        train(model, optimizer, [at])
    require_masked(topology)
    for name, mask in topology.masks.items():
        assert not topology.weights[name][mask & ~before[name]].any(), "what is grown starts at 0"


def swap(model, average):
    """Evaluate the average, as timm and accelerate do, and go on with the weights."""
    kept = copy.deepcopy(model.state_dict())
    model.load_state_dict(average)
    model.load_state_dict(kept)


def exchange(model, average):
    for _ in range(2):
        for name, p in model.named_parameters():
            p.data, average[name] = average[name], p.data


def write(model, average):
    with torch.no_grad():
        for p in model.parameters():
            p.clamp_(-1, 1)


@pytest.mark.parametrize("kind", [SparseSGD, torch.optim.AdamW, "lookahead", "compiled"])
def test_training_and_what_keeps_the_masks_is_not_warned_of(kind, monkeypatch):
    model, topology, optimizer, _ = made(RigL(), SparseSGD if isinstance(kind, str) else kind)
    average = {name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}
    loop = Lookahead(optimizer, k=3) if kind == "lookahead" else optimizer
    if kind == "compiled":
        optimizer.step = torch.compile(optimizer.step, backend="eager")
    looked, lost = [], topology._lost
    monkeypatch.setattr(topology, "_lost", lambda masks: looked.append(masks) or lost(masks))
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", module="torch")
        train(model, loop, range(7))
        assert len(looked) == 1 or kind == "lookahead", "what a step does itself makes none wait for the device"
        for others, step in zip((swap, exchange, write) * 3, range(7, 16), strict=True):
            others(model, average)
            train(model, loop, [step])


def test_a_wrapper_whose_weights_have_what_was_dropped_is_warned_of_once():
    """As an implementation of Lookahead with slow weights of its own."""
    model, _, optimizer, _ = made(RigL())
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


def test_a_gradient_without_numbers_off_the_mask_is_told():
    """In SparseSGD, as in torch's SGD, it makes its weight NaN; the error says that no weight of the network was."""
    model, topology, optimizer, updater = made(RigL())
    train(model, optimizer, range(3))
    off = (~topology.masks[MIDDLE]).nonzero()[:2]
    model.middle.weight.grad[off[:, 0], off[:, 1]] = torch.inf
    optimizer.step()
    for p in model.parameters():
        p.grad.zero_()
    cause = "2 of its weights are off the mask, where a gradient was inf or NaN"
    with pytest.raises(DivergedError, match=f"{MIDDLE} is not finite at the mask update of step 4: {cause}"):
        updater.update(4)
