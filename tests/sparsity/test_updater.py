import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import Lamb, Lookahead
from torch import nn

from sparse_train.errors import ConfigError, DivergedError
from sparse_train.optim import HAM, Renorm, SparseOpt, SparseSGD
from sparse_train.optim.sparseopt import neuron_scale
from sparse_train.sparsity.methods.gmp import GMP
from sparse_train.sparsity.methods.ranked import Ranked
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.methods.set import SET
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater


class Eight(nn.Linear):
    """One weight matrix of 2 neurons with 4 inputs."""

    def __init__(self):
        super().__init__(4, 2, bias=False)
        nn.init.ones_(self.weight)


def eight_weights(**options):
    """The worked example: 4 of 8 weights are active.

    position   0     1     2     3     4     5     6     7
    weight     0.4  -0.1   .     .     0.3   .    -0.2   .
    gradient  -9     1     2    -3     0.5   4     7    -5
    """
    model = Eight()
    topology = Topology(model, 0.5)
    topology.replace("weight", torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.4, -0.1, 0, 0], [0.3, 0, -0.2, 0]]))
    model.weight.grad = torch.tensor([[-9.0, 1, 2, -3], [0.5, 4, 7, -5]])
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, **options)
    optimizer.state[model.weight]["momentum_buffer"] = topology.masks["weight"].float()
    return model, topology, optimizer


def flat(mask):
    return "".join(str(int(bit)) for bit in mask.flatten())


@pytest.mark.parametrize(
    ("drop_fraction", "expected"),
    [
        (0.0, "11001010"),
        (0.24, "11001010"),  # floor(0.24 * 4) = 0
        (0.25, "10001011"),  # drops position 1 (|w| 0.1), grows 7 (|g| 5)
        (0.5, "10001011"),  # drops 1 and 6, grows 6 (|g| 7) back and 7 (5)
        (0.75, "10000111"),  # drops 1, 6, 4; grows 6, 7, 5
        (1.0, "10000111"),  # drops all; grows 0 (9), 6 (7), 7 (5), 5 (4)
    ],
)
def test_rigl_on_eight_weights(drop_fraction, expected):
    model, topology, optimizer = eight_weights()
    before = model.weight.detach().clone()
    Updater(topology, optimizer, RigL(), 100, drop_fraction, every=1, decay="constant").update(1)
    mask = topology.masks["weight"]
    assert flat(mask) == expected
    kept = mask & (before != 0)  # dropped and regrown in one update: never gone
    assert torch.equal(model.weight[kept], before[kept])
    assert (model.weight[~kept] == 0).all()  # grown weights start at 0
    assert torch.equal(optimizer.state[model.weight]["momentum_buffer"], kept.float())


@pytest.mark.parametrize("drop_fraction", [0.25, 0.5, 0.75])
def test_set_drops_the_same_weights_and_grows_anywhere(drop_fraction):
    count = int(4 * drop_fraction)
    dropped = [1, 6, 4][:count]  # by magnitude
    survivors = [p for p in (0, 1, 4, 6) if p not in dropped]
    grown = torch.zeros(8)
    for seed in range(400):
        _, topology, optimizer = eight_weights()
        Updater(topology, optimizer, SET(), 100, drop_fraction, every=1, decay="constant", seed=seed).update(1)
        mask = topology.masks["weight"].flatten()
        assert mask[survivors].all()
        assert int(mask.sum()) == 4
        grown += mask
    candidates = [p for p in range(8) if p not in survivors]
    expected = 400 * count / len(candidates)
    assert (grown[candidates] - expected).abs().max() < 0.35 * expected


def test_growth_by_corrected_gradients():
    # fan-ins 2 and 2 correct nothing; with 1 and 3, neuron 1's gradients count sqrt(3) times those of neuron 0
    def grown(gradient):
        model, topology, optimizer = eight_weights(precondition=SparseOpt())
        topology.replace("weight", torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool))
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.4, 0, 0, 0], [0.3, 0.5, 0.1, 0]]))
        model.weight.grad = torch.tensor([[0, 5.0, 1, 1], [0, 0, 1, 4]])
        Updater(topology, optimizer, Ranked(RigL(), gradient=gradient), 100, 0.25, 1, decay="constant").update(1)
        return flat(topology.masks["weight"])

    assert grown("raw") == "11001100"
    assert grown("corrected") == "10001101"


