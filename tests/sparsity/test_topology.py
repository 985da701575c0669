import warnings

import pytest
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrizations import orthogonal, weight_norm
from torch.optim.swa_utils import AveragedModel

from sparse_train.errors import ConfigError
from sparse_train.models.imagenet import timm_model
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.optim.sparseopt import SparseOpt
from sparse_train.record.export import export
from sparse_train.sparsity.masks import drop, grow, random_mask
from sparse_train.sparsity.topology import Topology


def test_masks_cover_every_weight_and_zero_what_they_hide(small_net):
    model = small_net()
    topology = Topology(model, 0.5)
    assert list(topology.masks) == ["conv1.weight", "conv2.weight", "fc.weight"]
    for name, mask in topology.masks.items():
        assert mask.dtype == torch.bool
        assert mask.shape == model.get_parameter(name).shape
        assert (model.get_parameter(name)[~mask] == 0).all()
        assert (model.get_parameter(name)[mask] != 0).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("distribution", ["erk", "uniform"])
def test_the_total_is_met_to_the_weight(sparsity, distribution):
    topology = Topology(ResNet20(10), sparsity, distribution)
    total = sum(mask.numel() for mask in topology.masks.values())
    assert sum(int(mask.sum()) for mask in topology.masks.values()) == round((1 - sparsity) * total)
    assert topology.sparsity() == pytest.approx(sparsity, abs=1 / total)


def test_masks_follow_the_seed_and_the_layer_only(small_net):
    def masks(seed, ambient):
        model = small_net()
        torch.manual_seed(ambient)
        return Topology(model, 0.95, seed=seed).masks

    first, again, other = masks(1, ambient=0), masks(1, ambient=123), masks(2, ambient=0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_layers_of_one_shape_have_masks_of_their_own():
    model = nn.Sequential(*(nn.Linear(20, 20, bias=False) for _ in range(3)))
    first, second, third = Topology(model, 0.5).masks.values()
    for a, b in ((first, second), (second, third), (first, third)):
        assert int(a.sum()) == int(b.sum()) == 200
        assert 70 < int((a & b).sum()) < 130  # independent: 100 in common, standard deviation 5


def test_excluded_weights_stay_dense(small_net):
    topology = Topology(small_net(), 0.9, exclude=["fc.*"])
    assert list(topology.masks) == ["conv1.weight", "conv2.weight"]
    assert topology.sparsity() == pytest.approx(0.9, abs=0.005)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"sparsity": 0.5, "distribution": "erdos"}, "distribution=erdos: must be one of erk, uniform"),
        ({"sparsity": 0.5, "exclude": ["conv9"]}, "exclude=conv9: matches no weight of the model; there are conv1"),
        ({"sparsity": 0.5, "exclude": ["*"]}, "leaves no sparse layer"),
        ({"sparsity": 0.999}, "leaves no weight in"),
    ],
)
def test_what_cannot_work_is_named(small_net, arguments, message):
    with pytest.raises(ConfigError) as caught:
        Topology(small_net(), **arguments)
    assert message in str(caught.value)


