"""Methods of the field: each on eight weights by hand, then what all promise, with SparseOpt and after a restart."""

import io
import warnings

import pytest
import torch
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
from support.eight import EIGHT, GRADS, MASKS, WEIGHT, Layers, flat, prepared, updated
from support.steps import same, take_step, train


def by_gradient(method):
    """The same method, with growth that is known before."""
    method.growth_score = RigL().growth_score
    return method


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
    method.counts, method.keeps_counts = lambda layers: dict.fromkeys(layers, counts), counts[0] == counts[1]
    [found] = flat(updated(method, 0.5, [[[0.4, -0.3, 0.1, 0], [0, 0, 0, 0]]], [[[1, 1, 1, 0], [0, 0, 0, 0]]], DEAD))
    assert found.startswith(expected)
    assert found.count("1") == 3 - counts[0] + counts[1], "never fewer than were asked for"


def test_mest_keeps_a_small_weight_with_a_large_gradient():
    """|w| + 0.05 |g| is 0.85, 0.15, 0.325 and 0.55: positions 1 and 4 go, not 1 and 6; 7 and 5 are grown (|g| 5, 4)."""
    for gamma, expected in ((0.05, "10000111"), (0.0, "10001011")):
        assert flat(updated(by_gradient(MEST(gamma)), 0.5, EIGHT, MASKS, GRADS)) == [expected]


class Linear(GMP):
    """With a schedule of its own."""

    @staticmethod
    def left(first, target, progress):
        return first + (target - first) * progress


@pytest.mark.parametrize(
    ("method", "plan", "masks"),
    [
        (GMP(), [5.185, 4.148, 4], ["10110101", "00110101", "00110101"]),  # 4 + 4 (2/3)^3 and 4 + 4 (1/3)^3, rounded
        (Linear(), [6.667, 5.333, 4], ["10111111", "10110101", "00110101"]),
    ],
)
def test_gmp_prunes_by_its_schedule(method, plan, masks):
    """From 8 to 4 in three updates."""
    topology, optimizer = prepared([[[0.4, -0.1, 0.5, 0.6], [0.3, 0.7, -0.2, 0.8]]], initial="dense")
    updater = Updater(topology, optimizer, method, 40, every=10, stop_fraction=1)
    assert [step for step in range(40) if updater.due(step)] == [10, 20, 30]
    for step, left, expected in zip((10, 20, 30), plan, masks, strict=True):
        updater.update(step)
        assert flat(topology) == [expected]
        assert updater.planned(step)[WEIGHT] == pytest.approx(left, abs=1e-3)


def test_granet_prunes_all_layers_together_and_then_replaces_in_each():
    """First 0.1, 0.2 and 0.3 go, all of the first layer; of the second's 4 weights 2 go and come back: it is full.
    Then 0.4 goes, and of 3 weights 1, 0.5, is replaced by the position of gradient 9. The first has 1: floor(0.5) is 0.
    """
    weights, grads = [[[0.1, 0.2], [0.3, 0.9]], [[0.4, 0.5], [0.6, 0.7]]], [[[5.0, 5], [5, 5]], [[9.0, 1], [1, 1]]]
    topology, optimizer = prepared(weights, None, grads, initial="dense")
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
    topology, optimizer = prepared(weights, None, grads, initial="dense")
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


PAIR = [[[0.4, 0.1], [0, 0]], [[0.3, 0.2], [0, 0]]]
HALF = [[[1, 1], [0, 0]], [[1, 1], [0, 0]]]


def test_snfs_grows_in_the_layer_with_the_larger_momentum():
    """Each layer drops one. Means of |M| over weights are 4 and 1, so of two 1.6 and 0.4 are to be grown: 2 and 0."""
    momentum = [[[5.0, -3], [2, -4]], [[1.0, 1], [9, 0.5]]]
    topology, optimizer = prepared(PAIR, HALF, momentum)
    updater = Updater(topology, optimizer, SNFS(0.0), 40, 0.5, 1, decay="constant")
    updater.observe(1)
    with pytest.warns(UserWarning, match="step 1 leaves 1 of the 4 weights of layers.1.weight"):
        updater.update(1)
    assert flat(topology) == ["1101", "1000"]  # of the first -4 and -3, which had just been dropped
    assert topology.counts == {"layers.0.weight": 3, "layers.1.weight": 1}


