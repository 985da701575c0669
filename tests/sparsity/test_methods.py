"""Methods of the field: each on eight weights by hand, then what all promise, with SparseOpt and after a restart."""

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparse_train.errors import ConfigError
from sparse_train.optim import SparseOpt, SparseSGD
from sparse_train.sparsity.density import apportioned
from sparse_train.sparsity.lengths import lengths
from sparse_train.sparsity.method import Method
from sparse_train.sparsity.methods.dsr import DSR
from sparse_train.sparsity.methods.gmp import GMP
from sparse_train.sparsity.methods.granet import GraNet
from sparse_train.sparsity.methods.mean import Mean
from sparse_train.sparsity.methods.mest import MEST
from sparse_train.sparsity.methods.ranked import Ranked
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.methods.rigl_blind import RigLBlind
from sparse_train.sparsity.methods.snfs import SNFS
from sparse_train.sparsity.methods.srigl import SRigL
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.train.build import dense_gradient_share

METHODS = ["dsr", "gmp", "granet", "mest", "snfs", "srigl"]


class Layers(nn.Module):
    """Weight matrices without biases, of these shapes."""

    def __init__(self, *shapes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs, bias=False) for outputs, inputs in shapes)


def prepared(weights, masks=None, grads=None, initial="random", sparsity=0.5, **options):
    """Layers with these weights, where there are masks masked, and a topology and optimizer of them.

    Args:
        weights, masks, grads: of each layer, as nested lists.
    """
    weights = [torch.tensor(weight, dtype=torch.float32) for weight in weights]
    model = Layers(*(weight.shape for weight in weights))
    topology = Topology(model, sparsity, "uniform", initial=initial)
    for i, name in enumerate(topology.masks):
        if masks is not None:
            topology.replace(name, torch.tensor(masks[i], dtype=torch.bool))
        topology.weights[name].data.copy_(weights[i] * topology.masks[name])
        topology.weights[name].grad = torch.zeros_like(weights[i]) if grads is None else torch.tensor(grads[i])
    return topology, SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, **options)


def flat(topology):
    return ["".join(str(int(bit)) for bit in mask.flatten()) for mask in topology.masks.values()]


# position       0     1    2    3      4     5    6    7
EIGHT = [[[0.4, -0.1, 0.0, 0.0], [0.3, 0.0, -0.2, 0.0]]]
MASKS = [[[1, 1, 0, 0], [1, 0, 1, 0]]]
GRADS = [[[-9.0, 1, 2, -3], [0.5, 4, 7, -5]]]
DEAD = [[[-9.0, 1, 2, -3], [50.0, 40, 60, -70]]]


@pytest.mark.parametrize(
    ("method", "counts", "expected"),
    [
        (RigL(), (1, 1), "11000001"),  # drops 2, grows 7 (|g| 70) in the neuron without weights
        (RigLBlind(), (1, 1), "11010000"),  # grows 3 (|g| 3)
        (RigLBlind(), (3, 3), "10110000"),  # drops all of the first neuron; grows 0 (9), 3 (3) and 2 (2) back
        (RigLBlind(), (1, 4), "1111"),  # 2 and 3, and two more, wherever, since all others count as 0
    ],
)
def test_rigl_that_is_blind_to_a_neuron_without_weights(method, counts, expected):
    """Its gradients, of 40 to 70, are ten times those of the other."""
    topology, optimizer = prepared([[[0.4, -0.3, 0.1, 0], [0, 0, 0, 0]]], [[[1, 1, 1, 0], [0, 0, 0, 0]]], DEAD)
    method.counts, method.keeps_counts = lambda layers: dict.fromkeys(layers, counts), counts[0] == counts[1]
    Updater(topology, optimizer, method, 100, every=1).update(1)
    [found] = flat(topology)
    assert found.startswith(expected)
    assert found.count("1") == 3 - counts[0] + counts[1], "never fewer than were asked for"


