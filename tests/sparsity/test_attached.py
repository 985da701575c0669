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
from support.runs import tensors
from support.steps import gradients, same, take_step, train

KINDS = pytest.mark.parametrize("kind", [SparseSGD, torch.optim.AdamW])


def made(small_net, kind=SparseSGD, attach=True, total=40, **options):
    model = small_net()
    topology = Topology(model, 0.7)
    if kind is SparseSGD:
        slots = {"precondition": SparseOpt(), "renorm": Renorm(), "mirror": HAM(8.0)}
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=1e-2, **slots)
    else:
        optimizer = kind(model.parameters(), lr=0.01)
    updater = Updater(topology, optimizer, RigL(), total, 0.5, **{"every": 3, **options})
    return model, optimizer, updater.attach() if attach else updater


def parts(model, optimizer, updater):
    state = {
        "model": model.state_dict(),
        "state": optimizer.state_dict()["state"],
        "topology": updater.topology.state_dict(),
    }
    return [value.clone() for value in tensors(state)]


def trained(small_net, batch, kind, steps):
    run = made(small_net, kind)
    train(*run[:2], batch, steps)
    return parts(*run)


@KINDS
@pytest.mark.parametrize("skip_step", [True, False])
def test_it_trains_as_the_visible_loop_does(small_net, batch, kind, skip_step):
    model, optimizer, updater = made(small_net, kind, attach=False, skip_step=skip_step)
    before = dict(updater.topology.masks)
    for step in range(10):
        gradients(model, batch(step))
        if updater.due(step):
            updater.update(step)
        if not (updater.due(step) and skip_step):
            optimizer.step()
    assert not same(updater.topology.masks.values(), before.values())
    attached = made(small_net, kind, skip_step=skip_step)
    train(*attached[:2], batch, range(10))
    assert same(parts(*attached), parts(model, optimizer, updater))


@KINDS
def test_a_compiled_step_leaves_the_update_as_it_is(small_net, batch, kind):
    """Traced, one update is dozens of graphs, and a minute."""
    model, optimizer, updater = made(small_net, kind)
    torch._dynamo.reset()
    counter, graphs = CompileCounter(), []
    step = torch.compile(optimizer.step, backend=counter)
    for at in range(8):
        gradients(model, batch(at))
        step()
        graphs.append(counter.frame_count)
    assert graphs[0] > 0
    assert graphs[3] - graphs[2] <= 1, "of a step without gradients, after the update"
    for one, other in zip(parts(model, optimizer, updater), trained(small_net, batch, kind, range(8)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)  # torch compiles another AdamW


@pytest.mark.parametrize(("kind", "by_name"), [(SparseSGD, False), (torch.optim.AdamW, True)])
def test_a_closure_is_called_once_and_before_the_update(small_net, batch, kind, by_name):
    model, optimizer, updater = made(small_net, kind)
    losses = []
    for at in range(7):

        def closure(at=at):
            losses.append(gradients(model, batch(at)))
            return losses[-1]

        assert (optimizer.step(closure=closure) if by_name else optimizer.step(closure)) is losses[-1]
    assert len(losses) == 7
    assert same(parts(model, optimizer, updater), trained(small_net, batch, kind, range(7)))


def test_a_first_step_at_rate_0_is_counted_with_a_closure_too(small_net, batch):
    """A warm-up begins at a learning rate of 0, and a closure has not made its gradients yet."""
    model, optimizer, _ = made(small_net, torch.optim.AdamW)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(lambda: gradients(model, batch(0)))
    assert optimizer.state_dict()["updater"]["steps"] == 1


@KINDS
def test_a_restart_goes_on_counting(small_net, batch, kind):
    model, optimizer, _ = made(small_net, kind)
    train(model, optimizer, batch, range(5))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file := io.BytesIO())
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    model, optimizer, updater = made(small_net, kind)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    train(model, optimizer, batch, range(5, 10))
    assert same(parts(model, optimizer, updater), trained(small_net, batch, kind, range(10)))


def test_what_cannot_be_attached_or_counted_is_refused(small_net):
    _, optimizer, updater = made(small_net, attach=False)
    state = copy.deepcopy(optimizer.state_dict())
    updater.attach()
    with pytest.raises(ValueError, match="saved without an attached Updater"):
        optimizer.load_state_dict(state)
    for again in (updater, Updater(updater.topology, optimizer, RigL(), 40)):
        with pytest.raises(ConfigError, match="updater=attach: this optimizer has an attached Updater already"):
            again.attach()


def test_a_run_too_short_for_an_update_is_warned_of(small_net, recwarn):
    _, _, late = made(small_net, start_fraction=0.5)
    assert not late.due(late.every)
    assert not recwarn, "its first update is late, and comes"
    with pytest.warns(UserWarning, match="every=100: no mask update of this run replaces a weight"):
        made(small_net, total=130, every=100)


@KINDS
def test_a_step_for_show_is_not_counted(small_net, batch, kind):
    """torch.distributed.checkpoint takes one, of zero gradients at a learning rate of 0, before it saves."""
    model, optimizer, updater = made(small_net, kind)
    train(model, optimizer, batch, range(3))
    optimizer.zero_grad()
    optimizer.state.clear()
    version = updater.topology.version
    get_optimizer_state_dict(model, optimizer)
    assert (optimizer.state_dict()["updater"]["steps"], updater.topology.version) == (3, version)
    take_step(model, optimizer, batch(3))
    assert updater.topology.version > version


def scaled_step(model, optimizer, scaler, batch, spoil=lambda: None):
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(batch[0]), batch[1])).backward()
    spoil()
    scaler.step(optimizer)
    scaler.update()


def test_gradients_that_are_still_scaled_are_refused(small_net, batch):
    """A fused AdamW unscales them itself, after the update would have seen them."""
    model, optimizer, updater = made(small_net, lambda params, lr: torch.optim.AdamW(params, lr, fused=True))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for at in range(3):
        scaled_step(model, optimizer, scaler, batch(at))
    version = updater.topology.version
    with pytest.raises(ValueError, match=r"still scaled: call scaler\.unscale_"):
        scaled_step(model, optimizer, scaler, batch(3))
    assert updater.topology.version == version
    del optimizer.grad_scale, optimizer.found_inf  # torch leaves them where a step raises
    scaler.update(8.0)
    scaled_step(model, optimizer, scaler, batch(3), lambda: scaler.unscale_(optimizer))
    assert updater.topology.version > version, "the step that was refused is not counted"


def test_a_scaler_that_skips_its_step_skips_the_update(small_net, batch):
    """It does not call `step`, so the step is not counted either."""
    model, optimizer, updater = made(small_net)
    scaler, versions = torch.amp.GradScaler("cpu", init_scale=8.0), []
    for at in range(5):
        spoil = model.fc.weight.register_hook(lambda grad: grad * torch.inf) if at == 2 else None
        scaled_step(model, optimizer, scaler, batch(at), lambda spoil=spoil: spoil and spoil.remove())
        versions.append(updater.topology.version)
    assert versions[:4] == [versions[0]] * 4, "steps 0, 1, (2 skipped), 2"
    assert versions[4] > versions[3], "step 3"
