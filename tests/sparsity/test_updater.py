import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import Lamb, Lookahead
from torch import nn

from sparse_train.errors import ConfigError, DivergedError
from sparse_train.optim import HAM, Renorm, SparseOpt, SparseSGD
from sparse_train.optim.equal_angle import EqualAngle
from sparse_train.sparsity.methods.gmp import GMP
from sparse_train.sparsity.methods.mest import MEST
from sparse_train.sparsity.methods.ranked import Ranked
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.methods.set import SET
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from support.eight import EIGHT, GRADS, MASKS, WEIGHT, Layers, flat, prepared, updated
from support.steps import gradients, same

# --- the choice of weights ---


@pytest.mark.parametrize(
    ("drop_fraction", "expected"),
    [
        (0.24, "11001010"),  # floor(0.24 * 4) = 0
        (0.25, "10001011"),  # drops position 1 (|w| 0.1), grows 7 (|g| 5)
        (0.5, "10001011"),  # drops 1 and 6, grows 6 (|g| 7) back and 7 (5)
        (0.75, "10000111"),  # drops 1, 6, 4; grows 6, 7, 5
        (1.0, "10000111"),  # drops all; grows 0 (9), 6 (7), 7 (5), 5 (4)
    ],
)
def test_rigl_on_eight_weights(drop_fraction, expected):
    topology, optimizer = prepared(EIGHT, MASKS, GRADS)
    weight, before = topology.weights[WEIGHT], torch.tensor(EIGHT[0])
    Updater(topology, optimizer, RigL(), 100, drop_fraction, every=1, decay="constant").update(1)
    assert flat(topology) == [expected]
    kept = topology.masks[WEIGHT] & (before != 0)  # dropped and regrown in one update: never gone
    assert torch.equal(weight, before * kept), "grown weights start at 0"
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], kept.float())


def test_set_drops_the_same_weights_and_grows_anywhere():
    """Of two that are dropped, 1 and 6, and four that are free, a third of the six is grown."""
    masks = [updated(SET(), 0.5, EIGHT, MASKS, GRADS, seed=seed).masks[WEIGHT].flatten() for seed in range(200)]
    assert all(mask[[0, 4]].all() and int(mask.sum()) == 4 for mask in masks)
    grown = torch.stack(masks).sum(0)[[1, 2, 3, 5, 6, 7]]
    assert (grown - 200 / 3).abs().max() < 0.35 * 200 / 3


def test_random_growth_is_of_its_own_in_each_layer_and_step_and_repeats_itself():
    def grown(step, ambient):
        """Both masks after one update at this step, from one mask for both layers."""
        weight, mask = torch.arange(1.0, 401).view(20, 20), torch.arange(400).view(20, 20) % 2 == 0
        torch.manual_seed(ambient)
        return list(updated(SET(), 0.3, [weight, weight], [mask, mask], step=step, seed=5).masks.values())

    first = grown(step=1, ambient=0)
    assert not torch.equal(*first)
    assert not any(torch.equal(a, b) for a, b in zip(first, grown(step=2, ambient=0), strict=True))
    assert same(first, grown(step=1, ambient=99))


def test_growth_by_corrected_gradients():
    """Fan-ins 1 and 3: gradients of neuron 1 count sqrt(3) times those of neuron 0."""
    example = [[[0.4, 0, 0, 0], [0.3, 0.5, 0.1, 0]]], [[[1, 0, 0, 0], [1, 1, 1, 0]]], [[[0, 5.0, 1, 1], [0, 0, 1, 4]]]
    for gradient, expected in (("raw", "11001100"), ("corrected", "10001101")):
        method = Ranked(RigL(), gradient=gradient)
        assert flat(updated(method, 0.25, *example, precondition=SparseOpt())) == [expected]


def test_drop_counts_are_exact_where_floating_point_is_not():
    """0.29 * 100 is 28.999999999999996 in floating point, and 0.57 * 100 is 56.99999999999999."""
    topology, optimizer = prepared([torch.ones(10, 20)])
    for drop_fraction, expected in ((0.29, 29), (0.57, 57), (0.2999, 29)):
        updater = Updater(topology, optimizer, RigL(), 1000, drop_fraction, every=1, decay="constant")
        updater.update(1)
        assert updater.plan == {WEIGHT: (expected, expected)}


