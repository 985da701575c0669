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

FAMILIES = {
    "resnet10t": 64,
    "resnetv2_50": 64,
    "convnext_atto": 64,
    "efficientnet_b0": 64,
    "mixer_s32_224": 224,
    "beit_base_patch16_224": 224,
    "eva02_tiny_patch14_224": 224,
    "swinv2_tiny_window8_256": 256,
    "deit_tiny_patch16_224": 224,
    "pit_xs_224": 224,
    "cait_xxs24_224": 224,
}


def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2), torch.zeros(1, 5, 32)


def from_timm(name, size):
    with torch.device("meta"):  # shapes alone
        return timm.create_model(name), torch.zeros(1, 3, size, size)


def from_torchvision(make):
    with torch.device("meta"):
        return make(), torch.zeros(1, 3, 224, 224)


MODELS = {
    **{name: partial(from_timm, name, size) for name, size in FAMILIES.items()},
    "encoder": encoder,
    "torchvision's vit_b_16": partial(from_torchvision, torchvision.models.vit_b_16),
    "torchvision's swin_t": partial(from_torchvision, torchvision.models.swin_t),
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


def test_a_sparse_weight_that_was_not_seen_is_named():
    with pytest.warns(UserWarning, match=r"^b: no FLOPs of these sparse weights were seen"):
        assert relative_flops({"a": 100}, {"a": 0.5, "b": 0.5})["inference_ratio"] == 0.5
    assert relative_flops({}, {})["training_ratio"] is None


def test_flops_by_hand():
    model = ResNet20(10, in_channels=3)
    flops = layer_flops(model, torch.zeros(1, 3, 32, 32))
    assert len(flops) == 22
    assert flops["conv1.weight"] == 2 * 3 * 16 * 9 * 32 * 32
    assert flops["layer2.0.conv1.weight"] == 2 * 16 * 32 * 9 * 16 * 16
    assert flops["fc.weight"] == 2 * 64 * 10
    assert model.training
    assert all(m.num_batches_tracked == 0 for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_relative_flops_in_rigls_convention():
    flops, densities = {"a": 100, "b": 300}, {"a": 0.5, "b": 0.1}
    static = relative_flops(flops, densities)
    assert static["inference_ratio"] == pytest.approx(80 / 400)
    assert static["training_ratio"] == pytest.approx(80 / 400)
    # a dense gradient every 101st step: (3 f_S * 100 + 2 f_S + f_D) / 101
    rigl = relative_flops(flops, densities, 1 / 101)
    assert rigl["training_ratio"] == pytest.approx((3 * 80 * 100 + 2 * 80 + 400) / 101 / 1200)
    assert relative_flops(flops, {"a": 0.5})["inference_sparse"] == 350


def test_resnet50_at_90_percent_costs_what_the_rigl_paper_says():
    """Evci et al. 2020, Table 2: RigL with ERK at 90% sparsity needs 0.24 of the dense inference FLOPs."""
    model = timm_model(1000, 3)
    flops = layer_flops(model, torch.zeros(1, 3, 224, 224))
    assert len(flops) == 54
    ratio = relative_flops(flops, Topology(model, 0.9).densities())["inference_ratio"]
    assert ratio == pytest.approx(0.24, abs=0.01)


@pytest.mark.parametrize("channels", [3, 1])
def test_counting_flops_leaves_every_module_in_its_mode(channels):
    """A batch normalization that is kept in evaluation stays so, also where the forward pass fails."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    model[1].eval()
    with contextlib.suppress(RuntimeError):
        layer_flops(model, torch.zeros(1, channels, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_counting_flops_leaves_nothing_behind():
    """A hook on all modules would keep what each later training step computes."""
    before = [len(hooks) for hooks in (module._global_forward_hooks, module._global_forward_pre_hooks)]
    layer_flops(ResNet20(10, width=0.25), torch.zeros(1, 3, 8, 8))
    assert [len(hooks) for hooks in (module._global_forward_hooks, module._global_forward_pre_hooks)] == before
