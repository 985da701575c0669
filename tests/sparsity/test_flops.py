"""FLOPs by weight, against torch's own count and the numbers of papers."""

import contextlib
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules import module
from torch.utils.flop_counter import FlopCounterMode

from sparse_train.models.imagenet import timm_model
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.sparsity.flops import layer_flops, relative_flops
from sparse_train.sparsity.layers import sparse_parameters
from sparse_train.sparsity.topology import Topology


def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2), torch.zeros(1, 5, 32)


def images(make, size):
    with torch.device("meta"):  # shapes alone
        return make(), torch.zeros(1, 3, size, size)


def of_timm(name, size, **options):
    return partial(images, partial(timm.create_model, name, **options), size)


ONE = {"depths": (1, 1, 1, 1)}
MODELS = {
    "convnext": of_timm("convnext_atto", 64, **ONE),
    "efficientnet": of_timm("efficientnet_b0", 64),
    "mixer": of_timm("mixer_s32_224", 224),
    "beit": of_timm("beit_base_patch16_224", 224, depth=1),
    "eva": of_timm("eva02_tiny_patch14_224", 224, depth=1),
    "swin": of_timm("swinv2_tiny_window8_256", 256, **ONE),
    "cait": of_timm("cait_xxs24_224", 224, depth=1),
    "encoder": encoder,
    "torchvision's vit_b_16": partial(images, torchvision.models.vit_b_16, 224),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_every_product_by_a_weight_is_counted_for_it(name):
    """torch's counter has the same total, and products of activations, such as attention's, besides."""
    model, example = MODELS[name]()
    flops = layer_flops(model, example)
    assert set(sparse_parameters(model, [], [])) <= set(flops)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(example)
    by_operation = counter.get_flop_counts()["Global"]
    of_activations = sum(n for op, n in by_operation.items() if "bmm" in str(op) or "attention" in str(op))
    assert sum(flops.values()) + of_activations == counter.get_total_flops()


def test_a_weight_that_two_layers_share_has_the_products_of_both():
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    assert layer_flops(nn.Sequential(first, nn.ReLU(), second), torch.zeros(1, 8)) == {"0.weight": 2 * 2 * 64}


def test_flops_by_hand():
    model = ResNet20(10, in_channels=3)
    flops = layer_flops(model, torch.zeros(1, 3, 32, 32))
    assert len(flops) == 22
    assert flops["conv1.weight"] == 2 * 3 * 16 * 9 * 32 * 32
    assert flops["layer2.0.conv1.weight"] == 2 * 16 * 32 * 9 * 16 * 16
    assert flops["fc.weight"] == 2 * 64 * 10


def test_relative_flops_in_rigls_convention():
    flops, densities = {"a": 100, "b": 300}, {"a": 0.5, "b": 0.1}
    static = relative_flops(flops, densities)
    assert static["inference_ratio"] == pytest.approx(80 / 400)
    assert static["training_ratio"] == pytest.approx(80 / 400)
    # a dense gradient every 101st step: (3 f_S * 100 + 2 f_S + f_D) / 101
    rigl = relative_flops(flops, densities, 1 / 101)
    assert rigl["training_ratio"] == pytest.approx((3 * 80 * 100 + 2 * 80 + 400) / 101 / 1200)
    assert relative_flops(flops, {"a": 0.5})["inference_sparse"] == 350
    with pytest.warns(UserWarning, match=r"^c: no FLOPs of these sparse weights were seen"):
        assert relative_flops(flops, densities | {"c": 0.5})["inference_ratio"] == pytest.approx(80 / 400)
    assert relative_flops({}, {})["training_ratio"] is None


def test_resnet50_at_90_percent_costs_what_the_rigl_paper_says():
    """Evci et al. 2020, Table 2: RigL with ERK at 90% sparsity needs 0.24 of the dense inference FLOPs."""
    model, example = images(partial(timm_model, 1000, 3), 224)
    flops = layer_flops(model, example)
    assert len(flops) == 54
    topology = Topology(model, 0.9)
    densities = {name: count / topology.masks[name].numel() for name, count in topology.counts.items()}
    ratio = relative_flops(flops, densities)["inference_ratio"]
    assert ratio == pytest.approx(0.24, abs=0.01)


@pytest.mark.parametrize("channels", [3, 1])
def test_counting_flops_leaves_nothing_behind(channels):
    """Modes and statistics stay, also where the forward pass fails. A hook on all modules would keep what each later
    training step computes.
    """
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)).train()
    model[1].eval()
    hooks = module._global_forward_hooks, module._global_forward_pre_hooks
    before = [len(kind) for kind in hooks]
    with contextlib.suppress(RuntimeError):
        layer_flops(model, torch.zeros(1, channels, 8, 8))
    assert [each.training for each in model.modules()] == [True, True, False, True]
    assert model[2].num_batches_tracked == 0
    assert [len(kind) for kind in hooks] == before
