import copy
import io
import pickle
import warnings
from contextlib import nullcontext
from math import atan, cos, exp, pi, sqrt

import pytest
import torch
import torch.nn.functional as F
from timm.optim import Lookahead
from torch import nn

from sparse_train.errors import ConfigError
from sparse_train.optim import HAM, Renorm, SparseOpt, SparseSGD
from sparse_train.optim.clip import clip_grad_norm_
from sparse_train.optim.equal_angle import EqualAngle
from sparse_train.optim.ham import mirror_factor
from sparse_train.optim.lr import WarmupCosine
from sparse_train.optim.sparseopt import neuron_scale
from sparse_train.sparsity.lengths import lengths
from sparse_train.sparsity.methods.ranked import Ranked
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from support.eight import prepared
from support.steps import gradients, same, same_parameters, take_step, train

ALL_SLOTS = {"precondition": SparseOpt(), "renorm": Renorm(), "mirror": HAM(8.0)}


# --- Eq. 12 ---


@pytest.mark.parametrize(
    ("mask", "average", "expected"),
    [
        # fan-ins 1 and 3 of 4: s = (3/4, 1/4), s_avg = 1/2, so sqrt(1/4 / 1/2) and sqrt(3/4 / 1/2)
        ([[1, 0, 0, 0], [1, 1, 1, 0]], None, [sqrt(1 / 2), sqrt(3 / 2)]),
        ([[1, 0, 0, 0], [1, 1, 1, 0]], 1.0, [sqrt(1 / 4), sqrt(3 / 4)]),
        ([[0, 0], [1, 1]], None, [0.0, sqrt(2)]),
        # channels times kernel: 4 and 12 of 12
        (
            [[[[1, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]], [[[1, 1], [1, 1]]] * 3],
            None,
            [sqrt(1 / 2), sqrt(3 / 2)],
        ),
    ],
)
def test_neuron_scale_by_hand(mask, average, expected):
    scale = neuron_scale(torch.tensor(mask, dtype=torch.bool), average)
    assert scale.shape == (2, *[1] * (torch.tensor(mask).ndim - 1))
    assert scale.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("fan_in", [1, 3, 7])
def test_equal_fan_ins_give_exactly_one(fan_in):
    mask = torch.arange(10) < fan_in
    assert (neuron_scale(mask.expand(13, 10)) == 1.0).all()


def test_the_control_per_layer_gives_every_neuron_the_mean_of_the_factors():
    """Under a method that takes neurons away, of those that have weights."""
    topology = Topology(nn.Linear(4, 2, bias=False), 0.25)
    topology.replace("weight", torch.tensor([[True, True, True, True], [True, False, False, False]]))
    [scale] = SparseOpt(average="none", per="layer").scales(topology).values()
    assert scale.tolist() == [[0.75], [0.75]], "the mean of sqrt(4/4) and sqrt(1/4)"
    topology.ablates = True  # as SRigL says
    topology.replace("weight", torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool))
    [scale] = SparseOpt(per="layer").scales(topology).values()
    assert scale.tolist() == [[1], [1]], "a constant fan-in needs no correction"


def test_averages_over_all_layers(small_net):
    topology = Topology(small_net(), 0.7)
    density = {name: mask.flatten(1).double().mean(1) for name, mask in topology.masks.items()}
    average = torch.cat(list(density.values())).mean()
    for name, scale in SparseOpt(average="global").scales(topology).items():
        torch.testing.assert_close(scale.flatten(), (density[name] / average).sqrt())
    for name, scale in SparseOpt(average="none").scales(topology).items():
        torch.testing.assert_close(scale.flatten(), density[name].sqrt())