def test_corrected_gradients_need_a_correction():
    _, topology, optimizer = eight_weights()
    with pytest.raises(ConfigError, match="gradient=corrected: needs an optimizer"):
        Updater(topology, optimizer, Ranked(RigL(), gradient="corrected"), 100)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("drop_fraction", 1.1),
        ("drop_fraction", -0.1),
        ("every", 0),
        ("stop_fraction", 2),
        ("decay", "quadratic"),
        ("start_fraction", 0.9),
    ],
)
def test_arguments_out_of_range(key, value):
    _, topology, optimizer = eight_weights()
    with pytest.raises(ConfigError) as caught:
        Updater(topology, optimizer, RigL(), 100, **{key: value})
    assert str(caught.value).startswith(f"{key}={value}: must be")


@pytest.mark.parametrize(
    ("drop_fraction", "expected"),
    [
        (0.29, 29),  # 0.29 * 100 is 28.999999999999996 in floating point
        (0.57, 57),  # 56.99999999999999
        (0.2999, 29),  # a floor all the same
    ],
)
def test_drop_counts_are_exact_where_floating_point_is_not(drop_fraction, expected):
    model = nn.Linear(20, 10, bias=False)
    topology = Topology(model, 0.5)
    before = topology.masks["weight"]
    assert int(before.sum()) == 100
    model.weight.grad = (~before).float()  # nothing that is dropped is grown back
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
    Updater(topology, optimizer, RigL(), 1000, drop_fraction, every=1, decay="constant").update(1)
    assert int((before & ~topology.masks["weight"]).sum()) == expected