def test_mest_keeps_a_small_weight_with_a_large_gradient():
    """|w| + 0.05 |g| is 0.85, 0.15, 0.325 and 0.55: positions 1 and 4 go, not 1 and 6; 7 and 5 are grown (|g| 5, 4)."""
    for method, expected in ((MEST(0.05), "10000111"), (MEST(0.0), "10001011")):
        method.growth_score = RigL().growth_score  # for a known choice
        topology, optimizer = prepared(EIGHT, MASKS, GRADS)
        Updater(topology, optimizer, method, 100, 0.5, 1, decay="constant").update(1)
        assert flat(topology) == [expected]


def test_gmp_prunes_by_the_cubic_schedule():
    """From 8 to 4 in three updates: 4 + 4 (2/3)^3 = 5.19 are 5, 4 + 4 (1/3)^3 = 4.15 are 4, and 4."""
    topology, optimizer = prepared([[[0.4, -0.1, 0.5, 0.6], [0.3, 0.7, -0.2, 0.8]]], initial="dense")
    updater = Updater(topology, optimizer, GMP(), 40, every=10, stop_fraction=1)
    assert [step for step in range(40) if updater.due(step)] == [10, 20, 30]
    for step, expected in ((10, "10110101"), (20, "00110101"), (30, "00110101")):
        updater.update(step)
        assert flat(topology) == [expected]
        assert updater.planned(step)["layers.0.weight"] == pytest.approx({10: 5.185, 20: 4.148, 30: 4}[step], abs=1e-3)


def test_granet_prunes_all_layers_together_and_then_replaces_in_each():
    """First 0.1, 0.2 and 0.3 go, all of the first layer; of the second's 4 weights 2 go and come back: it is full.
    Then 0.4 goes, and of 3 weights 1, 0.5, is replaced by the position of gradient 9. The first has 1: floor(0.5) is 0.
    """
    weights, grads = [[[0.1, 0.2], [0.3, 0.9]], [[0.4, 0.5], [0.6, 0.7]]], [[[5.0, 5], [5, 5]], [[9.0, 1], [1, 1]]]
    topology, optimizer = prepared(weights, grads=grads, initial="dense")
    updater = Updater(topology, optimizer, GraNet(), 40, 0.5, 10, 1, decay="constant")
    updater.update(10)
    assert flat(topology) == ["0001", "1111"]
    updater.update(20)
    assert flat(topology) == ["0001", "1011"]
    assert topology.weights["layers.1.weight"].flatten().tolist() == pytest.approx([0.4, 0, 0.6, 0.7]), (
        "what is dropped and grown in one update never left"
    )


def test_a_layer_that_loses_its_weights_is_named():
    """Of 8 weights 4 are to be left, all in the second layer, and nothing grows in the first again."""
    weights, grads = [[[0.1, 0.2], [0.3, 0.15]], [[0.4, 0.5], [0.6, 0.7]]], [[[9.0, 9], [9, 9]], [[1.0, 1], [1, 1]]]
    topology, optimizer = prepared(weights, grads=grads, initial="dense")
    updater = Updater(topology, optimizer, GraNet(), 40, 0.5, 10, 1, decay="constant")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in (10, 20, 30):
            updater.update(step)
    assert flat(topology) == ["0000", "1111"]
    right = "exclude such a layer to keep it dense, or ask for less sparsity"
    assert [str(one.message) for one in told] == [
        f"the mask update of step {step} leaves {left} of the 4 weights of layers.0.weight: {right}"
        for step, left in ((10, 1), (20, 0))
    ]
    assert told[0].filename == __file__


def test_one_weight_that_is_left_is_named_too():
    """DSR leaves each layer one weight, and of the two that it may grow, the other layer gets both."""
    topology, optimizer = prepared([[[0.1, 0.1, 0.1], [0, 0, 0]], [[0.3, 0.2, 0.4], [0.5, 0, 0]]],
                                   [[[1, 1, 1], [0, 0, 0]], [[1, 1, 1], [1, 0, 0]]])  # fmt: skip
    with pytest.warns(UserWarning, match=r"step 1 leaves 1 of the 6 weights of layers\.0\.weight"):
        Updater(topology, optimizer, DSR(threshold=0.15), 40, 0.3, 1, decay="constant").update(1)
    assert topology.counts == {"layers.0.weight": 1, "layers.1.weight": 6}