def test_which_layers_are_corrected(small_net):
    model = small_net()
    topology = Topology(model, 0.7)
    topology.example = torch.zeros(1, 3, 6, 6)
    assert list(SparseOpt().scales(topology)) == ["conv1.weight", "conv2.weight", "fc.weight"]
    assert list(SparseOpt(layers="normalized").scales(topology)) == ["conv1.weight", "conv2.weight"]
    assert list(SparseOpt(layers=["fc.weight"]).scales(topology)) == ["fc.weight"]
    with pytest.raises(ConfigError, match="no such sparse weights; there are conv1.weight"):
        SparseSGD(model.parameters(), topology, lr=0.1, precondition=SparseOpt(layers=["fc"]))


@pytest.mark.parametrize("precondition", [SparseOpt(layers="normalized"), EqualAngle()])
def test_which_layers_are_normalized_needs_an_example_and_a_normalization(precondition, small_net):
    model = small_net()
    with pytest.raises(ConfigError, match="example=None: must be an input of the model, to measure"):
        SparseSGD(model.parameters(), Topology(model, 0.7), lr=0.1, precondition=precondition)
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    topology = Topology(plain, 0.7)
    topology.example = torch.zeros(1, 8)
    with pytest.raises(ConfigError, match="the model has no layer that is normalized"):
        SparseSGD(plain.parameters(), topology, lr=0.1, precondition=precondition)


# --- HAM ---


def test_mirror_factor_by_hand():
    weight, grad = torch.tensor([[2.0, -1.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 7.0, -100.0]])
    factor = mirror_factor(weight, grad, lr=0.1, alpha=2.0, beta=0.3)
    # 0.1 * (-2 * 1 * 0.5 - 0.3), 0.1 * (-2 * -1 * 0.5 - 0.3), 0.1 * -0.3, and 0.1 * 200 clamped to 5
    assert factor.flatten().tolist() == pytest.approx([exp(-0.13), exp(0.07), exp(-0.03), exp(5)])


# --- renormalization ---


def test_renorm_bounds_the_norm_over_all_tensors_and_counts_how_often():
    grads = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0, 4.0]])]  # norm 5
    assert Renorm().factor(grads).item() == pytest.approx(0.2)
    renorm = Renorm(max_norm=2.5)
    assert renorm.factor(grads).item() == pytest.approx(0.5)
    assert renorm.factor([grads[0] / 2]).item() == 1.0, "below the bound nothing changes, to the bit"
    assert renorm.pop_clipped_share() == 0.5
    assert renorm.pop_clipped_share() is None


# --- clipping in loops that clip ---


@pytest.mark.parametrize(("sparsity", "max_norm"), [(0.0, 0.01), (0.9, 0.01), (0.9, 100.0)])
def test_clipping_goes_by_the_norm_of_weights_that_exist(small_net, batch, sparsity, max_norm):
    model = small_net()
    topology = Topology(model, sparsity)
    gradients(model, batch(0))
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    existing = [g[topology.masks[name]] if name in topology.masks else g for name, g in before.items()]
    norm = clip_grad_norm_(model.parameters(), topology, max_norm).item()
    assert norm == pytest.approx(torch.cat([g.flatten() for g in existing]).norm().item(), rel=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, before[name] * min(max_norm / norm, 1), rtol=1e-3, atol=0)
    one = model.fc.weight
    expected = one.grad[topology.masks["fc.weight"]].norm().item()
    assert clip_grad_norm_(one, topology, 1e-3).item() == pytest.approx(expected), "one tensor, as torch's takes it"


@pytest.mark.parametrize("hook", [False, True])
def test_clipping_takes_the_steps_of_a_masked_renormalization(small_net, batch, hook):
    """On loops of others: before `step`, as a trainer does, or in a hook of the optimizer."""
    model, reference = small_net(), small_net()
    topology, renorm = Topology(model, 0.8), Renorm(0.05, over="masked")
    slot = SparseSGD(reference.parameters(), Topology(reference, 0.8), lr=0.1, momentum=0.9, renorm=renorm)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9)

    def clip(*_):
        clip_grad_norm_(model.parameters(), topology, 0.05)

    if hook:
        optimizer.register_step_pre_hook(clip)
    for step in range(5):
        take_step(reference, slot, batch(step))
        gradients(model, batch(step))
        if not hook:
            clip()
        optimizer.step()
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


