"""An optimizer whose own `step` updates the masks trains as the visible loop does, to the bit."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from sparse_train.errors import ConfigError
from sparse_train.optim import HAM, Renorm, SparseOpt, SparseSGD
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from support.runs import equal, tensors

KINDS = pytest.mark.parametrize("kind", [SparseSGD, torch.optim.AdamW])


def made(small_net, kind, **options):
    model = small_net()
    topology = Topology(model, 0.7)
    if kind is SparseSGD:
        slots = {"precondition": SparseOpt(), "renorm": Renorm(), "mirror": HAM(8.0)}
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=1e-2, **slots)
    else:
        optimizer = kind(model.parameters(), lr=0.01)
    return model, optimizer, Updater(topology, optimizer, RigL(), 40, 0.5, every=3, **options)


def train(model, optimizer, batch, steps, step=None):
    """Somebody's loop, which knows of an optimizer."""
    for at in steps:
        optimizer.zero_grad()
        images, labels = batch(at)
        F.cross_entropy(model(images), labels).backward()
        (step or (lambda _: optimizer.step()))(at)


def parts(model, optimizer, updater):
    state = {
        "model": model.state_dict(),
        "state": optimizer.state_dict()["state"],
        "topology": updater.topology.state_dict(),
    }
    return [value.clone() for value in tensors(state)]


@KINDS
@pytest.mark.parametrize("skip_step", [True, False])
def test_it_trains_as_the_visible_loop_does(small_net, batch, kind, skip_step):
    model, optimizer, updater = made(small_net, kind, skip_step=skip_step)

    def visible(at):
        if updater.due(at):
            updater.update(at)
        if not (updater.due(at) and skip_step):
            optimizer.step()

    train(model, optimizer, batch, range(10), visible)
    expected = parts(model, optimizer, updater)
    model, optimizer, updater = made(small_net, kind, skip_step=skip_step)
    before = {name: mask.clone() for name, mask in updater.topology.masks.items()}
    updater.attach()
    train(model, optimizer, batch, range(10))
    assert equal(parts(model, optimizer, updater), expected)
    assert any(not torch.equal(mask, before[name]) for name, mask in updater.topology.masks.items())


@KINDS
def test_a_compiled_step_leaves_the_update_as_it_is(small_net, batch, kind):
    """Traced, one update is dozens of graphs, and a minute."""
    model, optimizer, updater = made(small_net, kind)
    updater.attach()
    train(model, optimizer, batch, range(8))
    expected, masks = parts(model, optimizer, updater), updater.topology.masks
    model, optimizer, updater = made(small_net, kind)
    updater.attach()
    torch._dynamo.reset()
    counter, graphs = CompileCounter(), []
    step = torch.compile(optimizer.step, backend=counter)
    train(model, optimizer, batch, range(8), lambda _: (step(), graphs.append(counter.frame_count)))
    assert graphs[0] > 0
    assert graphs[3] - graphs[2] <= 1, "of a step without gradients, after the update"
    assert all(torch.equal(mask, masks[name]) for name, mask in updater.topology.masks.items())
    for ours, theirs in zip(parts(model, optimizer, updater), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # torch compiles another AdamW


@KINDS
@pytest.mark.parametrize("passed", ["position", "name"])
def test_a_closure_is_called_once_and_before_the_update(small_net, batch, kind, passed):
    model, optimizer, updater = made(small_net, kind)
    updater.attach()
    train(model, optimizer, batch, range(7))
    expected = parts(model, optimizer, updater)
    model, optimizer, updater = made(small_net, kind)
    updater.attach()
    losses = []
    for at in range(7):
        images, labels = batch(at)

        def closure(images=images, labels=labels):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(model(images), labels))
            losses[-1].backward()
            return losses[-1]

        loss = optimizer.step(closure) if passed == "position" else optimizer.step(closure=closure)
        assert loss is losses[-1]
    assert len(losses) == 7
    assert equal(parts(model, optimizer, updater), expected)


