import itertools
import warnings
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel

from sparse_train.errors import ConfigError
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.optim.sparseopt import SparseOpt
from sparse_train.record.export import export
from sparse_train.sparsity.masks import drop, grow
from sparse_train.sparsity.topology import Topology
from support.steps import same

SMALL = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))


def densities(distribution, sparsity=None):
    return {"sparsity": sparsity, "distribution": distribution}


def test_masks_cover_every_weight_and_zero_what_they_hide(small_net):
    model = small_net()
    topology = Topology(model, 0.5)
    assert list(topology.masks) == ["conv1.weight", "conv2.weight", "fc.weight"]
    for name, mask in topology.masks.items():
        assert mask.dtype == torch.bool
        assert torch.equal(model.get_parameter(name) != 0, mask)


@pytest.mark.parametrize(("sparsity", "distribution"), [(0.0, "erk"), (0.5, "uniform"), (0.97, "erk")])
def test_the_total_is_met_to_the_weight(sparsity, distribution):
    topology = Topology(ResNet20(10), sparsity, distribution)
    total = sum(mask.numel() for mask in topology.masks.values())
    assert sum(int(mask.sum()) for mask in topology.masks.values()) == round((1 - sparsity) * total)
    assert topology.sparsity() == pytest.approx(sparsity, abs=1 / total)


def test_masks_follow_the_seed_and_the_layer_only_and_are_independent():
    def masks(seed, ambient):
        model = nn.Sequential(*(nn.Linear(20, 20, bias=False) for _ in range(3)))
        torch.manual_seed(ambient)
        return list(Topology(model, 0.5, seed=seed).masks.values())

    first, again, other = masks(1, ambient=0), masks(1, ambient=123), masks(2, ambient=0)
    assert same(first, again)
    for a, b in itertools.combinations([*first, *other], 2):
        assert 70 < int((a & b).sum()) < 130  # 100 in common, standard deviation 5
    seen = torch.stack([mask for seed in range(60) for mask in masks(seed, 0)]).float()
    assert (seen.mean(0) - 0.5).abs().max() < 0.2, "no favourites: the standard error is 0.037"


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (SMALL, {"sparsity": 1.0}, "sparsity=1.0"),
        (SMALL, {"sparsity": 0.5, "distribution": "erdos"}, "distribution=erdos: must be one of erk, uniform"),
        (SMALL, {"sparsity": 0.5, "exclude": ["2"]}, "exclude=2: matches no weight of the model; there are 0.weight"),
        (SMALL, {"sparsity": 0.5, "exclude": "first_conv"}, "exclude=first_conv: matches no weight"),
        (SMALL, {"sparsity": 0.5, "exclude": ["*"]}, "leaves no sparse layer"),
        (nn.BatchNorm2d(4), {"sparsity": 0.5}, "leaves no sparse layer"),
        (SMALL, {"sparsity": 0.999}, "leaves no weight in"),
        (SMALL, densities({"*": 0.1}, 0.9), "sparsity=0.9: must be null where distribution has densities"),
        (SMALL, densities("erk"), "sparsity=None: must be a number"),
        (SMALL, densities({"1.*": 0.1}), "gives no density to 0.weight"),
        (SMALL, densities({"head.*": 0.1, "*": 0.1}), "distribution=head.*: matches no sparse weight"),
        (SMALL, densities({"*": 0.1, "0.*": 1.0}), "0.*: matches only weights that an earlier pattern takes"),
        (SMALL, densities({"*": 0.0}), "=0.0: must be a density"),
        (
            nn.Linear(4, 4, dtype=torch.complex64),
            {"sparsity": 0.5},
            "model=weight: is torch.complex64; masks need real",
        ),
        (nn.LazyLinear(4), {"sparsity": 0.5}, "model=weight: has no shape yet; run a batch through the model first"),
    ],
)
def test_what_cannot_work_is_named(model, arguments, message):
    with pytest.raises(ConfigError) as caught:
        Topology(model, **arguments)
    assert message in str(caught.value)


def test_masks_have_the_layout_of_their_weights():
    model = ResNet20(10).to(memory_format=torch.channels_last)
    topology = Topology(model, 0.9)
    contiguous = Topology(ResNet20(10), 0.9)
    for name, mask in topology.masks.items():
        assert mask.stride() == topology.weights[name].stride()
        assert torch.equal(mask, contiguous.masks[name])