# --- the optimizer ---


@pytest.mark.parametrize("over", ["dense", "masked"])
@pytest.mark.parametrize("scale_decay", [False, True])
def test_a_step_in_full_by_hand(over, scale_decay):
    """Precondition, renormalize, mask, SGD with momentum and decay, mirror, mask."""
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    w = torch.tensor([[0.5, 0, 0, 0], [-1.0, 0.25, 2.0, 0]])
    g = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.5, 1.5, -2.5, 3.5]])
    slots = {"precondition": SparseOpt(scale_decay=scale_decay), "renorm": Renorm(over=over), "mirror": HAM(4.0, 0.1)}
    topology, optimizer = prepared([w], [mask], [g.clone()], weight_decay=0.01, **slots)
    [weight], lr = topology.weights.values(), 0.1
    optimizer.step()

    scale = torch.tensor([[sqrt(1 / 2)], [sqrt(3 / 2)]])
    corrected = g * scale
    seen = corrected * mask / (corrected if over == "dense" else corrected * mask).norm()
    momentum = 0.9 * mask + seen + 0.01 * w * (scale if scale_decay else 1)
    base = w - lr * momentum
    expected = base * torch.exp(lr * (-4.0 * base.sign() * seen - 0.1))
    torch.testing.assert_close(weight.detach(), expected)
    torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], momentum)
    assert torch.equal(weight.grad, g), "p.grad is only read"


def test_equivalence_with_another_initial_scale(small_net, batch):
    """With a static mask and every sparse layer before BN, SparseOpt from w is SGD from w_i / sqrt(c_i).

    c_i = sqrt((1 - s_i) / (1 - s_avg)); decay is added after the correction. The loss sees only the direction of a
    weight that feeds BN, so its gradient scales with the inverse of its length.
    """
    assert _twins(small_net, batch, {}, {}, every=100) == (pytest.approx(0, abs=1e-10), 0)


def _twins(small_net, batch, sparseopt, sgd, every=5):
    """SparseOpt from w and SGD from w / sqrt(c) through 5 mask updates in 40 steps; float64.

    The classifier is dense because nothing normalizes it: there a length is part of the function, and the correction
    is another learning rate. BN's eps is 1e-300, since torch refuses 0: added to a variance, the same number.

    Returns:
        The largest difference of the functions on one batch over all steps, and the number of updates at which both
        chose the same masks.
    """
    updaters = []
    for slots, ranking in (({"precondition": SparseOpt()}, sparseopt), ({}, sgd)):
        model = small_net(torch.float64, eps=1e-300)
        topology = Topology(model, 0.6, exclude=["fc.weight"])
        for name, weight in topology.weights.items():
            weight.data.div_(1 if slots else lengths(topology.masks[name], "sparseopt"))
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=5e-4, **slots)
        updaters.append((model, Updater(topology, optimizer, Ranked(RigL(), **ranking), 40, 0.3, every)))
    gap, agreed = 0.0, 0
    for step in range(40):
        outputs = []
        for model, updater in updaters:
            model.zero_grad()
            outputs.append(model(batch(step)[0].double()))
            F.cross_entropy(outputs[-1], batch(step)[1]).backward()
            updater.update(step) if updater.due(step) else updater.optimizer.step()
        gap = max(gap, (outputs[0] - outputs[1]).abs().max().item())
        ours, theirs = (updater.topology.masks.values() for _, updater in updaters)
        agreed += updater.due(step) and same(ours, theirs)
    assert all((c := neuron_scale(mask)).min() > 0 and c.std() > 0.05 for mask in ours)
    return gap, agreed


INVARIANT = {"rank_as": "invariant"}
RESCALED = {"rank_as": "invariant", "rescale": True}