def test_a_model_without_weights_is_refused():
    with pytest.raises(ConfigError, match="leaves no sparse layer"):
        Topology(nn.BatchNorm2d(4), 0.5)


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
    old = topology.masks["fc.weight"]
    topology.replace("fc.weight", ~old)
    assert topology.itop_rate() == (active + int((~old).sum())) / total
    topology.replace("fc.weight", old)  # a step back explores nothing new
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
    assert all(torch.equal(first.masks[name], second.masks[name]) for name in first.masks)
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
        (
            nn.Sequential(orthogonal(nn.Linear(8, 8)), nn.Linear(8, 4)),
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
    assert "conv1.weight" not in Topology(timm_model(10, 3), 0.9, exclude=["first_conv", "fc.*"]).masks
    with pytest.raises(ConfigError, match="exclude=first_conv: matches no weight"):
        Topology(nn.Linear(8, 8), 0.5, exclude="first_conv")


@pytest.mark.parametrize("wrap", [torch.compile, AveragedModel, nn.DataParallel, ModelEmaV3])
def test_a_wrapped_model_has_the_names_and_masks_of_the_bare_one(wrap, small_net):
    bare, wrapped = Topology(small_net(), 0.5), Topology(wrap(small_net()), 0.5)
    bare.example = wrapped.example = torch.zeros(1, 3, 6, 6)
    assert wrapped.normalized == bare.normalized == ["conv1.weight", "conv2.weight"]
    assert all(torch.equal(wrapped.masks[name], mask) for name, mask in bare.masks.items())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Linear(4, 4, dtype=torch.complex64),
            "model=weight: is torch.complex64; masks need real weights; exclude it",
        ),
        (nn.LazyLinear(4), "model=weight: has no shape yet; run a batch through the model first"),
    ],
)
def test_weights_that_cannot_be_masked_are_named(layer, message):
    with pytest.raises(ConfigError) as caught:
        Topology(layer, 0.5)
    assert str(caught.value) == message


@pytest.mark.parametrize("shapes_alone", [FakeTensorMode, lambda: torch.device("meta")], ids=["fake", "meta"])
def test_a_topology_of_shapes_alone_reads_no_weight(shapes_alone):
    with shapes_alone():
        assert sum(Topology(nn.Linear(20, 10), 0.9).counts.values()) == 20


@pytest.mark.parametrize("average", [AveragedModel, ModelEmaV3])
def test_an_average_of_weights_is_sparse_after_apply_to(average, small_net, tmp_path):
    model = small_net()
    topology = Topology(model, 0.8)
    ema = average(model)

    def update():
        ema.update_parameters(model) if average is AveragedModel else ema.update(model, step=100)

    update()
    for name, mask in list(topology.masks.items()):
        topology.replace(name, mask.flip(0))
        with torch.no_grad():
            topology.weights[name].add_(topology.masks[name])

    def density():
        weights = [ema.module.get_parameter(name) for name in topology.masks]
        return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)

    update()
    assert density() > 0.27
    topology.apply_to(ema)
    assert density() == pytest.approx(1 - topology.sparsity(), abs=1e-9)
    update()
    export(ema.module, topology, tmp_path)
    masks, weights = (load_file(tmp_path / f"{name}.safetensors") for name in ("masks", "model"))
    assert not any(weights[name][~mask].any() for name, mask in masks.items())
    with pytest.raises(ConfigError, match=r"model=Linear: has no conv1.weight of shape \(8, 3, 3, 3\)"):
        topology.apply_to(nn.Linear(3, 3))


def test_random_masks_have_exact_counts_and_no_favourites():
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([random_mask((4, 5), 7, generator) for _ in range(4000)])
    assert (masks.flatten(1).sum(1) == 7).all()
    share = masks.float().mean(0)  # standard error 0.0075
    assert (share - 7 / 20).abs().max() < 0.035


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


@pytest.mark.parametrize(
    ("sparsity", "densities", "said"),
    [
        (0.9, {"*": 0.1}, "sparsity=0.9: must be null where distribution has densities"),
        (None, "erk", "sparsity=None: must be a number"),
        (None, {"fc.*": 0.1}, "gives no density to conv1.weight"),
        (None, {"head.*": 0.1, "*": 0.1}, "distribution=head.*: matches no sparse weight"),
        (None, {"*": 0.1, "fc.*": 1.0}, "distribution=fc.*: matches only weights that an earlier pattern takes"),
        (None, {"*": 0.0}, r"distribution.*=0.0: must be a density"),
        (None, {"*": 1e-4}, "leaves no weight in"),
    ],
)
def test_densities_that_cannot_be_met_are_refused(sparsity, densities, said):
    with pytest.raises(ConfigError) as caught:
        Topology(ResNet20(10), sparsity, densities)
    assert said in str(caught.value)