class Twins(nn.Module):
    """Two layers of one shape."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False)


def test_random_growth_is_of_its_own_in_each_layer_and_step_and_repeats_itself():
    def grown(step, ambient):
        """Both masks after one update at this step, from one mask for both layers."""
        model = Twins()
        topology = Topology(model, 0.5)
        for name in topology.masks:
            topology.replace(name, torch.arange(400).view(20, 20) % 2 == 0)
            topology.weights[name].grad = torch.zeros(20, 20)
            with torch.no_grad():
                topology.weights[name].copy_(torch.arange(1.0, 401).view(20, 20) * topology.masks[name])
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
        torch.manual_seed(ambient)
        Updater(topology, optimizer, SET(), 100, 0.3, every=1, decay="constant", seed=5).update(step)
        return topology.masks["first.weight"], topology.masks["second.weight"]

    first, second = grown(step=1, ambient=0)
    assert not torch.equal(first, second)
    assert all(not torch.equal(a, b) for a, b in zip((first, second), grown(step=2, ambient=0), strict=True))
    assert all(torch.equal(a, b) for a, b in zip((first, second), grown(step=1, ambient=99), strict=True))


def test_growth_after_unscaling_sees_the_true_gradients(small_net, batch):
    """With a loss scaler: `unscale_`, then `update`, then the scaler's step give the run without one, to the bit."""

    class Watched(RigL):
        def growth_score(self, layer):
            self.asked.append(layer.gradient.clone())
            return super().growth_score(layer)

    def trained(**scaling):
        model, growth = small_net(), Watched()
        topology = Topology(model, 0.6)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, renorm=Renorm(max_norm=0.1))
        updater = Updater(topology, optimizer, growth, 100, every=2)
        scaler = torch.amp.GradScaler("cpu", **scaling)
        for step in range(6):
            optimizer.zero_grad()
            images, labels = batch(step)
            loss = F.cross_entropy(model(images), labels)
            true = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            scaler.scale(loss).backward()
            if updater.due(step):
                scaler.unscale_(optimizer)
                growth.asked = []
                updater.update(step)
                of_weights = [gradient for gradient in true if gradient.ndim > 1]
                assert all(torch.equal(a, b) for a, b in zip(growth.asked, of_weights, strict=True))
                assert all(torch.equal(p.grad, b) for p, b in zip(model.parameters(), true, strict=True))
            scaler.step(optimizer)
            scaler.update()
        return [*topology.masks.values(), *model.parameters()]

    pairs = zip(trained(enabled=False), trained(init_scale=2.0**12), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_when_updates_are_due_and_how_large():
    _, topology, optimizer = eight_weights()
    updater = Updater(topology, optimizer, RigL(), 1000, drop_fraction=0.3, every=100, stop_fraction=0.75)
    assert [step for step in range(1000) if updater.due(step)] == [100, 200, 300, 400, 500, 600, 700]
    assert updater.fraction(0) == pytest.approx(0.3)
    assert updater.fraction(375) == pytest.approx(0.15)
    assert updater.fraction(750) == pytest.approx(0.0)
    constant = Updater(topology, optimizer, RigL(), 1000, 0.3, 100, stop_fraction=1.0, decay="constant")
    assert [step for step in range(1000) if constant.due(step)] == list(range(100, 1000, 100))
    assert constant.fraction(900) == 0.3


@settings(max_examples=25, deadline=None)
@given(
    growth=st.sampled_from([RigL(), SET()]),
    sparsity=st.floats(0.0, 0.9),
    hidden=st.integers(4, 20),
    drop_fraction=st.floats(0, 1),
    precondition=st.sampled_from([None, SparseOpt(), SparseOpt("none", scale_decay=True)]),
    mirror=st.sampled_from([None, HAM(80.0)]),
    over=st.sampled_from([None, "dense", "masked"]),
    skip=st.booleans(),
)
def test_three_invariants(growth, sparsity, hidden, drop_fraction, precondition, mirror, over, skip):
    """Masked weights are exactly 0, active counts never change, momentum is 0 off the mask: after every step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 4))
    topology = Topology(model, sparsity, "uniform")
    renorm = Renorm(over=over) if over else None
    optimizer = SparseSGD(model.parameters(), topology, 0.1, 0.9, 5e-4, False, precondition, renorm, mirror)
    updater = Updater(topology, optimizer, growth, 12, drop_fraction, every=2)
    active = {name: int(mask.sum()) for name, mask in topology.masks.items()}
    for step in range(12):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 6)), torch.randint(4, (8,))).backward()
        if updater.due(step):
            updater.update(step)
        if not (updater.due(step) and skip):
            optimizer.step()
        for name, mask in topology.masks.items():
            weight = topology.weights[name]
            assert (weight[~mask] == 0).all()
            assert int(mask.sum()) == active[name]
            if "momentum_buffer" in optimizer.state[weight]:
                assert (optimizer.state[weight]["momentum_buffer"][~mask] == 0).all()


@pytest.mark.parametrize("wrap", [lambda method: method, Ranked], ids=["alone", "wrapped"])
@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        ("growth_score", lambda layer: layer.gradient.flatten(), r"growth_score must score each .*, not \(8,\)"),
        ("growth_score", lambda layer: layer.gradient.sum(), r"growth_score must .*, not \(\)"),  # ranks by position
        (
            "drop_score",
            lambda layer: layer.weight.sum(1),
            r"drop_score must score each .*, not \(2,\)",
        ),
        ("drop_score", lambda layer: None, r"drop_score must .* a tensor of \(2, 4\), not NoneType"),
        ("growth_score", lambda layer: None, "must have a growth_score where it grows weights, 3 of weight"),
        ("select", lambda layer, drop, grow: None, r"must select a boolean mask of \(2, 4\) for weight"),
        ("select", lambda layer, drop, grow: layer.weight, r"must select a boolean mask of \(2, 4\) for weight"),
        ("select", lambda layer, drop, grow: layer.mask[0], r"must select a boolean mask of \(2, 4\) for weight"),
        (
            "select",
            lambda layer, drop, grow: ~layer.mask | True,
            "must select 4 weights of weight, not 8, since",
        ),
    ],
)
def test_what_a_method_gives_in_another_form_names_it_and_changes_nothing(wrap, function, given, message):
    Mine = type("Mine", (RigL,), {function: lambda self, *seen: given(*seen)})  # noqa: N806
    _, topology, optimizer = eight_weights()
    before = topology.masks["weight"].clone()
    updater = Updater(topology, optimizer, wrap(Mine()), total_steps=4, drop_fraction=1, every=1)
    message = f"^method=Mine: {message}"
    with pytest.raises(ConfigError, match=message):
        updater.update(1)
    assert torch.equal(topology.masks["weight"], before)


# --- what is not a number ---

BAD = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])


@BAD
def test_gradients_without_numbers_leave_the_masks(bad):
    model, topology, optimizer = eight_weights()
    model.weight.grad.fill_(bad)
    model.weight.grad[0, 1] = 1.0
    before = [topology.masks["weight"], model.weight.clone(), optimizer.state[model.weight]["momentum_buffer"].clone()]
    updater = Updater(topology, optimizer, RigL(), 100, 0.5, every=1, decay="constant")
    with pytest.warns(UserWarning, match="weight: its gradient or a score is not finite: masks stay"):
        assert updater.update(1) is False
    after = [topology.masks["weight"], model.weight, optimizer.state[model.weight]["momentum_buffer"]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    model.weight.grad.fill_(1.0)
    assert updater.update(2) is True


@BAD
@pytest.mark.parametrize("growth", [RigL(), SET()], ids=["rigl", "set"])
def test_weights_without_numbers_end_it(bad, growth):
    model, topology, optimizer = eight_weights()
    with torch.no_grad():
        model.weight[:, 0] = bad
    before = topology.masks["weight"].clone()
    with pytest.raises(DivergedError, match="weight is not finite at the mask update of step 7"):
        Updater(topology, optimizer, growth, 100, 0.5, every=1).update(7)
    assert torch.equal(before, topology.masks["weight"])


def test_an_overflow_under_a_scaler_leaves_out_update_and_step(small_net, batch):
    model = small_net()
    topology = Topology(model, 0.7)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
    updater, scaler = Updater(topology, optimizer, RigL(), 40, 0.5, every=1), torch.amp.GradScaler("cpu", 2.0**126)
    for step in (1, 2):
        before = [*map(torch.clone, topology.masks.values()), *map(torch.clone, model.parameters())]
        optimizer.zero_grad()
        images, labels = batch(step)
        scaler.scale(1e4 * F.cross_entropy(model(images), labels)).backward()
        scaler.unscale_(optimizer)
        if step == 1:
            with pytest.warns(UserWarning, match="masks stay as they are, as under a GradScaler that skips the step"):
                assert not updater.update(step)
        else:
            assert updater.update(step)
        scaler.step(optimizer)
        scaler.update(2.0)
        after = [*topology.masks.values(), *model.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) == (step == 1)


# --- what others do to weights ---


def test_what_a_wrapper_writes_off_the_mask_is_gone_at_the_next_step_or_update():
    """As Lookahead, whose slow weights still have what was dropped."""
    for first in ("step", "update"):
        model, topology, optimizer = eight_weights()
        updater = Updater(topology, optimizer, RigL(), 100, 0.25, every=1, decay="constant")
        optimizer.step()
        with torch.no_grad():
            model.weight.add_(0.5)
        optimizer.step() if first == "step" else updater.update(1)
        assert (model.weight[~topology.masks["weight"]] == 0).all()
        if first == "update":
            assert model.weight[1, 3] == 0, "grown"
            assert topology.masks["weight"][1, 3]


def test_timms_lookahead_trains_what_exists(small_net, batch):
    model = small_net()
    topology = Topology(model, 0.7)
    inner = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9)
    lookahead, updater = Lookahead(inner, k=2), Updater(topology, inner, RigL(), 40, 0.5, every=3)
    for step in range(13):
        lookahead.zero_grad()
        F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
        updater.update(step) if updater.due(step) else lookahead.step()
    for name, mask in topology.masks.items():
        assert (topology.weights[name][~mask] == 0).all()
    message = (
        "optimizer=Lookahead: runs no step hooks, because it wraps another optimizer; give the updater the wrapped one"
    )
    with pytest.raises(ConfigError, match=message):
        Updater(topology, lookahead, RigL(), 40)


def test_a_frozen_layer_keeps_its_mask():
    model = Twins()
    topology = Topology(model, 0.5)
    model.first.weight.requires_grad_(False)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
    model.second.weight.grad = torch.rand(20, 20)
    before = dict(topology.masks)
    assert Updater(topology, optimizer, RigL(), 100, 0.5, every=1).update(1)
    assert [torch.equal(before[name], topology.masks[name]) for name in before] == [True, False]


def test_a_layer_that_is_no_longer_the_models_is_named():
    def replaced(model):
        model.second = nn.Linear(20, 20, bias=False)

    def assigned(model):
        model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)

    for change, name in ((replaced, "second.weight"), (assigned, "first.weight")):
        model = Twins()
        topology = Topology(model, 0.5)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
        updater = Updater(topology, optimizer, RigL(), 100, 0.5, every=1)
        change(model)
        before = dict(topology.masks)
        model.second(model.first(torch.ones(1, 20))).sum().backward()
        with pytest.raises(
            RuntimeError, match=f"{name} has no gradient to update its mask by at step 1.* replaced after"
        ):
            updater.update(1)
        assert before == topology.masks, "nothing is half done"
        with pytest.raises((ConfigError, ValueError), match="was the model copied"):
            Updater(topology, SparseSGD(model.parameters(), topology, lr=0.1), RigL(), 100)


def test_weights_of_two_optimizers_need_two_topologies():
    model = Twins()
    topology = Topology(model, 0.5)
    with pytest.raises(
        ConfigError,
        match="optimizer=SparseSGD: does not train second.weight: .* With two optimizers, give each a topology",
    ):
        SparseSGD(model.first.parameters(), topology, lr=0.1)
    first = torch.optim.AdamW(model.first.parameters())
    with pytest.raises(
        ConfigError, match="optimizer=AdamW: does not train second.weight: .* With two optimizers, give each a topology"
    ):
        Updater(topology, first, RigL(), 100)


# --- an optimizer that knows of no topology ---

OTHERS = [
    (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True, "foreach": True}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    (torch.optim.RMSprop, {"lr": 1e-2, "momentum": 0.9, "centered": True}),
    (torch.optim.Adagrad, {"lr": 1e-2}),
]


def test_invariant_coordinates_on_eight_weights():
    """Lengths (5, 13): |w| / |w_i| is (0.6, 0.8 | 5/13, 12/13), |g| |w_i| is (45, 5, 10, 15 | 13, 52, 26, 65).

    As they are, position 0 (|w| 3) would be dropped, and grown back (|g| 9). Here 4 is dropped (5/13) and 7 grown (65).
    """
    model, topology, optimizer = eight_weights()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -4, 0, 0], [5, 0, -12, 0]]))
    model.weight.grad = torch.tensor([[-9.0, 1, 2, -3], [1, 4, 2, -5]])
    Updater(topology, optimizer, Ranked(RigL(), "invariant"), 100, 0.25, every=1, decay="constant").update(1)
    assert flat(topology.masks["weight"]) == "11000011"
    assert model.weight.flatten().tolist() == [3, -4, 0, 0, 0, 0, -12, 0], "the weights themselves stay"


@pytest.mark.parametrize("growth", [RigL(), SET()], ids=["rigl", "set"])
def test_invariant_coordinates_do_not_see_how_long_a_neuron_is(growth):
    """w_i -> a w_i, g_i -> g_i / a, by powers of 2, so to the bit; ranked as they are, other weights are chosen."""

    def chosen(rank_as, by):
        model, topology, optimizer = eight_weights()
        with torch.no_grad():
            model.weight.mul_(torch.tensor(by)[:, None])
        model.weight.grad.div_(torch.tensor(by)[:, None])
        Updater(topology, optimizer, Ranked(growth, rank_as), 100, 0.5, every=1, decay="constant").update(1)
        return flat(topology.masks["weight"])

    scales = [(1.0, 1.0), (0.125, 8.0), (64.0, 0.5)]
    assert len({chosen("invariant", by) for by in scales}) == 1
    assert len({chosen("weights", by) for by in scales}) > 1


@pytest.mark.parametrize(("second", "expected"), [([0, 0, 0, 0], "01010000"), ([1, 1, 0, 0], "11110000")])
def test_a_neuron_of_length_zero_is_dropped_first_and_grown_last(second, expected):
    """Whatever its gradient, here a thousand times the other's; without weights, or with two that are 0."""
    model, topology, optimizer = eight_weights()
    topology.replace("weight", torch.tensor([[1, 1, 0, 0], second], dtype=torch.bool))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e-6, -4, 0, 0], [0, 0, 0, 0]]))
    model.weight.grad = torch.tensor([[0.1, 0.1, 0.2, 0.3], [1000.0, 1000, 1000, 1000]])
    Updater(topology, optimizer, Ranked(RigL(), "invariant"), 100, 0.5, every=1, decay="constant").update(1)
    assert flat(topology.masks["weight"]) == expected