@pytest.mark.parametrize(("sparseopt", "sgd"), [(INVARIANT, RESCALED), (RESCALED, INVARIANT)])
def test_equivalence_through_mask_updates_in_invariant_coordinates(small_net, batch, sparseopt, sgd):
    """Either one follows the other's lengths where c changes, sqrt(c_old / c_new) or its inverse, momentum included."""
    gap, agreed = _twins(small_net, batch, sparseopt, sgd)
    assert gap < 1e-10
    assert agreed == 5


def test_equivalence_needs_both_the_ranking_and_the_rescaling(small_net, batch):
    gap, agreed = _twins(small_net, batch, {}, {})
    assert gap > 1e-3
    assert agreed < 5, "ranked by lengths that the function does not see"
    assert _twins(small_net, batch, INVARIANT, INVARIANT)[0] > 1e-3, "c jumps"
    assert _twins(small_net, batch, RESCALED, RESCALED)[0] > 1e-3, "each follows the other"


# --- a ceiling ---


@pytest.mark.parametrize("slots", [{}, {"renorm": Renorm(max_norm=1e9)}], ids=["masked", "dense"])
def test_equal_angles_by_hand(slots):
    """A layer before BN: lengths 5, 13, 0, 2, and masked gradients of length 10, 0.5, 2, 0; lr * radians is 0.1.

    Every step has a tenth of its weight's length, whatever its gradient's: 5 / 10 and 13 / 0.5 times. The third neuron
    keeps its gradient, since it has no length, and the fourth stays.
    """
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    topology = Topology(model, 0.3)
    topology.example = torch.zeros(1, 3)
    topology.replace("0.weight", torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool))
    w, g = model[0].weight, torch.tensor([[-8.0, 6, 7], [0.3, -0.4, 70], [2, 9, 9], [5, 5, 0]])
    with torch.no_grad():
        w.copy_(torch.tensor([[3.0, 4, 0], [-5, 12, 0], [0, 0, 0], [0, 0, 2]]))
    w.grad, classifier = g, model[2].weight.detach().clone()
    model[2].weight.grad = torch.ones(2, 4)
    SparseSGD(model.parameters(), topology, lr=0.2, precondition=EqualAngle(0.5), **slots).step()
    expected = torch.tensor([[3.4, 3.7, 0], [-5 - 0.78, 12 + 1.04, 0], [-0.4, 0, 0], [0, 0, 2]])
    torch.testing.assert_close(w.detach(), expected)
    kept = (classifier - 0.2) * topology.masks["2.weight"]
    torch.testing.assert_close(model[2].weight.detach(), kept, msg="nothing normalizes the classifier")


def test_every_neuron_turns_by_the_same_angle(small_net, batch):
    """A gradient before BN is orthogonal to its weight; decay changes lengths alone. SGD's angles differ."""
    for slots, spread in (({"precondition": EqualAngle(0.3)}, (0.9999, 1.0001)), ({}, (0.0, 0.9))):
        model = small_net(torch.float64, eps=1e-300)
        topology = Topology(model, 0.6)
        topology.example = batch(0)[0]
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, weight_decay=0.01, **slots)
        for step in range(3):
            before = model.conv2.weight.detach().flatten(1).clone()
            take_step(model, optimizer, batch(step, dtype=torch.float64))
            turned = torch.arccos(F.cosine_similarity(before, model.conv2.weight.detach().flatten(1)))
            if slots:  # the decayed weight is shorter by 1 - lr * decay, so its step turns it that much more
                assert turned.tolist() == pytest.approx([atan(0.1 * 0.3 / (1 - 0.001))] * 8, rel=1e-9)
            assert spread[0] <= turned.min() / turned.max() <= spread[1]


# --- a real optimizer ---


def in_one_storage(state):
    """Momentum as checkpoints of older versions have it."""
    held = list(state["state"].values())
    joined = torch.cat([of["momentum_buffer"].flatten() for of in held])
    for of, part in zip(held, joined.split([of["momentum_buffer"].numel() for of in held]), strict=True):
        of["momentum_buffer"] = part.view_as(of["momentum_buffer"])