@pytest.mark.filterwarnings("ignore:the mask update")
@pytest.mark.parametrize(
    ("first", "asked", "expected", "after"),
    [
        # Below 0.15 is 0.1 alone. The layers have 1 and 2 left, so the second grows it, at position 3 by gradient.
        (0.15, 0.25, ["1000", "1101"], 0.15),  # one of 4 was asked for
        (0.15, 0.5, ["1000", "1101"], 0.3),  # too few
        (0.15, 0.1, ["1000", "1101"], 0.075),  # too many
        (0.5, 0.5, ["1001", "1001"], 0.5),  # below 0.5 are all: each layer keeps one, and of two grows one
    ],
)
def test_dsr_drops_below_one_threshold_and_grows_where_weights_stayed(first, asked, expected, after):
    method = by_gradient(DSR(threshold=first))
    assert flat(updated(method, asked, PAIR, HALF, [[[1.0, 1], [1, 2]], [[1.0, 1], [1, 2]]])) == expected
    assert method.threshold == pytest.approx(after)


def test_srigl_keeps_the_fan_in_constant():
    """Positions 1 and 6 go. Each neuron grows one: 3 (|g| 3) in the first, where RigL grows none; 6 in the second."""
    assert flat(updated(SRigL(), 0.5, EIGHT, MASKS, GRADS, initial="constant_fan_in")) == ["10011010"]


@pytest.mark.parametrize(
    ("layers", "exclude", "expected", "factors"),
    [
        (1, (), "10000010", [1.0, 1.0]),  # the last layer keeps its neurons, whatever they are worth
        (2, (), "10110000", [1.0, 0.0]),
        (2, "layers.1.weight", "10110000", [1.0, 0.0]),  # the outputs are those of a dense layer
    ],
)
def test_srigl_takes_a_neuron_away(layers, exclude, expected, factors):
    """Of 3 weights each neuron has 1, k = 1. One is replaced: 0.4 stays, and the largest gradient is there too. So the
    second neuron has nothing salient, is taken away, and the first takes its weights over: 3, by |g| 3 and 2.
    A neuron that was taken away is in no mean of Eq. 12.
    """
    weights, masks = [[[0.4, 0, 0, 0], [0, 0, -0.2, 0]]] * layers, [[[1, 0, 0, 0], [0, 0, 1, 0]]] * layers
    options = {"initial": "constant_fan_in", "sparsity": 5 / 8, "exclude": exclude, "precondition": SparseOpt()}
    topology = updated(SRigL(1.0), 0.5, weights, masks, GRADS * layers, **options)
    assert flat(topology)[0] == expected
    assert SparseOpt().scales(topology)[WEIGHT].flatten().tolist() == factors


def test_only_a_method_that_takes_neurons_away_leaves_them_out_of_the_mean():
    """RigL from a constant fan-in may empty a neuron too: it stays one of its layer, in Eq. 12 and in rankings."""
    topology, optimizer = prepared(EIGHT, MASKS, GRADS, initial="constant_fan_in", precondition=SparseOpt())
    Updater(topology, optimizer, RigL(), 100)
    topology.replace(WEIGHT, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool())
    assert optimizer.corrections()[WEIGHT].flatten().tolist() == pytest.approx([2**0.5, 0.0])
    found = [lengths(topology.masks[WEIGHT], "sparseopt", ablates)[0].item() for ablates in (False, True)]
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
            topology.weights[WEIGHT].grad = torch.tensor([[0, 0, value, 4.0 * (step == 5)], [0] * 4])
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