@pytest.mark.parametrize(("kind", "options"), OTHERS, ids=lambda value: getattr(value, "__name__", ""))
def test_any_optimizer_keeps_what_does_not_exist_at_zero(kind, options, small_net, batch):
    model = small_net()
    topology = Topology(model, 0.7)
    optimizer = kind(model.parameters(), **options)
    updater = Updater(topology, optimizer, RigL(), 40, 0.5, every=3)
    active = {name: int(mask.sum()) for name, mask in topology.masks.items()}
    begun = {name: mask.clone() for name, mask in topology.masks.items()}
    losses = []
    for step in range(24):
        optimizer.zero_grad()
        images, labels = batch(step % 2)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.item())
        if updater.due(step):
            before = {name: mask.clone() for name, mask in topology.masks.items()}
            updater.update(step)
            for name, mask in topology.masks.items():
                grown = mask & ~before[name]
                assert (topology.weights[name][grown] == 0).all()
                for value in _per_weight(optimizer, topology.weights[name]):
                    assert (value[grown] == 0).all(), "it starts without a past"
        optimizer.step()
        for name, mask in topology.masks.items():
            assert (topology.weights[name][~mask] == 0).all()
            assert int(mask.sum()) == active[name]
            for value in _per_weight(optimizer, topology.weights[name]):
                assert (value[~mask] == 0).all()
    assert any(not torch.equal(mask, begun[name]) for name, mask in topology.masks.items())
    assert sum(losses[-4:]) < sum(losses[:4]), "and it learns"


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("kind", [Lamb, torch.optim.Adafactor], ids=lambda kind: kind.__name__)
def test_an_optimizer_that_takes_norms_sees_existing_weights_alone(kind, attached):
    """Its steps are those on gradients that somebody masked before, and an update still looks at dense ones."""

    def trained(masked):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        topology = Topology(model, 0.8)
        optimizer = kind(model.parameters(), lr=0.01)
        updater = Updater(topology, optimizer, RigL(), 60, 0.5, every=4)
        if attached:
            updater.attach()
        for step in range(20):
            optimizer.zero_grad()
            model(torch.randn(8, 16, generator=torch.Generator().manual_seed(step))).pow(2).mean().backward()
            if updater.due(step):
                if not attached:
                    updater.update(step)
                    continue
            elif masked:
                for name, weight in topology.weights.items():
                    weight.grad.mul_(topology.masks[name])
            optimizer.step()
        return [*model.parameters(), *topology.masks.values()], topology.version

    (one, version), (other, _) = trained(masked=True), trained(masked=False)
    assert version == 8
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _per_weight(optimizer, weight):
    return [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor) and v.shape == weight.shape]