@pytest.mark.parametrize("changed", [lambda state: None, in_one_storage], ids=["as saved", "in one storage"])
def test_it_resumes_from_its_state(small_net, batch, changed):
    """Into another topology and other options: the saved ones come back with the optimizer's state."""
    model, again = small_net(), small_net()
    optimizer = SparseSGD(model.parameters(), Topology(model, 0.6, seed=1), lr=0.1, momentum=0.9, **ALL_SLOTS)
    resumed = SparseSGD(again.parameters(), Topology(again, 0.6, seed=2), lr=0.7, momentum=0.1, **ALL_SLOTS)
    train(model, optimizer, batch, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    changed(state)
    torch.save([model.state_dict(), state], buffer := io.BytesIO())
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(model, optimizer, batch, range(3, 6))
    train(again, resumed, batch, range(3, 6))
    assert same_parameters(model, again)
    momentum = [of["momentum_buffer"] for of in resumed.state.values()]
    assert len({each.untyped_storage().data_ptr() for each in momentum}) == len(momentum)


def test_schedulers_closures_and_groups_work(small_net, batch):
    model = small_net()
    topology = Topology(model, 0.6)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights}, {"params": others, "weight_decay": 0.0, "lr": 0.0}]
    optimizer = SparseSGD(groups, topology, lr=0.1, momentum=0.9, weight_decay=0.1)
    assert isinstance(optimizer, torch.optim.SGD)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    before = [p.detach().clone() for p in others]

    first = optimizer.step(lambda: gradients(model, batch(0))).item()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.step(lambda: gradients(model, batch(0))).item() < first
    assert same(before, others)


def test_momentum_may_begin_later_and_a_rate_may_be_a_tensor(small_net, batch):
    models = small_net(), small_net()
    ours = SparseSGD(models[0].parameters(), Topology(models[0], 0.0), lr=torch.tensor([0.1]))
    reference = torch.optim.SGD(models[1].parameters(), lr=0.1, fused=True)
    for model, optimizer in zip(models, (ours, reference), strict=True):
        for step in range(6):
            optimizer.param_groups[0]["momentum"] = 0.9 * (step > 2)
            take_step(model, optimizer, batch(step))
    assert same_parameters(*models)
    before = [p.detach().clone() for p in models[0].parameters()]
    ours.zero_grad()
    ours.step()
    assert same(before, models[0].parameters()), "without gradients nothing moves"


