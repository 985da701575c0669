from functools import wraps

import pytest
import torch
import torch.nn.functional as F

from sparse_train.errors import ConfigError
from sparse_train.models.imagenet import timm_model
from sparse_train.models.init import kaiming_normal, lecun_normal, own_fan_in
from sparse_train.models.mlp import MLP
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.models.wide_resnet import PreActivation, WideResNet
from sparse_train.process.distributed import Ranks
from sparse_train.sparsity.topology import Topology
from sparse_train.train.build import build
from support.steps import same_parameters


def weights(model):
    return sum(p.numel() for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("shortcut", "expected"),
    [("conv3x3", 297_136), ("conv1x1", 297_136 - (16 * 32 + 32 * 64) * 8), ("pad", 297_136 - (16 * 32 + 32 * 64) * 9)],
)
def test_resnet20_and_its_width(shortcut, expected):
    model = ResNet20(100, shortcut=shortcut)
    assert weights(model) == expected
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 100)
    assert ResNet20(10, width=2, shortcut=shortcut).fc.in_features == 128
    with pytest.raises(ConfigError, match="width=0"):
        ResNet20(10, width=0)


def resnet20_by_hand(state, x, shortcut):
    """The network written down once more: He et al. 2016, Section 4.2, in inference."""

    def conv(x, name, stride=1, padding=1):
        return F.conv2d(x, state[f"{name}.weight"], None, stride, padding)

    def norm(x, name):
        mean, var, gamma, beta = (
            state[f"{name}.{key}"].view(-1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gamma + beta

    x = norm(conv(x, "conv1"), "bn1").relu()
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2")
            if stride == 2 and shortcut == "pad":
                x = x[:, :, ::2, ::2]
                nothing = torch.zeros_like(x[:, ::2])
                x = torch.cat([nothing, x, nothing], 1)
            elif stride == 2:
                padding = {"conv3x3": 1, "conv1x1": 0}[shortcut]
                x = norm(conv(x, f"{name}.shortcut.0", 2, padding), f"{name}.shortcut.1")
            x = (y + x).relu()
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("shortcut", ["conv3x3", "conv1x1", "pad"])
def test_resnet20_computes_what_he_et_al_wrote(shortcut):
    model = ResNet20(7, in_channels=2, width=0.5, shortcut=shortcut).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.ndim == 1:  # normalization that does something, and variances above 0
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif value.ndim > 1:
                scale = (2 / value[0].numel()) ** 0.5
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
            assert value.ndim > 0 or name.endswith("num_batches_tracked")
        images = torch.randn(3, 2, 9, 12, generator=generator, dtype=torch.float64)
        expected = resnet20_by_hand(model.state_dict(), images, shortcut)
        assert expected.std() > 0.1
        torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


def test_mlp():
    model = MLP(10, 1, 28, hidden=[64])
    assert [tuple(p.shape) for p in model.parameters() if p.ndim > 1] == [(64, 784), (10, 64)]
    assert model(torch.randn(3, 1, 28, 28)).shape == (3, 10)
    assert sum(isinstance(m, torch.nn.BatchNorm1d) for m in MLP(10, 1, 8, [16, 8], "none").modules()) == 0


def test_resnet50_is_timms_with_the_stride_in_the_3x3_convolution():
    with torch.device("meta"):
        model = timm_model(1000, 3)
    assert weights(model) == 25_502_912
    assert model.layer2[0].conv1.stride == (1, 1)
    assert model.layer2[0].conv2.stride == (2, 2)
    for zero in (False, True):
        small = timm_model(10, 3, "resnet10t", zero_init_last=zero)
        assert (small.layer1[0].bn2.weight == (not zero)).all()


@pytest.mark.parametrize("name", ["vgg11_bn", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_any_classifier_of_timms_takes_the_data_sets_classes_channels_and_size(name):
    with torch.device("meta"):
        model = timm_model(10, 1, name, image_size=32)
        assert model(torch.empty(2, 1, 32, 32)).shape == (2, 10)
        with pytest.raises(ConfigError, match=f"zero_init_last=True: timm's {name} has none"):
            timm_model(10, 1, name, zero_init_last=True)


SIZES = ("dataset.folder=imagenet", "dataset.image_size=32", "dataset.resize=32", "batch_size=4", "workers=0")


def of_folder(compose_config, image_folder, name, *words):
    places = ("dataset=imagefolder", f"data_dir={image_folder}", "model=timm", f"model.name={name}")
    return compose_config(*places, *SIZES, *words)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_they_train_sparsely(name, compose_config, image_folder):
    run = build(of_folder(compose_config, image_folder, name))
    assert run.topology.sparsity() == pytest.approx(0.9, abs=0.001)
    assert run.metadata["flops"]["inference_ratio"] < 0.7
    images, labels = next(iter(run.data.train.epoch(0)))
    before = {key: value.detach().clone() for key, value in run.topology.weights.items()}
    run.set_lr(100)
    run.loss(images, labels)[0].backward()
    run.optimizer.step()
    moved = [(weight != before[key]).any() for key, weight in run.topology.weights.items()]
    assert sum(moved) > len(moved) / 2
    assert all((weight[~run.topology.masks[key]] == 0).all() for key, weight in run.topology.weights.items())


def test_synchronized_normalization_keeps_what_a_model_computes(compose_config, image_folder, monkeypatch):
    """timm's `BatchNormAct2d` has the activation within."""
    monkeypatch.setattr("sparse_train.train.build.DistributedDataParallel", lambda model, **_: model)
    monkeypatch.setattr(Ranks, "require_same", lambda *_: None)
    monkeypatch.setattr(Ranks, "cpus", lambda _: 1)
    cfg = of_folder(compose_config, image_folder, "mobilenetv3_small_050", "sync_bn=true")
    images = torch.randn(2, 3, 32, 32)
    alone, first = build(cfg).model.eval(), build(cfg, Ranks(0, 2)).model.eval()
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in first.modules()) == 34
    assert torch.equal(alone(images), first(images))


def test_wide_resnets_have_the_sizes_of_their_paper():
    """Zagoruyko and Komodakis 2016, Table 5, in millions; WRN-28-10 to the parameter, as public code has it."""
    for depth, width, millions in ((40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)):
        with torch.device("meta"):
            model = WideResNet(10, depth=depth, width=width)
            assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
        count = sum(p.numel() for p in model.parameters())
        assert round(count / 1e6, 1) == millions
        assert sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) == depth, "three of them shortcuts"
    assert count == 36_479_194


def test_a_wide_residual_block_normalizes_before_its_convolutions():
    block = PreActivation(3, 5, 2).double().eval()
    x, state = torch.randn(2, 3, 8, 8, dtype=torch.float64), block.state_dict()

    def normalized(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys)).relu()

    with torch.no_grad():
        for key in ("bn1", "bn2"):
            state[f"{key}.running_mean"].uniform_(-1, 1)
            state[f"{key}.running_var"].uniform_(0.5, 2)
        y = normalized(x, "bn1")
        z = normalized(F.conv2d(y, state["conv1.weight"], None, 2, 1), "bn2")
        expected = F.conv2d(z, state["conv2.weight"], None, 1, 1) + F.conv2d(y, state["shortcut.weight"], None, 2)
        torch.testing.assert_close(block(x), expected)


def test_group_normalization_ties_the_scales_of_a_groups_neurons():
    """The control's point: a neuron's own scale is divided out by batch normalization, and not within a group."""
    images = torch.randn(8, 3, 12, 12, dtype=torch.float64)

    def change(scale_of, **options):
        torch.manual_seed(0)
        model = ResNet20(5, width=0.5, shortcut="pad", **options).double()
        before = model(images)
        with torch.no_grad():
            model.conv1.weight[scale_of] *= 3
        return (model(images) - before).abs().max().item()

    group = {"norm": "group", "groups": 4}  # of two of the first layer's eight neurons
    assert sum(isinstance(m, torch.nn.GroupNorm) for m in ResNet20(5, **group).modules()) == 21
    assert change([0]) < 1e-3
    assert change([0], **group) > 1e-2
    assert change([0, 1], **group) < 1e-3


@pytest.mark.parametrize(("init", "gain", "most"), [(kaiming_normal, 2, None), (lecun_normal, 1, 2 / 0.8796)])
def test_initial_weights_follow_their_fan_in_their_names_and_the_seed(init, gain, most):
    """Variance 2 / fan-in, or 1 / fan-in and cut at two deviations as flax has it."""
    first, again, other = ResNet20(10), ResNet20(10), ResNet20(10)
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        torch.manual_seed(hash(model) % 1000)
        init(model, seed)
    assert same_parameters(first, again)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    one, two = first.layer1[0].conv1.weight, first.layer1[0].conv2.weight
    assert abs(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1].item()) < 0.1, "of one shape"
    weight, std = first.layer3[2].conv2.weight, (gain / (64 * 9)) ** 0.5
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert weight.abs().max() > 2.2 * std
    assert most is None or weight.abs().max() <= most * std
    assert (first.fc.bias == 0).all()