def test_torchs_sgd_is_then_ours_to_the_bit(small_net, batch):
    def trained(ours):
        model = small_net()
        topology = Topology(model, 0.7)
        if ours:
            optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=5e-4)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
        updater = Updater(topology, optimizer, RigL(), 40, 0.5, every=3)
        for step in range(12):
            optimizer.zero_grad()
            images, labels = batch(step)
            F.cross_entropy(model(images), labels).backward()
            if updater.due(step):
                updater.update(step)
            optimizer.step()
        return [*model.parameters(), *topology.masks.values()]

    assert all(torch.equal(a, b) for a, b in zip(trained(True), trained(False), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: torch.optim.LBFGS(model.parameters()), "optimizer=LBFGS: needs a closure.*use SparseSGD"),
        (
            lambda model: torch.optim.AdamW(Eight().parameters()),
            "optimizer=AdamW: does not train weight: was the",
        ),
        (lambda model: model, "optimizer=Eight: must be SparseSGD or another optimizer"),
    ],
)
def test_an_optimizer_that_cannot_train_the_weights_is_refused(make, message):
    model = Eight()
    topology = Topology(model, 0.5)
    with pytest.raises(ConfigError, match=message):
        Updater(topology, make(model), RigL(), 100)


def test_an_optimizer_with_a_topology_of_its_own_is_refused():
    """Equal masks at first: the updater would change its own, and the optimizer would step by the others."""
    model = Eight()
    optimizer = SparseSGD(model.parameters(), Topology(model, 0.5), lr=0.1)
    with pytest.raises(ConfigError, match="topology=Topology: must be the optimizer's own"):
        Updater(Topology(model, 0.5), optimizer, RigL(), 100)