def test_invariant_coordinates_on_eight_weights():
    """Lengths (5, 13): |w| / |w_i| is (0.6, 0.8 | 5/13, 12/13), |g| |w_i| is (45, 5, 10, 15 | 13, 52, 26, 65).

    As they are, position 0 (|w| 3) would be dropped, and grown back (|g| 9). Here 4 is dropped (5/13) and 7 grown (65).
    """
    weights, grads = [[[3.0, -4, 0, 0], [5, 0, -12, 0]]], [[[-9.0, 1, 2, -3], [1, 4, 2, -5]]]
    topology = updated(Ranked(RigL(), "invariant"), 0.25, weights, MASKS, grads)
    assert flat(topology) == ["11000011"]
    assert topology.weights[WEIGHT].flatten().tolist() == [3, -4, 0, 0, 0, 0, -12, 0], "the weights themselves stay"


@pytest.mark.parametrize("growth", [RigL(), SET()], ids=["rigl", "set"])
def test_invariant_coordinates_do_not_see_how_long_a_neuron_is(growth):
    """w_i -> a w_i, g_i -> g_i / a, by powers of 2, so to the bit; ranked as they are, other weights are chosen."""

    def chosen(rank_as, by):
        by = torch.tensor(by)[:, None]
        example = [torch.tensor(EIGHT[0]) * by], MASKS, [torch.tensor(GRADS[0]) / by]
        return flat(updated(Ranked(growth, rank_as), 0.5, *example))[0]

    scales = [(1.0, 1.0), (0.125, 8.0), (64.0, 0.5)]
    assert len({chosen("invariant", by) for by in scales}) == 1
    assert len({chosen("weights", by) for by in scales}) > 1


@pytest.mark.parametrize(("second", "expected"), [([0, 0, 0, 0], "01010000"), ([1, 1, 0, 0], "11110000")])
def test_a_neuron_of_length_zero_is_dropped_first_and_grown_last(second, expected):
    """Whatever its gradient, here a thousand times the other's; without weights, or with two that are 0."""
    weights, grads = [[[1e-6, -4, 0, 0], [0, 0, 0, 0]]], [[[0.1, 0.1, 0.2, 0.3], [1000.0, 1000, 1000, 1000]]]
    assert flat(updated(Ranked(RigL(), "invariant"), 0.5, weights, [[[1, 1, 0, 0], second]], grads)) == [expected]


# --- the schedule ---


def test_drop_fractions_decay_as_their_papers_say():
    """From 0.4, between steps 200 and 800."""
    for decay, expected in {
        "linear": [0.4, 0.4, 0.2, 0, 0],
        "inverse_power": [0.4, 0.4, 0.05, 0, 0],
        "cosine": [0.4, 0.4, 0.2, 0, 0],
        "constant": [0.4] * 5,
        lambda fraction, progress: fraction - progress / 10: [0.4, 0.4, 0.35, 0.3, 0.3],
    }.items():
        updater = Updater(*prepared(), RigL(), 1000, 0.4, 100, 0.8, decay, start_fraction=0.2)
        assert [updater.fraction(step) for step in (0, 200, 500, 800, 900)] == pytest.approx(expected)
    cosine = Updater(*prepared(), RigL(), 1000, 0.4, 100, 0.75)
    assert cosine.fraction(250) == pytest.approx(0.3)  # 0.2 (1 + cos(pi / 3))


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(0, 0.75, range(100, 701, 100)), (0, 1, range(100, 901, 100)), (0.25, 0.75, range(300, 701, 100))],
)
def test_when_updates_are_due(start, stop, expected):
    topology, optimizer = prepared(initial="dense")
    updater = Updater(topology, optimizer, GMP(), 1000, 0.3, 100, stop, start_fraction=start)
    assert [step for step in range(1000) if updater.due(step)] == list(expected)
    first, last = 1000 * start, expected[-1]
    found = [updater.pruning_progress(step) for step in (0, first, (first + last) / 2, last, 999)]
    assert found == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_fraction": 1.1}, "drop_fraction=1.1: must be"),
        ({"every": 0}, "every=0: must be"),
        ({"every": 12.5}, "every=12.5: must be a whole number"),  # due at steps 25, 50, ... alone
        ({"stop_fraction": 2}, "stop_fraction=2: must be"),
        ({"decay": "quadratic"}, "decay=quadratic: must be"),
        ({"start_fraction": 0.9}, "start_fraction=0.9: must be"),
        ({"every": 100, "total_steps": 0}, "total_steps=0: must be"),
        (
            {"every": 400, "start_fraction": 0.45, "stop_fraction": 0.5},
            r"every=400: must leave a mask update before step 500 \(stop_fraction\), or nothing is pruned",
        ),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        Updater(*prepared(initial="dense"), GMP(), **{"total_steps": 1000, **options})