@pytest.mark.parametrize(("method", "kept"), [(SNFS(), "momentum"), (Mean(RigL(), 3), "sums")])
def test_an_average_follows_the_model_to_another_device(method, kept):
    """A checkpoint is loaded on the CPU; the meta device stands for the GPU."""
    method.observe({"weight": torch.ones(2, 4)})
    method.observe({"weight": torch.ones(2, 4, device="meta", dtype=torch.bfloat16)})
    average = getattr(method, kept)["weight"]
    assert (average.device.type, average.dtype) == ("meta", torch.bfloat16)


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
        topology.weights[WEIGHT].grad = by * torch.tensor([[-9.0, 1, 2, -3], [1, 4, 2, -5]])
        updater.observe(step)
    updater.update(5)
    assert flat(topology) == ["11000011"]


# --- what all of them promise ---


@pytest.fixture
def made(small_net, compose_config):
    """Model, optimizer and updater of a method as its file in conf/ puts it together, attached."""

    def composed(method, options=(), **slots):
        cfg = compose_config(f"dst={method}", "sparsity=0.8", "update_every=4", "drop_fraction=0.3", *options)
        model = small_net()
        topology = instantiate(cfg.topology)(model)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=5e-4, **slots)
        return model, optimizer, instantiate(cfg.dst)(topology, optimizer, total_steps=32, seed=0).attach()

    return composed


def require_sound(topology, optimizer, method):
    """What is masked is 0, and the numbers of weights are those of the masks."""
    for name, mask in topology.masks.items():
        momentum = optimizer.state[topology.weights[name]].get("momentum_buffer", torch.zeros(()))
        assert (topology.weights[name][~mask] == 0).all()
        assert (momentum.expand_as(mask)[~mask] == 0).all()
        assert topology.counts[name] == int(mask.sum()), "known without a look at the mask"
        assert topology.counts[name] == topology.targets[name] or not method.keeps_counts


MEAN = [
    "dst.method.method._target_=sparse_train.sparsity.methods.mean.Mean",
    "+dst.method.method.batches=3",
    "+dst.method.method.method={_target_: sparse_train.sparsity.methods.rigl.RigL}",
]


@pytest.mark.parametrize("method", ["dsr", "gmp", "granet", "mest", "snfs", "srigl", "rigl mean"])
def test_counts_follow_the_budget_and_a_restart_goes_on_the_same(method, made, batch):
    """Broken off between two updates and within the window of an average; what is not saved would be seen."""
    how = (method.split()[0], MEAN if "mean" in method else [])
    model, optimizer, updater = made(*how, precondition=SparseOpt())
    topology, first, totals = updater.topology, dict(updater.topology.masks), []
    for step in range(32):
        take_step(model, optimizer, batch(step))
        require_sound(topology, optimizer, updater.method)
        totals.append(sum(topology.counts.values()))
        if step == 10:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file := io.BytesIO())
    assert not same(topology.masks.values(), first.values())
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
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, other, resumed = made(*how, precondition=SparseOpt())
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    train(again, other, batch, range(11, 32))
    assert same(model.state_dict().values(), again.state_dict().values())
    assert same(topology.masks.values(), resumed.topology.masks.values())


@pytest.mark.parametrize("ablation", [0.3, 1.0])
def test_sparseopt_changes_nothing_where_the_fan_in_is_constant(ablation, made, batch):
    """To the bit, also where neurons are taken away: SRigL is the control."""

    def trained(**slots):
        model, optimizer, updater = made("srigl", [f"dst.method.ablation={ablation}"], **slots)
        train(model, optimizer, batch, range(32))
        masks = updater.topology.masks.values()
        dead = sum(int((mask.flatten(1).sum(1) == 0).sum()) for mask in masks)
        return [*model.state_dict().values(), *masks], dead

    (plain, dead), (corrected, _) = trained(), trained(precondition=SparseOpt())
    assert same(plain, corrected)
    assert (dead > 0) == (ablation == 1.0)