PAIR = [[[0.4, 0.1], [0, 0]], [[0.3, 0.2], [0, 0]]]
HALF = [[[1, 1], [0, 0]], [[1, 1], [0, 0]]]


def test_snfs_grows_in_the_layer_with_the_larger_momentum():
    """Each layer drops one. Means of |M| over weights are 4 and 1, so of two 1.6 and 0.4 are to be grown: 2 and 0."""
    momentum = [[[5.0, -3], [2, -4]], [[1.0, 1], [9, 0.5]]]
    topology, optimizer = prepared(PAIR, HALF, momentum)
    updater = Updater(topology, optimizer, SNFS(0.0), 40, 0.5, 1, decay="constant")
    updater.observe(1)
    updater.update(1)
    assert flat(topology) == ["1101", "1000"]  # of the first -4 and -3, which had just been dropped
    assert topology.counts == {"layers.0.weight": 3, "layers.1.weight": 1}


def test_dsr_drops_below_one_threshold_and_grows_where_weights_stayed():
    """Below 0.15 is 0.1 alone. The layers have 1 and 2 left, so the second grows it: by gradient here, position 3."""
    topology, optimizer = prepared(PAIR, HALF, [[[1.0, 1], [1, 1]], [[1.0, 1], [1, 2]]])
    for asked, expected in ((0.25, 0.15), (0.5, 0.3), (0.1, 0.075)):  # 1 of 4 is dropped: as asked, too few, too many
        topology, optimizer = prepared(PAIR, HALF, [[[1.0, 1], [1, 1]], [[1.0, 1], [1, 2]]])
        method = DSR(threshold=0.15)
        method.growth_score = RigL().growth_score
        Updater(topology, optimizer, method, 40, asked, 1, decay="constant").update(1)
        assert flat(topology) == ["1000", "1101"]
        assert method.threshold == pytest.approx(expected)


def test_srigl_keeps_the_fan_in_constant():
    """Positions 1 and 6 go. Each neuron grows one: 3 (|g| 3) in the first, where RigL grows none; 6 in the second."""
    topology, optimizer = prepared(EIGHT, MASKS, GRADS, initial="constant_fan_in")
    Updater(topology, optimizer, SRigL(), 100, 0.5, 1, decay="constant").update(1)
    assert flat(topology) == ["10011010"]


def test_srigl_takes_a_neuron_away():
    """Of 3 weights each neuron has 1, k = 1. One is replaced: 0.4 stays, and the largest gradient is there too. So the
    second neuron has nothing salient, is taken away, and the first takes its weights over: 3, by |g| 3 and 2.
    The last layer keeps its neurons, whatever they are worth.
    """
    weights = [[[0.4, 0, 0, 0], [0, 0, -0.2, 0]]]
    masks, grads = [[[1, 0, 0, 0], [0, 0, 1, 0]]], [[[-9.0, 1, 2, -3], [0.5, 4, 7, -5]]]
    for last, expected in ((True, "10000010"), (False, "10110000")):
        others = 0 if last else 1
        given = [[*of, *of * others] for of in (weights, masks, grads)]
        topology, optimizer = prepared(*given, initial="constant_fan_in", sparsity=5 / 8, precondition=SparseOpt())
        Updater(topology, optimizer, SRigL(1.0), 100, 0.5, 1, decay="constant").update(1)
        assert flat(topology)[0] == expected
        factors = optimizer.corrections()["layers.0.weight"].flatten().tolist()
        assert factors == ([1.0, 1.0] if last else [1.0, 0.0]), "a neuron that was taken away is in no mean"