# --- what holds after every step ---


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
    active = dict(topology.counts)
    for step in range(12):
        gradients(model, (torch.randn(8, 6), torch.randint(4, (8,))))
        if updater.due(step):
            updater.update(step)
        if not (updater.due(step) and skip):
            optimizer.step()
        require_masked(optimizer, topology, active)


def require_masked(optimizer, topology, active):
    for name, mask in topology.masks.items():
        weight = topology.weights[name]
        assert int(mask.sum()) == active[name]
        assert (weight[~mask] == 0).all()
        assert not any(value[~mask].any() for value in per_weight(optimizer, weight))


def per_weight(optimizer, weight):
    """What an optimizer keeps for each weight."""
    return [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor) and v.shape == weight.shape]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1, "amsgrad": True, "foreach": True}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
        (torch.optim.RMSprop, {"lr": 1e-2, "momentum": 0.9, "centered": True}),
    ],
)
def test_any_optimizer_keeps_what_does_not_exist_at_zero(kind, options, small_net, batch):
    model = small_net()
    topology = Topology(model, 0.7)
    optimizer = kind(model.parameters(), **options)
    updater = Updater(topology, optimizer, RigL(), 40, 0.5, every=3)
    active, begun, losses = dict(topology.counts), dict(topology.masks), []
    for step in range(24):
        losses.append(gradients(model, batch(step % 2)).item())
        if updater.due(step):
            before = dict(topology.masks)
            updater.update(step)
            for name, mask in topology.masks.items():
                grown, weight = mask & ~before[name], topology.weights[name]
                assert not any(value[grown].any() for value in (weight, *per_weight(optimizer, weight))), "no past"
        optimizer.step()
        require_masked(optimizer, topology, active)
    assert not same(topology.masks.values(), begun.values())
    assert sum(losses[-4:]) < sum(losses[:4]), "and it learns"


@pytest.mark.parametrize(("kind", "attached"), [(Lamb, True), (torch.optim.Adafactor, False)])
def test_an_optimizer_that_takes_norms_sees_existing_weights_alone(kind, attached):
    """Its steps are those on gradients that somebody masked before, and an update still looks at dense ones."""

    def trained(masked):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        topology = Topology(model, 0.8)
        optimizer = kind(model.parameters(), lr=0.01)
        updater = Updater(topology, optimizer, RigL(), 60, 0.5, every=4)
        if attached:
            updater.attach()
        for step in range(20):
            optimizer.zero_grad()
            model(torch.randn(8, 16, generator=torch.Generator().manual_seed(step))).pow(2).mean().backward()
            if updater.due(step) and not attached:
                updater.update(step)
                continue
            if masked and not updater.due(step):
                for name, weight in topology.weights.items():
                    weight.grad.mul_(topology.masks[name])
            optimizer.step()
        return [*model.parameters(), *topology.masks.values()], topology.version

    (one, version), (other, _) = trained(masked=True), trained(masked=False)
    assert version == 8
    assert same(one, other)


@pytest.mark.parametrize("nesterov", [False, True])
def test_torchs_sgd_is_then_ours_to_the_bit(small_net, batch, nesterov):
    def trained(kind, **options):
        model = small_net()
        topology = Topology(model, 0.7)
        given = (topology,) if kind is SparseSGD else ()
        options |= {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": nesterov}
        optimizer = kind(model.parameters(), *given, lr=0.1, **options)
        updater = Updater(topology, optimizer, RigL(), 40, 0.5, every=3)
        for step in range(12):
            gradients(model, batch(step))
            if updater.due(step):
                updater.update(step)
            optimizer.step()
        return [*model.parameters(), *topology.masks.values()]

    assert same(trained(SparseSGD), trained(torch.optim.SGD, fused=True))


# --- what is not a number ---


def test_with_a_loss_scaler_training_is_the_same_but_for_steps_that_overflow(small_net, batch):
    """`unscale_`, then `update`, then the scaler's step: to the bit. Step 4 overflows: masks and weights stay."""

    def trained(overflows, **scaling):
        model = small_net()
        topology = Topology(model, 0.6)
        renorm = Renorm(max_norm=0.1)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, precondition=SparseOpt(), renorm=renorm)
        updater, scaler = Updater(topology, optimizer, RigL(), 100, every=2), torch.amp.GradScaler("cpu", **scaling)
        for step in range(6):
            if step == 4 and not overflows:
                continue
            optimizer.zero_grad()
            images, labels = batch(step)
            scaler.scale(F.cross_entropy(model(images), labels)).backward()
            if step == 4:
                model.fc.weight.grad[0, 0] = torch.inf
            scaler.unscale_(optimizer)
            if step == 4:
                with pytest.warns(UserWarning, match="masks stay as they are, as under a GradScaler that skips the"):
                    assert not updater.update(step)
            elif updater.due(step):
                assert updater.update(step)
            scaler.step(optimizer)
            scaler.update()
        return [*topology.masks.values(), *model.parameters()]

    assert same(trained(False, enabled=False), trained(True, init_scale=2.0**12))