def test_neurons_that_srigl_took_away_do_not_count_from_the_first_step():
    """Given masks may have them; a step before the first update corrects as one after a restart."""
    weight = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        weight.weight[0] = 0.0
        weight.weight[1, :4] = 0.0
    topology = Topology(weight, 0.375, include=["weight"], initial="nonzero")
    optimizer = SparseSGD(weight.parameters(), topology, lr=0.1, precondition=SparseOpt())
    Updater(topology, optimizer, SRigL(), 100)
    kept = torch.tensor([0.5, 1.0, 1.0])  # the share of inputs of each neuron that is there
    expected = torch.cat([torch.zeros(1), (kept / kept.mean()).sqrt()])
    torch.testing.assert_close(optimizer.corrections()["weight"].flatten(), expected)


def test_srigl_needs_a_weight_for_each_neuron():
    """Else the fan-in is 0, and the layer has no weight after an update."""
    topology, optimizer = prepared([torch.rand(8, 4)], sparsity=0.8, initial="magnitude")
    with pytest.raises(
        ConfigError, match=f"sparsity=0.8.*: leaves 6 weights of {WEIGHT} to 8 neurons: SRigL needs one"
    ):
        Updater(topology, optimizer, SRigL(), 100)


@pytest.mark.parametrize("wrap", [lambda method: method, Ranked, lambda method: Mean(method, 2)])
def test_the_state_of_a_method_is_saved_and_needed(wrap):
    def made(method):
        topology, optimizer = prepared(EIGHT, MASKS, GRADS)
        Updater(topology, optimizer, wrap(method), 100, every=5)
        return optimizer

    again = DSR(0.25)
    optimizer = made(again)
    optimizer.load_state_dict(made(DSR(0.5)).state_dict())
    assert again.threshold == 0.5
    _, plain = prepared(EIGHT, MASKS, GRADS)
    with pytest.raises(ValueError, match="was saved without the state of (DSR|Mean), so it cannot resume"):
        optimizer.load_state_dict(plain.state_dict())


# --- methods of one's own, and what does not fit ---


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
        (Ranked(SRigL()), "random", "topology.initial=random: must be constant_fan_in"),
        (Unsaid(), "dense", "method=Unsaid: must have left.first, target, progress., since it begins"),
        (HalfSaved(), "random", "method=HalfSaved: must have both state_dict and load_state_dict"),
        (Unseeing(), "random", "method=Unseeing: must have observe, and say by `observed`"),
        (RigL, "random", r"method=<class .*RigL'>: must be a sparsity.method.Method, such as RigL\(\)"),
    ],
)
def test_a_method_that_does_not_fit_is_refused(method, initial, message):
    topology, optimizer = prepared(initial=initial)
    with pytest.raises(ConfigError, match=message):
        Updater(topology, optimizer, method, 200)


@pytest.mark.parametrize(
    ("plan", "keeps", "message"),
    [
        ({WEIGHT: (2, 1)}, True, "grow as many as it drops, since it keeps_counts, in whole numbers"),
        ({WEIGHT: (5, 5)}, True, "must drop at most 4 weights of layers.0.weight and grow"),
        ({WEIGHT: (1.0, 1.0)}, True, "in whole numbers, not drop 1.0 and grow 1.0"),
        ({WEIGHT: (1, 6)}, False, "grow 4 more than it drops, .*, not drop 1 and grow 6"),
        ({WEIGHT: (-1, 0)}, False, "not drop -1 and grow 0"),
        ({"layer": (1, 1)}, True, "must drop at most 0 weights of layer and"),
    ],
)
def test_counts_that_a_layer_cannot_follow_are_refused(plan, keeps, message):
    Planned = type("Planned", (RigL,), {"keeps_counts": keeps, "counts": lambda self, layers: plan})  # noqa: N806
    topology, optimizer = prepared(EIGHT, MASKS, GRADS)
    with pytest.raises(ConfigError, match=f"^method=Planned: .*{message}"):
        Updater(topology, optimizer, Planned(), 100, every=5).update(5)
    assert flat(topology) == ["11001010"], "masks are as they were"


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