def filled(**slots):
    model = nn.Linear(4, 4)
    return SparseSGD(model.parameters(), Topology(model, 0.5, include=["weight"]), lr=0.1, **slots)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseOpt(average="mean"), "average=mean: must be one of layer, global, none"),
        (lambda: SparseOpt(layers="some"), "layers=some: must be all, normalized"),
        (lambda: Renorm(max_norm=0), "max_norm=0: must be above 0"),
        (lambda: Renorm(over="all"), "over=all: must be one of dense, masked"),
        (lambda: HAM(alpha=-1), "alpha=-1: must be at least 0"),
        (lambda: EqualAngle(0), "radians=0: must be above 0"),
        (lambda: SparseOpt(nn.Linear(2, 2).parameters()), "average=generator: is no optimizer's parameters"),
        (lambda: filled(precondition=SparseOpt), f"precondition={SparseOpt}: must be an object such as SparseOpt()"),
        (lambda: filled(renorm=1.0), "renorm=1.0: must be an object such as Renorm(1.0), or None"),
        (lambda: filled(mirror=HAM), f"mirror={HAM}: must be an object such as HAM(), or None"),
        (lambda: SparseSGD([], nn.Linear(2, 2), 0.1), "topology=Linear: must be a Topology; the order is"),
        (lambda: Updater(filled(), None, RigL(), 10), "topology=SparseSGD: must be a Topology; the order is"),
    ],
)
def test_slots_refuse_what_cannot_work(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


# --- layouts, copies and foreign states ---


def test_gradients_and_a_saved_momentum_may_have_another_layout_than_the_weights(small_net, batch):
    slots = {**ALL_SLOTS, "precondition": SparseOpt(scale_decay=True)}

    def trained(layouts):
        """Weights of the second layout go on from those of the first; the gradients' change from step to step."""
        saved = None
        for layout, steps in zip(layouts, (range(3), range(3, 8)), strict=True):
            model = small_net(torch.float64).to(memory_format=layout)
            optimizer = SparseSGD(model.parameters(), Topology(model, 0.6), lr=0.1, momentum=0.9, **slots)
            if saved:
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
            for step in steps:
                gradients(model, batch(step, dtype=torch.float64))
                for p in (model.conv1.weight, model.conv2.weight):
                    p.grad = p.grad.contiguous(memory_format=layouts[step % 2])
                optimizer.step()
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        momentum = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
        assert [m.stride() for m in momentum] == [p.stride() for p in model.parameters()]
        return [*model.parameters(), *momentum]

    contiguous, last = torch.contiguous_format, torch.channels_last
    torch.testing.assert_close(trained((contiguous, last)), trained((contiguous, contiguous)), rtol=0, atol=1e-6)


def test_a_dense_optimizers_momentum_is_masked_when_it_is_loaded(small_net, batch):
    """What is loaded stays as it is: torch keeps the tensors that it is given."""
    model = small_net()
    dense = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    take_step(model, dense, batch(0))
    before = copy.deepcopy(dense.state_dict())["state"]
    topology = Topology(model, 0.6)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9)
    optimizer.load_state_dict(dense.state_dict())
    for (name, p), was in zip(model.named_parameters(), before.values(), strict=True):
        mask = topology.masks.get(name, torch.ones_like(p, dtype=torch.bool))
        assert torch.equal(dense.state[p]["momentum_buffer"], was["momentum_buffer"])
        assert was["momentum_buffer"][~mask].all(), "there was something to mask"
        assert torch.equal(optimizer.state[p]["momentum_buffer"], was["momentum_buffer"] * mask)


# --- weights of one's own ---


def test_weights_and_momentum_keep_a_storage_of_their_own(small_net, batch):
    """What saves, shares or looks for tied weights goes by storage."""
    model = small_net()
    optimizer = SparseSGD(model.parameters(), Topology(model, 0.6), lr=0.1, momentum=0.9, **ALL_SLOTS)
    model.share_memory()
    places = [p.data_ptr() for p in model.parameters()]
    train(model, optimizer, batch, range(3))
    parameters = list(model.parameters())
    assert [p.data_ptr() for p in parameters] == places
    assert all(p.is_shared() for p in parameters)
    held = [*parameters, *(optimizer.state[p]["momentum_buffer"] for p in parameters)]
    assert len({tensor.untyped_storage().data_ptr() for tensor in held}) == 2 * len(parameters)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in held)


def write(optimizer):
    with torch.no_grad():
        for weight in optimizer.topology.weights.values():
            weight.add_(0.5)


def exchange(optimizer):
    for weight in optimizer.topology.weights.values():
        weight.data = weight.detach() + 0.5


def pulled_along(optimizer):
    for weight in optimizer.topology.weights.values():
        optimizer.state[weight]["momentum_buffer"] = torch.ones_like(weight)


def flipped(optimizer):
    optimizer.topology.replace("conv2.weight", optimizer.topology.masks["conv2.weight"].flip(0))


@pytest.mark.parametrize("change", [write, exchange, pulled_along, flipped])
def test_what_others_write_off_the_mask_is_gone_after_a_step(small_net, batch, change):
    """Also the momentum: it would pull the weights off 0 again."""
    model = small_net()
    topology = Topology(model, 0.6)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=0.1, **ALL_SLOTS)
    with warnings.catch_warnings(action="ignore"):
        for step in range(4):
            take_step(model, optimizer, batch(step))
            for name, weight in topology.weights.items():
                assert not weight[~topology.masks[name]].any()
                assert not optimizer.state[weight]["momentum_buffer"][~topology.masks[name]].any()
            change(optimizer)