def test_srigl_keeps_the_outputs_and_no_other_layer_where_the_classifier_is_dense():
    """Then no sparse layer is the last: the first one loses a neuron, as in the test above."""
    model = Layers((2, 4), (2, 2))
    topology = Topology(model, 5 / 8, "uniform", exclude=["layers.1.weight"], initial="constant_fan_in")
    [weight] = topology.weights.values()
    topology.replace("layers.0.weight", torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0]]).bool())
    weight.data.copy_(torch.tensor([[0.4, 0, 0, 0], [0, 0, -0.2, 0]]))
    weight.grad = torch.tensor([[-9.0, 1, 2, -3], [0.5, 4, 7, -5]])
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
    Updater(topology, optimizer, SRigL(1.0), 100, 0.5, 1, decay="constant").update(1)
    assert flat(topology) == ["10110000"]


def test_only_a_method_that_takes_neurons_away_leaves_them_out_of_the_mean():
    """RigL from a constant fan-in may empty a neuron too: it stays one of its layer, in Eq. 12 and in rankings."""
    topology, optimizer = prepared(EIGHT, MASKS, GRADS, initial="constant_fan_in", precondition=SparseOpt())
    Updater(topology, optimizer, RigL(), 100)
    assert not topology.ablates
    topology.replace("layers.0.weight", torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool())
    assert optimizer.corrections()["layers.0.weight"].flatten().tolist() == pytest.approx([2**0.5, 0.0])
    [mask] = topology.masks.values()
    found = [lengths(mask, "sparseopt", ablates)[0].item() for ablates in (False, True)]
    assert found == pytest.approx([2**0.25, 1.0])


# --- averages ---


def test_growth_by_the_mean_gradient_of_some_batches():
    """Of the last 3 of 5 steps: position 2 leads in the mean, 5 / 3, position 3 at the update alone, 4 / 3."""
    seen = {1: 100.0, 2: 100.0, 3: 2.0, 4: 3.0, 5: 0.0}
    cases = ((Mean(RigL(), 3), "10101010", 0.5), (Mean(RigL(), 1), "10011010", 0.1), (RigL(), "10011010", 0.1))
    for method, expected, dense in cases:
        topology, optimizer = prepared(EIGHT, MASKS)
        updater = Updater(topology, optimizer, method, 100, 0.25, 5, decay="constant")
        for step, value in seen.items():
            grad = torch.zeros(2, 4)
            grad[0, 2], grad[0, 3] = value, 4.0 if step == 5 else 0.0
            topology.weights["layers.0.weight"].grad = grad
            updater.observe(step)
        updater.update(5)
        assert flat(topology) == [expected]
        assert dense_gradient_share(optimizer, updater, 10) == dense  # of steps 3, 4, 5, 8 and 9, or 5 alone


def test_a_running_average_is_the_momentum_and_leaves_out_what_is_no_number():
    method, grads = SNFS(0.9), torch.randn(4, 2, 4)
    for grad in (*grads[:2], torch.full((2, 4), torch.inf), *grads[2:]):
        method.observe({"weight": grad})
    expected = 0.1 * sum(0.9 ** (3 - i) * grad for i, grad in enumerate(grads))
    torch.testing.assert_close(method.momentum["weight"], expected)


def test_an_average_that_saw_nothing_is_an_error():
    for method in (SNFS(), Ranked(SNFS(), "invariant"), Mean(RigL(), 3)):
        topology, optimizer = prepared(EIGHT, MASKS, GRADS)
        with pytest.raises(RuntimeError, match="no average of gradients at step 5: call observe in every step"):
            Updater(topology, optimizer, method, 100, every=5).update(5)