@pytest.mark.parametrize(
    ("method", "bad"), [(RigL(), torch.nan), (RigL(), -torch.inf), (MEST(), torch.nan), (SET(), torch.inf)]
)
def test_gradients_without_numbers_leave_the_masks(method, bad):
    """MEST's drop score sees them, though the weights are finite."""
    topology, optimizer = prepared(EIGHT, MASKS, GRADS)
    weight = topology.weights[WEIGHT]
    weight.grad[0, 0] = bad
    before = [topology.masks[WEIGHT], weight.clone(), optimizer.state[weight]["momentum_buffer"].clone()]
    updater = Updater(topology, optimizer, method, 100, 0.5, every=1, decay="constant")
    with pytest.warns(
        UserWarning, match=f"{WEIGHT}: its gradient is not finite at the mask update of step 1: masks stay"
    ):
        assert updater.update(1) is False
    assert same(before, [topology.masks[WEIGHT], weight, optimizer.state[weight]["momentum_buffer"]])
    weight.grad.fill_(1.0)
    assert updater.update(2) is True


class Infinite(RigL):
    """As others write RigL: what is not to be chosen has an infinite score."""

    def drop_score(self, layer):
        return torch.where(layer.mask, super().drop_score(layer), torch.inf)

    def growth_score(self, layer):
        return torch.where(layer.mask, -torch.inf, super().growth_score(layer))


def test_scores_may_be_infinite():
    """Unlike plain RigL it regrows no weight that it has just dropped, as long as there is room."""
    topology, optimizer = prepared(EIGHT, MASKS, GRADS)
    before = topology.masks[WEIGHT].clone()
    updater = Updater(topology, optimizer, Infinite(), 100, 0.5, every=1, decay="constant")
    assert updater.update(1) is True
    dropped, grown = updater.plan[WEIGHT]
    after = topology.masks[WEIGHT]
    assert dropped == grown == int((before & ~after).sum()) == int((after & ~before).sum()) == 2


@pytest.mark.parametrize("score", ["drop_score", "growth_score"])
def test_a_score_that_is_nan_names_its_method(score):
    topology, optimizer = prepared(EIGHT, MASKS, GRADS)
    of = {score: lambda self, layer: layer.weight.abs().where(~layer.mask, torch.nan)}
    updater = Updater(topology, optimizer, type("Zero", (RigL,), of)(), 100, 0.5, every=1)
    with pytest.raises(ConfigError, match=f"method=Zero: {score} must not be NaN, as for {WEIGHT} at step 1"):
        updater.update(1)
    assert flat(topology) == ["11001010"]


@pytest.mark.parametrize(("method", "bad"), [(RigL(), torch.nan), (SET(), torch.inf), (SET(), -torch.inf)])
def test_weights_without_numbers_end_it(method, bad):
    topology, optimizer = prepared(EIGHT, MASKS, GRADS)
    with torch.no_grad():
        topology.weights[WEIGHT][:, 0] = bad
    with pytest.raises(DivergedError, match=f"{WEIGHT} is not finite at the mask update of step 7"):
        Updater(topology, optimizer, method, 100, 0.5, every=1).update(7)
    assert flat(topology) == ["11001010"]