@KINDS
def test_a_first_step_at_rate_0_is_counted_with_a_closure_too(small_net, batch, kind):
    """A warm-up begins at a learning rate of 0, and a closure has not made its gradients yet."""
    model, optimizer, updater = made(small_net, kind)
    updater.attach()
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def closure():
        optimizer.zero_grad()
        images, labels = batch(0)
        (loss := F.cross_entropy(model(images), labels)).backward()
        return loss

    optimizer.step(closure)
    assert optimizer.state_dict()["updater"]["steps"] == 1


@KINDS
def test_a_restart_goes_on_counting(small_net, batch, kind):
    model, optimizer, updater = made(small_net, kind)
    updater.attach()
    train(model, optimizer, batch, range(5))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, batch, range(5, 10))
    expected = parts(model, optimizer, updater)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    model, optimizer, updater = made(small_net, kind)
    updater.attach()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    train(model, optimizer, batch, range(5, 10))
    assert equal(parts(model, optimizer, updater), expected)


def test_a_state_without_a_count_is_refused(small_net):
    _, optimizer, updater = made(small_net, SparseSGD)
    state = copy.deepcopy(optimizer.state_dict())
    updater.attach()
    with pytest.raises(ValueError, match="saved without an attached Updater"):
        optimizer.load_state_dict(state)


def test_twice_is_once_too_often(small_net):
    _, optimizer, updater = made(small_net, SparseSGD)
    updater.attach()
    for again in (updater, Updater(updater.topology, optimizer, RigL(), 40)):
        with pytest.raises(ConfigError, match="updater=attach: this optimizer has an attached Updater already"):
            again.attach()


def test_a_run_too_short_for_an_update_is_warned_of(small_net):
    model = small_net()
    topology = Topology(model, 0.7)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
    with pytest.warns(UserWarning, match="every=100: no mask update of this run replaces a weight"):
        Updater(topology, optimizer, RigL(), 130).attach()


def test_a_run_whose_first_update_is_late_is_not_warned_of(small_net, recwarn):
    _, _, updater = made(small_net, SparseSGD, start_fraction=0.5)
    assert not updater.due(updater.every)
    assert updater.idle() == ""


@KINDS
def test_a_step_for_show_is_not_counted(small_net, batch, kind):
    """torch.distributed.checkpoint takes one, of zero gradients at a learning rate of 0, before it saves."""
    model, optimizer, updater = made(small_net, kind)
    updater.attach()
    train(model, optimizer, batch, range(3))
    optimizer.zero_grad()
    optimizer.state.clear()
    version = updater.topology.version
    get_optimizer_state_dict(model, optimizer)
    assert (optimizer.state_dict()["updater"]["steps"], updater.topology.version) == (3, version)
    train(model, optimizer, batch, [3])
    assert updater.topology.version > version


def test_gradients_that_are_still_scaled_are_refused(small_net, batch):
    """A fused AdamW unscales them itself, after the update would have seen them."""
    model = small_net()
    topology = Topology(model, 0.7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    Updater(topology, optimizer, RigL(), 40, 0.5, every=3).attach()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(at, unscale=False):
        optimizer.zero_grad()
        images, labels = batch(at)
        scaler.scale(F.cross_entropy(model(images), labels)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    for at in range(3):
        step(at)
    version = topology.version
    with pytest.raises(ValueError, match=r"still scaled: call scaler\.unscale_"):
        step(3)
    assert topology.version == version
    del optimizer.grad_scale, optimizer.found_inf  # torch leaves them where a step raises
    scaler.update(8.0)
    step(3, unscale=True)
    assert topology.version > version, "the step that was refused is not counted"


def test_a_scaler_that_skips_its_step_skips_the_update(small_net, batch):
    """It does not call `step`, so the step is not counted either."""
    model, optimizer, updater = made(small_net, SparseSGD)
    updater.attach()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    taken = []
    for at in range(5):
        optimizer.zero_grad()
        images, labels = batch(at)
        scaler.scale(F.cross_entropy(model(images), labels)).backward()
        if at == 2:
            next(iter(model.parameters())).grad.fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
        taken.append(updater.topology.version)
    assert taken[:4] == [taken[0]] * 4, "steps 0, 1, (2 skipped), 2"
    assert taken[4] > taken[3], "step 3"