def test_a_weight_exchanged_at_its_address_is_seen():
    """Memory that is freed is the next to be given, so a step keeps the storage that it knows."""
    layer = nn.Linear(512, 512, bias=False)
    topology = Topology(layer, 0.9)
    optimizer = SparseSGD(layer.parameters(), topology, lr=0.1)
    layer.weight.grad, off = torch.zeros(512, 512), []
    optimizer.step()
    for _ in range(5):
        layer.weight.data = torch.empty(0)
        layer.weight.data = torch.ones(512, 512)
        optimizer.step()
        off.append(layer.weight.detach().sum() - topology.counts["weight"])
    assert not any(off)


def test_a_model_may_change_its_dtype(small_net, batch):
    model = small_net()
    topology = Topology(model, 0.6)
    slots = {"precondition": SparseOpt(scale_decay=True), "renorm": Renorm(), "mirror": HAM(8.0)}
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=0.1, **slots)
    take_step(model, optimizer, batch(0))
    model.to(torch.bfloat16)
    before = {name: weight.detach().clone() for name, weight in topology.weights.items()}
    take_step(model, optimizer, (batch(1)[0].bfloat16(), batch(1)[1]))
    for name, weight in topology.weights.items():
        assert weight.dtype == optimizer.state[weight]["momentum_buffer"].dtype == torch.bfloat16
        assert torch.equal(weight != 0, topology.masks[name])
        assert not torch.equal(weight, before[name])


def test_a_compiled_step_gives_what_a_step_gives(small_net, batch):
    model, compiled = small_net(), small_net()
    for each in (model, compiled):
        optimizer = SparseSGD(each.parameters(), Topology(each, 0.6), lr=0.1, momentum=0.9, **ALL_SLOTS)
        step = torch.compile(optimizer.step, backend="aot_eager") if each is compiled else optimizer.step
        for number in range(2):
            gradients(each, batch(number))
            step()
    assert same_parameters(model, compiled)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"]
)
def test_copies_go_on_as_the_original_does(small_net, batch, copied):
    """Also under a scheduler, which puts a `step` of its own into the optimizer: it belongs to the original."""
    model = small_net()
    optimizer = SparseSGD(model.parameters(), Topology(model, 0.6), lr=0.1, momentum=0.9, **ALL_SLOTS)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.register_step_post_hook(lambda *_: None)  # no more than torch's SGD does a copy take hooks along
    train(model, optimizer, batch, range(3))
    scheduler.step()
    before = [p.detach().clone() for p in model.parameters()]
    twin, topology, other = copied((model, optimizer.topology, optimizer))
    assert other.topology is topology is not optimizer.topology
    assert other.param_groups[0]["lr"] == 0.05
    for each, its in ((twin, other), (model, optimizer)):
        take_step(each, its, batch(3))
        its.topology.replace("conv2.weight", its.topology.masks["conv2.weight"].flip(0))
        its.mask_momentum()
        take_step(each, its, batch(4))
        assert each is model or same(before, model.parameters())
    assert same_parameters(model, twin)


# --- what cannot be trained ---


def refused(case):
    """An optimizer that cannot be, or whose step cannot."""
    model, options = nn.Linear(3, 4), {}
    if case == "complex":
        model.bias = nn.Parameter(torch.zeros(4, dtype=torch.complex64))
    elif case == "gaps":
        model.weight.data = torch.ones(4, 6)[:, :3]
    elif case == "sparse":
        model = nn.Embedding(5, 3, sparse=True)
    elif case == "maximize":
        options = {"maximize": True}
    elif case == "dampening":
        options = {"dampening": 0.5}
    topology = Topology(model, 0.5, include="weight" if case == "sparse" else ())
    if case == "copied":
        model = copy.deepcopy(model)
    elif case == "replaced":
        model.weight = nn.Parameter(torch.ones(4, 3))
    elif case == "parametrized":
        nn.utils.parametrizations.weight_norm(model)
    optimizer = SparseSGD([{"params": list(model.parameters()), **options}], topology, lr=0.1, mirror=HAM())
    model(torch.tensor([1, 2]) if case == "sparse" else torch.ones(1, 3)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("complex", "complex parameters cannot be trained"),
        ("gaps", "weight lies in memory with gaps"),
        ("sparse", r"the gradient of weight is sparse: .* sparse=False"),
        ("maximize", "^maximize=True: must be false with HAM"),
        ("dampening", "^dampening=0.5: must be 0"),
        ("copied", "was the model copied, sharded or loaded with assign=True after"),
        ("replaced", "does not train weight"),
        ("parametrized", "does not train weight"),
        (None, None),
    ],
)
def test_what_cannot_be_trained_is_named(case, message):
    with pytest.raises((ValueError, ConfigError), match=message) if message else nullcontext():
        refused(case)