# --- what does not fit ---


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        ("growth_score", lambda layer: layer.gradient.flatten(), r"growth_score must score each .*, not \(8,\)"),
        ("growth_score", lambda layer: layer.gradient.sum(), r"growth_score must .*, not \(\)"),  # ranks by position
        ("growth_score", lambda layer: None, f"must have a growth_score where it grows weights, 3 of {WEIGHT}"),
        ("drop_score", lambda layer: None, r"drop_score must .* a tensor of \(2, 4\), not NoneType"),
        ("select", lambda layer, drop, grow: None, rf"must select a boolean mask of \(2, 4\) for {WEIGHT}"),
        ("select", lambda layer, drop, grow: layer.weight, rf"must select a boolean mask of \(2, 4\) for {WEIGHT}"),
        ("select", lambda layer, drop, grow: layer.mask[0], rf"must select a boolean mask of \(2, 4\) for {WEIGHT}"),
        ("select", lambda layer, drop, grow: ~layer.mask | True, f"must select 4 weights of {WEIGHT}, not 8, since"),
    ],
)
def test_what_a_method_gives_in_another_form_names_it_and_changes_nothing(function, given, message):
    Mine = type("Mine", (RigL,), {function: lambda self, *seen: given(*seen)})  # noqa: N806
    for method in (Mine(), Ranked(Mine())):
        topology, optimizer = prepared(EIGHT, MASKS, GRADS)
        updater = Updater(topology, optimizer, method, total_steps=4, drop_fraction=1, every=1)
        with pytest.raises(ConfigError, match=f"^method=Mine: {message}"):
            updater.update(1)
        assert flat(topology) == ["11001010"]


def adamw(model):
    return torch.optim.AdamW(model.parameters())


def ours(model, topology=None, **options):
    return SparseSGD(model.parameters(), topology or Topology(model, 0.5), lr=0.1, **options)


@pytest.mark.parametrize(
    ("make", "method", "message"),
    [
        (
            lambda model: torch.optim.LBFGS(model.parameters()),
            RigL(),
            "optimizer=LBFGS: needs a closure.*use SparseSGD",
        ),
        (lambda model: torch.optim.Rprop(model.parameters()), RigL(), "optimizer=Rprop: keeps a step size for each"),
        (lambda model: model, RigL(), "optimizer=Layers: must be SparseSGD or another optimizer"),
        (
            lambda model: Lookahead(ours(model)),
            RigL(),
            "optimizer=Lookahead: runs no step hooks, because it wraps another optimizer; give the updater the wrapped",
        ),
        (
            lambda model: adamw(model.layers[0]),
            RigL(),
            "optimizer=AdamW: does not train layers.1.weight: was the .* With two optimizers, give each a topology",
        ),
        (ours, RigL(), "topology=Topology: must be the optimizer's own"),  # with equal masks at first
        (adamw, Ranked(RigL(), gradient="corrected"), "gradient=corrected: needs an optimizer that corrects"),
        (adamw, Ranked(RigL(), "sparseopt", rescale=True), "rescale=True: needs SparseSGD"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused(make, method, message):
    model = Layers((2, 4), (2, 4))
    with pytest.raises(ConfigError, match=message):
        Updater(Topology(model, 0.5), make(model), method, 100)


def test_a_state_in_eight_bits_is_refused_at_the_first_step():
    class Eight(torch.optim.SGD):
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                self.state[p]["state1"] = torch.full_like(p, 7, dtype=torch.uint8)

    model = Layers((2, 4))
    topology, optimizer = Topology(model, 0.5), Eight(model.parameters(), lr=0.1)
    Updater(topology, optimizer, RigL(), 100)
    model.layers[0].weight.grad = torch.ones(2, 4)
    with pytest.raises(ConfigError, match=r"optimizer=state state1: is torch.uint8 for layers.0.weight, .* 32 bits"):
        optimizer.step()


@pytest.mark.parametrize("precondition", [None, EqualAngle()])
def test_corrected_gradients_need_a_correction_by_masks(precondition, small_net):
    model = small_net()
    topology = Topology(model, 0.6)
    topology.example = torch.zeros(1, 3, 6, 6)
    optimizer = ours(model, topology, precondition=precondition)
    assert optimizer.corrections() == {}
    with pytest.raises(ConfigError, match="gradient=corrected: needs an optimizer that corrects"):
        Updater(topology, optimizer, Ranked(RigL(), gradient="corrected"), 100)


def replaced(model):
    model.fc = nn.Linear(8, 5)


def assigned(model):
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize(("change", "name"), [(replaced, "fc.weight"), (assigned, "conv1.weight")])
def test_a_layer_that_is_no_longer_the_models_is_named(small_net, batch, change, name):
    model = small_net()
    topology = Topology(model, 0.5)
    optimizer = ours(model, topology)
    updater = Updater(topology, optimizer, RigL(), 100, 0.5, every=1)
    change(model)
    before = dict(topology.masks)
    gradients(model, batch(0))
    with pytest.raises(RuntimeError, match=f"{name} has no gradient to update its mask by at step 1.* replaced after"):
        updater.update(1)
    assert before == topology.masks, "nothing is half done"
    with pytest.raises(ConfigError, match="was the model copied"):
        ours(model, topology)