@pytest.mark.parametrize(
    "wrapped", [lambda: Mean(Ranked(RigL(), "invariant"), 2), lambda: Ranked(Mean(RigL(), 2), "invariant")]
)
def test_a_wrapped_method_may_be_wrapped_again_in_any_order(wrapped):
    """Lengths 5 and 13, mean gradients those of the updater's test of invariant coordinates."""
    topology, optimizer = prepared([[[3.0, -4, 0, 0], [5, 0, -12, 0]]], MASKS)
    updater = Updater(topology, optimizer, wrapped(), 100, 0.25, 5, decay="constant")
    for step, by in ((4, 0.5), (5, 1.5)):
        topology.weights["layers.0.weight"].grad = by * torch.tensor([[-9.0, 1, 2, -3], [1, 4, 2, -5]])
        updater.observe(step)
    updater.update(5)
    assert flat(topology) == ["11000011"]


# --- what all of them promise ---


@pytest.fixture
def made(small_net, compose_config):
    """Model, optimizer and updater of a method as its file in conf/ puts it together."""

    def composed(method, *, attach=False, seed=0, options=(), **slots):
        cfg = compose_config(f"dst={method}", "sparsity=0.8", "update_every=4", "drop_fraction=0.3", *options)
        model = small_net()
        topology = instantiate(cfg.topology)(model)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=5e-4, **slots)
        updater = instantiate(cfg.dst)(topology, optimizer, total_steps=32, seed=seed)
        return model, optimizer, updater.attach() if attach else updater

    return composed


def train(model, optimizer, batch, steps, look=lambda step: None):
    for step in steps:
        optimizer.zero_grad()
        images, labels = batch(step)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        look(step)


@pytest.mark.parametrize("slots", [{}, {"precondition": SparseOpt()}], ids=["sgd", "sparseopt"])
@pytest.mark.parametrize("method", METHODS)
def test_counts_follow_the_budget_and_what_is_masked_is_zero(method, slots, made, batch):
    model, optimizer, updater = made(method, attach=True, **slots)
    topology, first = updater.topology, {name: mask.clone() for name, mask in updater.topology.masks.items()}
    totals = []

    def look(step):
        for name, mask in topology.masks.items():
            momentum = optimizer.state[topology.weights[name]].get("momentum_buffer", torch.zeros(()))
            assert (topology.weights[name][~mask] == 0).all()
            assert (momentum.expand_as(mask)[~mask] == 0).all()
            assert topology.counts[name] == int(mask.sum()), "known without a look at the mask"
            if updater.method.keeps_counts:
                assert topology.counts[name] == topology.targets[name]
        totals.append(sum(topology.counts.values()))

    train(model, optimizer, batch, range(32), look)
    asked = sum(topology.targets.values())
    if updater.prunes:
        assert totals == sorted(totals, reverse=True)
        assert totals[-1] == asked < totals[0]
    elif method == "srigl":
        assert all(asked - len(first) * 8 < total <= asked for total in totals), "less than one for each neuron"
        for name, mask in topology.masks.items():
            fan_in = mask.flatten(1).sum(1)
            assert len(fan_in[fan_in > 0].unique()) == 1, name
    else:
        assert set(totals) == {asked}
    assert any(not torch.equal(mask, first[name]) for name, mask in topology.masks.items())


@pytest.mark.parametrize("ablation", [0.0, 0.3, 1.0])
def test_sparseopt_changes_nothing_where_the_fan_in_is_constant(ablation, made, batch):
    """To the bit, also where neurons are taken away: SRigL is the control."""

    def trained(**slots):
        model, optimizer, updater = made("srigl", attach=True, options=[f"dst.method.ablation={ablation}"], **slots)
        train(model, optimizer, batch, range(32))
        masks = updater.topology.masks.values()
        dead = sum(int((mask.flatten(1).sum(1) == 0).sum()) for mask in masks)
        return [*model.state_dict().values(), *masks], dead

    (plain, dead), (corrected, _) = trained(), trained(precondition=SparseOpt())
    assert all(torch.equal(a, b) for a, b in zip(plain, corrected, strict=True))
    assert (dead > 0) == (ablation == 1.0)


MEAN = [
    "dst.method.method._target_=sparse_train.sparsity.methods.mean.Mean",
    "+dst.method.method.batches=3",
    "+dst.method.method.method={_target_: sparse_train.sparsity.methods.rigl.RigL}",
]