def test_what_only_ours_can_do_is_refused_to_others():
    model = Eight()
    topology = Topology(model, 0.5)
    for options in ({"gradient": "corrected"}, {"rank_as": "sparseopt", "rescale": True}):
        with pytest.raises(ConfigError, match="needs"):
            Updater(topology, torch.optim.AdamW(model.parameters()), Ranked(RigL(), **options), 100)


def test_adam_undoes_a_factor_per_neuron():
    """Its step is m / sqrt(v), where a factor that stays the same over steps cancels: Eq. 12 would do nothing."""
    topology = Topology(nn.Linear(32, 8), 0.8)
    scale = neuron_scale(topology.masks["weight"]).float()
    assert scale.amax() > 1.2 * scale.amin()
    grads = torch.randn(20, 8, 32)
    plain, corrected = (nn.Parameter(torch.zeros(8, 32)) for _ in range(2))
    moved = []
    for weight, factor in ((plain, 1.0), (corrected, scale)):
        optimizer = torch.optim.Adam([weight], lr=0.01, eps=1e-16)
        for grad in grads:
            weight.grad = factor * grad
            optimizer.step()
        moved.append(weight.detach())
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-4, atol=1e-6)


def test_drop_fractions_decay_as_their_papers_say(small_net):
    def fractions(decay):
        model = small_net()
        topology = Topology(model, 0.5)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
        updater = Updater(topology, optimizer, RigL(), 1000, 0.4, 100, 0.8, decay, start_fraction=0.2)
        return [updater.fraction(step) for step in (0, 200, 500, 800, 900)]

    assert fractions("linear") == pytest.approx([0.4, 0.4, 0.2, 0, 0])
    assert fractions("inverse_power") == pytest.approx([0.4, 0.4, 0.05, 0, 0])
    assert fractions("cosine") == pytest.approx([0.4, 0.4, 0.2, 0, 0])
    assert fractions("constant") == [0.4] * 5
    assert fractions(lambda fraction, progress: fraction - progress / 10) == pytest.approx([0.4, 0.4, 0.35, 0.3, 0.3])


def test_no_update_before_the_start(small_net):
    model = small_net()
    topology = Topology(model, 0.5, initial="dense")
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
    updater = Updater(topology, optimizer, GMP(), 1000, 0.3, 100, 0.75, start_fraction=0.25)
    assert [step for step in range(1000) if updater.due(step)] == [300, 400, 500, 600, 700]
    assert [updater.pruning_progress(step) for step in (0, 250, 700, 999)] == [0, 0, 1, 1]
    assert updater.pruning_progress(475) == 0.5
    with pytest.raises(ConfigError, match="every=400: must leave a mask update before step 500"):
        Updater(topology, optimizer, GMP(), 1000, 0.3, 400, 0.5, start_fraction=0.45)