def test_itop_counts_what_was_ever_active(small_net):
    topology = Topology(small_net(), 0.5)
    total = sum(mask.numel() for mask in topology.masks.values())
    active = sum(topology.counts.values())
    assert topology.itop_rate() == active / total
    old = topology.masks["conv2.weight"]
    topology.replace("conv2.weight", ~old)
    assert topology.itop_rate() == (active + int((~old).sum())) / total
    topology.replace("conv2.weight", old)  # a step back explores nothing new
    assert topology.itop_rate() == (active + int((~old).sum())) / total


def test_a_dense_layer_counts_as_explored():
    model = nn.Sequential(nn.Linear(2, 8, bias=False), nn.Linear(20, 10, bias=False))
    topology = Topology(model, 0.2)
    assert topology.masks["0.weight"].all()
    assert topology.itop_rate() == pytest.approx(0.8, abs=0.003)


def test_state_goes_to_another_topology_and_back(small_net):
    first, second = Topology(small_net(), 0.5, seed=1), Topology(small_net(), 0.5, seed=2)
    first.replace("fc.weight", ~first.masks["fc.weight"])
    second.load_state_dict(first.state_dict())
    assert same(first.masks.values(), second.masks.values())
    assert second.itop_rate() == first.itop_rate()
    assert all((second.weights[name][~mask] == 0).all() for name, mask in second.masks.items())
    with pytest.raises(ValueError, match="other sparse tensors"):
        Topology(small_net(), 0.5, exclude=["fc.weight"]).load_state_dict(first.state_dict())


# --- which tensors ---


class Vision(nn.Module):
    """What attention models have besides linear layers."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.ones(1, 5, 8))
        self.patch = nn.Conv2d(3, 8, 2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 4)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.tokens, self.out = nn.Linear(8, 8), nn.Embedding(20, 8), nn.Linear(8, 20)
        self.out.weight = self.tokens.weight


class Named(nn.Module):
    """With an attribute that wrappers use."""

    def __init__(self):
        super().__init__()
        self.module, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.weight = nn.Parameter(torch.ones(8, 6))


@pytest.mark.parametrize(
    ("model", "sparse", "warned"),
    [
        (Vision(), ["patch.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"], ""),
        (nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4)), ["1.weight"], ""),
        (Tied(), ["hidden.weight"], ""),
        (
            nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.Conv2d(8, 8, 3)),
            ["1.weight"],
            "0.weight: are not the",
        ),
        (
            nn.Sequential(weight_norm(nn.Linear(8, 8)), nn.Linear(8, 4)),
            ["1.weight"],
            "0.parametrizations.",
        ),
        (Named(), ["module.weight", "head.weight"], "weight: are not the"),
    ],
    ids=lambda value: type(value[0] if isinstance(value, nn.Sequential) else value).__name__,
)
def test_what_is_sparse_goes_by_the_layer(model, sparse, warned):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        topology = Topology(model, 0.5, "uniform")
    assert [str(one.message)[: len(warned)] for one in told] == ([warned] if warned else [])
    assert list(topology.masks) == sparse
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (name not in sparse)


def test_others_are_sparse_if_they_are_named():
    model = nn.Sequential(nn.Embedding(20, 8), nn.ConvTranspose1d(4, 4, 3), nn.Linear(8, 4))
    topology = Topology(model, 0.5, include=["0.weight", "1.*"])
    assert list(topology.masks) == ["0.weight", "1.weight", "2.weight"]
    assert list(SparseOpt().scales(topology)) == ["2.weight"], "their rows are no neurons"
    with pytest.raises(ConfigError, match="layers=.*0.weight.*there are 2.weight, which have neurons"):
        SparseOpt(layers=["0.weight"]).scales(topology)


def test_rows_of_a_layer_that_is_not_torchs_are_taken_for_neurons_with_a_warning():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4))

    model = nn.Sequential(Mixing(), nn.Linear(4, 4), nn.LSTM(4, 4))
    with pytest.warns(UserWarning, match=r"^0\.weight: are weights .* SparseOpt and constant fan-in take each row"):
        Topology(model, 0.5, include=["0.weight", "2.weight_*"])


def test_the_first_convolution_by_one_word():
    assert next(iter(Topology(ResNet20(10), 0.9).masks)) == "conv1.weight"
    assert next(iter(Topology(ResNet20(10), 0.9, exclude="first_conv").masks)) == "layer1.0.conv1.weight"
    topology = Topology(ResNet20(10), 0.9, exclude=["first_conv", "fc.*"])
    assert not {"conv1.weight", "fc.weight"} & set(topology.masks)
    assert topology.sparsity() == pytest.approx(0.9, abs=1e-4), "of the others"


def test_a_pattern_may_leave_out_a_part_that_has_no_weights():
    """CIFAR-100's reading of ResNet20, whose shortcuts are convolutions, or have no weights."""
    dense = ["*.shortcut.*"]
    assert not [name for name in Topology(ResNet20(10), 0.9, exclude=dense).masks if "shortcut" in name]
    padded = ResNet20(10, shortcut="pad")
    assert Topology(padded, 0.9, exclude=dense).masks.keys() == Topology(ResNet20(10, shortcut="pad"), 0.9).masks.keys()
    with pytest.raises(ConfigError, match="matches no weight"):
        Topology(ResNet20(10, shortcut="pad"), 0.9, include=dense)
    with pytest.raises(ConfigError, match="matches no weight"):
        Topology(ResNet20(10), 0.9, exclude=["*.shortcuts.*"])