@pytest.mark.parametrize("method", [*METHODS, "rigl mean"])
def test_a_restart_from_model_and_optimizer_goes_on_the_same(method, made, batch):
    """Broken off between two updates and within the window of an average; what is not saved would be seen."""
    options = MEAN if "mean" in method else []
    name = method.split()[0]
    model, optimizer, _ = made(name, attach=True, options=options)
    train(model, optimizer, batch, range(11))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, batch, range(11, 26))
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, other, updater = made(name, attach=True, options=options)
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    train(again, other, batch, range(11, 26))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(
        torch.equal(mask, updater.topology.masks[n]) for n, mask in optimizer.state_dict()["topology"]["masks"].items()
    )


@pytest.mark.parametrize("method", ["snfs", "dsr"])
def test_a_state_without_the_methods_is_refused(method, made):
    _, plain, _ = made("rigl")
    _, optimizer, _ = made(method)
    with pytest.raises(ValueError, match="was saved without the state of (SNFS|DSR), so it cannot resume"):
        optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))


class Unsaid(Method):
    initial, keeps_counts = "dense", False


class HalfSaved(RigL):
    def state_dict(self):
        return {"turns": 0}


class Unseeing(RigL):
    def observe(self, gradients):
        pass


@pytest.mark.parametrize(
    ("method", "initial", "message"),
    [
        (GMP(), "random", "topology.initial=random: must be dense for this method"),
        (GraNet(), "random", "topology.initial=random: must be dense for this method"),
        (SRigL(), "random", "topology.initial=random: must be constant_fan_in"),
        (Ranked(SRigL()), "random", "topology.initial=random: must be constant_fan_in"),
        (Unsaid(), "dense", "method=Unsaid: must have left.first, target, progress., since it begins"),
        (HalfSaved(), "random", "method=HalfSaved: must have both state_dict and load_state_dict"),
        (Unseeing(), "random", "method=Unseeing: must have observe, and say by `observed`"),
        (None, "random", r"method=None: must be a sparsity.method.Method, such as RigL\(\)"),
        (RigL, "random", "method=<class .*RigL'>: must be a sparsity.method.Method"),
    ],
)
def test_a_method_that_does_not_fit_is_refused(method, initial, message):
    topology, optimizer = prepared(EIGHT, initial=initial)
    with pytest.raises(ConfigError, match=message):
        Updater(topology, optimizer, method, 200)


class Counting(RigL):
    turns = 0

    def state_dict(self):
        return {"turns": self.turns}

    def load_state_dict(self, state):
        self.turns = state["turns"]


@pytest.mark.parametrize("wrap", [lambda method: method, Ranked, lambda method: Mean(method, 2)])
def test_the_state_of_a_method_is_saved_and_loaded(wrap):
    def made():
        topology, optimizer = prepared(EIGHT, MASKS, GRADS)
        method = Counting()
        Updater(topology, optimizer, wrap(method), 100, every=5)
        return optimizer, method

    optimizer, method = made()
    method.turns = 3
    other, again = made()
    other.load_state_dict(optimizer.state_dict())
    assert again.turns == 3


class Planned(RigL):
    def __init__(self, plan, keeps_counts=True):
        self.plan, self.keeps_counts = plan, keeps_counts

    def counts(self, layers):
        return self.plan


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Planned({"layers.0.weight": (2, 1)}), "grow as many as it drops, since it keeps_counts, in whole numbers"),
        (Planned({"layers.0.weight": (5, 5)}), "must drop at most 4 weights of layers.0.weight and grow"),
        (Planned({"layers.0.weight": (1.0, 1.0)}), "in whole numbers, not drop 1.0 and grow 1.0"),
        (Planned({"layers.0.weight": (1, 6)}, False), "grow 4 more than it drops, .*, not drop 1 and grow 6"),
        (Planned({"layers.0.weight": (-1, 0)}, False), "not drop -1 and grow 0"),
        (Planned({"layer": (1, 1)}), "must drop at most 0 weights of layer and"),
    ],
)
def test_counts_that_a_layer_cannot_follow_are_refused(method, message):
    topology, optimizer = prepared(EIGHT, MASKS, GRADS)
    with pytest.raises(ConfigError, match=f"^method=Planned: .*{message}"):
        Updater(topology, optimizer, method, 100, every=5).update(5)
    assert flat(topology) == ["11001010"], "masks are as they were"