def test_gradients_with_gaps_in_memory_are_stepped_by():
    """`torch.autograd.grad` gives such: of a sum the stride is 0."""
    layer = nn.Linear(2, 5)
    before = layer.bias.detach().clone()
    optimizer = SparseSGD(layer.parameters(), Topology(layer, 0.0), lr=1.0)
    for grad in (torch.arange(10.0).view(5, 2)[:, 1], torch.tensor(3.0).expand(5)):
        layer.bias.grad = grad
        optimizer.step()
        before -= grad
    assert torch.equal(layer.bias, before)


@pytest.mark.parametrize("slots", [{}, {"renorm": Renorm(1e9), "mirror": HAM(0.0)}], ids=["none", "renorm and mirror"])
def test_a_weight_may_lie_transposed_in_memory(slots):
    """Weights that come from another framework do. No slot here changes the step."""
    weights = []
    for ours in (True, False):
        torch.manual_seed(0)
        layer = nn.Linear(1024, 768, bias=False)
        layer.weight.data = layer.weight.data.t().contiguous().t()
        params = layer.parameters()
        optimizer = SparseSGD(params, Topology(layer, 0), 1.0, **slots) if ours else torch.optim.SGD(params, 1.0)
        layer(torch.randn(3, 1024)).pow(2).mean().backward()
        optimizer.step()
        weights.append(layer.weight.detach())
    assert torch.equal(*weights)


def test_what_lookahead_writes_is_sparse():
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
    topology = Topology(model, 0.8)
    base = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9)
    Updater(topology, base, RigL(), 100, every=5).attach()
    optimizer, images = Lookahead(base, k=3), torch.randn(8, 16)
    for _ in range(25):
        optimizer.zero_grad()
        model(images).pow(2).mean().backward()
        optimizer.step()
        assert not any(weight[~topology.masks[name]].any() for name, weight in topology.weights.items())


# --- schedules, Appendix E.2 ---


@pytest.mark.parametrize(
    ("batch_size", "epochs", "options", "peak"),
    [
        (256, 100, {"init": 0.0, "end": 1e-6}, 0.1),  # CIFAR
        (256, 2, {"init": 0.0, "end": 1e-6}, 0.1),  # shorter than its warm-up: it ramps up
        (1024, 90, {"init": 1e-5, "end": 1e-5, "reference_batch": 256}, 0.4),  # ImageNet, by the global batch
        (128, 90, {"init": 1e-5, "end": 1e-5, "reference_batch": 256}, 0.05),
    ],
)
def test_the_schedules_of_the_appendix(batch_size, epochs, options, peak):
    schedule = WarmupCosine(0.1, batch_size, 100, epochs, warmup_epochs=5, **options)
    warmup, total, init, end = 500, 100 * epochs, options["init"], options["end"]
    for t in range(0, total, 7):
        ramp = init + (peak - init) * t / warmup
        cosine = end + 0.5 * (peak - end) * (1 + cos((t - warmup) / (total - warmup) * pi))
        assert schedule(t) == pytest.approx(ramp if t < warmup else cosine, rel=1e-12)
    assert WarmupCosine(0.1, 256, 10, 2, warmup_epochs=0, init=0.0, end=0.0)(0) == 0.1