def test_own_fan_in_gives_each_neuron_the_standard_deviation_of_its_own_fan_in():
    model = MLP(10, 1, 16, hidden=[400])
    topology = Topology(model, 0.5)
    name = "layers.1.weight"
    mask = torch.zeros(400, 256, dtype=torch.bool)
    mask[:200, :16], mask[200:, :128] = True, True
    topology.replace(name, mask)
    kaiming_normal(model, 0)
    topology.apply()
    own_fan_in(topology)
    weight = topology.weights[name].detach()
    assert weight[:200, :16].std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.05)  # 3,200 weights: 1.3%
    assert weight[200:, :128].std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)  # 25,600: 0.4%
    assert (weight[~mask] == 0).all()


def test_what_a_constructor_draws_follows_the_seed_alone(compose_config, monkeypatch):
    """`init` sets weights; other parameters keep what their constructor drew, such as this gain."""
    made = MLP.__init__

    @wraps(made)
    def with_gain(self, *args, **options):
        made(self, *args, **options)
        self.gain = torch.nn.Parameter(torch.randn(8))

    monkeypatch.setattr(MLP, "__init__", with_gain)

    def gain(seed):
        torch.rand(3)  # whatever came before in this process
        return build(compose_config("model=mlp", f"seed={seed}")).model.gain

    assert torch.equal(gain(0), gain(0))
    assert not torch.equal(gain(0), gain(1))


def test_densities_by_pattern_may_stand_in_a_configuration(compose_config):
    cfg = compose_config("model=mlp", "topology.sparsity=null")
    cfg.topology.distribution = {"*": 0.25}
    densities = build(cfg).topology.densities().values()
    assert list(densities) == pytest.approx([0.25] * len(densities), abs=1e-3)