def test_a_schedule_of_ones_own_is_counted():
    class Linear(GMP):
        @staticmethod
        def left(first, target, progress):
            return first + (target - first) * progress

    topology, optimizer = prepared(EIGHT, initial="dense")
    updater = Updater(topology, optimizer, Linear(), 40, every=10, stop_fraction=1.0)
    for step in (10, 20, 30):
        updater.update(step)
        assert topology.counts == {name: round(left) for name, left in updater.planned(step).items()}
    assert topology.counts == {"layers.0.weight": 4}


def test_a_run_too_short_to_prune_is_refused():
    topology, optimizer = prepared(EIGHT, initial="dense")
    message = r"every=100: must leave a mask update before step 75 \(stop_fraction\), or nothing is pruned"
    with pytest.raises(ConfigError, match=message):
        Updater(topology, optimizer, GMP(), 100)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: MEST(-1), "gamma"),
        (lambda: DSR(0), "threshold"),
        (lambda: DSR(tolerance=1), "tolerance"),
        (lambda: SRigL(1.1), "ablation"),
        (lambda: Mean(RigL(), 0), "batches"),
        (lambda: Mean(SNFS(), 2), "method"),
        (lambda: SNFS(1), "beta"),
        (lambda: Topology(Layers((2, 4)), 0.5, initial="diagonal"), "initial"),
        (lambda: Topology(Layers((8, 4)), 0.9, initial="constant_fan_in"), "topology.initial"),
        (lambda: Topology(nn.ConvTranspose2d(4, 4, 3), 0.5, include="weight", initial="constant_fan_in"), "initial"),
    ],
)
def test_values_that_cannot_be_name_their_key(make, key):
    with pytest.raises(ConfigError, match=f"^{key}=.*(must be|too few|needs|has an average)"):
        make()


def test_a_constant_fan_in_corrects_nothing(small_net):
    topology = Topology(small_net(), 0.8, initial="constant_fan_in")
    for name, mask in topology.masks.items():
        assert set(mask.flatten(1).sum(1).tolist()) == {topology.targets[name] // len(mask)}
        assert mask.all() or not torch.equal(mask[0], mask[1]), "each neuron has places of its own"
    assert all((scale == 1).all() for scale in SparseOpt().scales(topology).values())
    assert all((scale == scale[0]).all() for scale in SparseOpt("global").scales(topology).values())


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_apportioning_gives_everything_within_the_room_there_is(layers, part):
    shares, room = ({str(i): layer[k] for i, layer in enumerate(layers)} for k in (0, 1))
    total = int(part * sum(room.values()))
    given = apportioned(total, shares, room)
    assert sum(given.values()) == total
    assert all(0 <= given[name] <= room[name] for name in room)
    exact = {name: total * share / (sum(shares.values()) or 1) for name, share in shares.items()}
    if sum(shares.values()) > 1e-6 and all(exact[name] + 1 < room[name] for name in room):
        assert all(abs(given[name] - exact[name]) < 1 for name in room)


def test_mest_skips_an_update_by_a_gradient_that_is_no_number():
    """Its drop score sees the gradient; the weights are finite all the same."""
    topology, optimizer = prepared(EIGHT, MASKS, GRADS)
    topology.weights["layers.0.weight"].grad[0, 0] = torch.nan
    before = flat(topology)
    with pytest.warns(UserWarning, match="is not finite: masks stay"):
        assert not Updater(topology, optimizer, MEST(), 100, 0.5, 1).update(1)
    assert flat(topology) == before