@pytest.mark.parametrize("wrap", [torch.compile, AveragedModel, nn.DataParallel])
def test_a_wrapped_model_has_the_names_and_masks_of_the_bare_one(wrap, small_net):
    bare, wrapped = Topology(small_net(), 0.5), Topology(wrap(small_net()), 0.5)
    bare.example = wrapped.example = torch.zeros(1, 3, 6, 6)
    assert wrapped.normalized == bare.normalized == ["conv1.weight", "conv2.weight"]
    assert all(torch.equal(wrapped.masks[name], mask) for name, mask in bare.masks.items())


@pytest.mark.parametrize("shapes_alone", [FakeTensorMode, lambda: torch.device("meta")], ids=["fake", "meta"])
def test_a_topology_of_shapes_alone_reads_no_weight(shapes_alone):
    with shapes_alone():
        assert sum(Topology(nn.Linear(20, 10), 0.9).counts.values()) == 20


@pytest.mark.parametrize("average", [AveragedModel, ModelEmaV3])
def test_an_average_of_weights_is_sparse_after_apply_to(average, small_net, tmp_path):
    model = small_net()
    topology = Topology(model, 0.8)
    ema = average(model)
    update = ema.update_parameters if average is AveragedModel else partial(ema.update, step=100)
    update(model)
    for name, mask in list(topology.masks.items()):
        topology.replace(name, mask.flip(0))
        with torch.no_grad():
            topology.weights[name].add_(topology.masks[name])

    def off():
        return [name for name, mask in topology.masks.items() if ema.module.get_parameter(name)[~mask].any()]

    update(model)
    assert "conv2.weight" in off()
    topology.apply_to(ema)
    assert not off()
    update(model)
    export(ema.module, topology, tmp_path)
    masks, weights = (load_file(tmp_path / f"{name}.safetensors") for name in ("masks", "model"))
    assert not any(weights[name][~mask].any() for name, mask in masks.items())
    with pytest.raises(ConfigError, match=r"model=Linear: has no conv1.weight of shape \(8, 3, 3, 3\)"):
        topology.apply_to(nn.Linear(3, 3))


def test_drop_and_grow_take_what_the_scores_say():
    mask = torch.tensor([1, 1, 0, 1, 0, 1, 0, 0], dtype=torch.bool)
    score = torch.tensor([0.5, 0.1, 9.0, 0.3, 0.0, 0.2, 4.0, 7.0])
    assert drop(mask, score, 2).int().tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    assert grow(mask, score, 2).int().tolist() == [1, 1, 1, 1, 0, 1, 0, 1]
    assert torch.equal(drop(mask, score, 0), mask)
    assert grow(mask, score, 4).all()
    assert not drop(mask, score, 4).any()


def test_densities_of_ones_own():
    topology = Topology(ResNet20(10), None, {"fc.*": 1.0, "layer3.*": 0.05, "*": 0.2})
    for name, density in topology.densities().items():
        wanted = 1.0 if name == "fc.weight" else 0.05 if name.startswith("layer3") else 0.2
        assert abs(density - wanted) * topology.masks[name].numel() < 1, name
