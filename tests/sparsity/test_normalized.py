"""Which layers are normalized, held against what a factor on each layer's weight and bias does to the outputs."""

import copy
import pickle
from functools import partial

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import nn

from sparse_train.errors import ConfigError
from sparse_train.models.imagenet import timm_model
from sparse_train.models.mlp import MLP
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.models.wide_resnet import WideResNet
from sparse_train.optim.equal_angle import EqualAngle
from sparse_train.optim.sgd import SparseSGD
from sparse_train.sparsity.topology import Topology


def standardized() -> nn.Module:
    """A convolution that standardizes its own weight, and one that nothing normalizes."""
    return nn.Sequential(StdConv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(288, 4))


def of_timm(name, **options):
    return partial(timm.create_model, name, **options)


ONE = {"depths": (1, 1, 1, 1)}
FAMILIES = {  # model, image size, and how many of its layers are normalized
    "resnet20_group": (partial(ResNet20, 10, width=0.5, norm="group"), 8, 21),
    "wideresnet": (partial(WideResNet, 10, depth=16, width=0.25), 8, 7),
    "mlp": (partial(MLP, 10, 3, 8, (16, 16), "layer"), 8, 2),
    "resnetv2": (of_timm("resnetv2_50", layers=(1, 1), channels=(32, 64)), 16, 5),
    "convnext": (of_timm("convnext_atto", dims=(8, 16, 24, 32), **ONE), 32, 5),
    "swin": (of_timm("swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1)), 56, 1),
    "swinv2": (of_timm("swinv2_tiny_window8_256", img_size=64, embed_dim=24, depths=(1, 1), num_heads=(3, 3)), 64, 6),
    "cait": (of_timm("cait_xxs24_224", img_size=32, embed_dim=32, num_heads=2, depth=1), 32, 0),
    "mobilenetv3": (of_timm("mobilenetv3_small_050"), 32, 34),
    "standardized": (standardized, 8, 1),
}


@torch.no_grad()
def unmoved(model: nn.Module, names: list[str], images: torch.Tensor) -> list[str]:
    """The weights that can be doubled with their biases, where normalization sees no eps and the batch's statistics."""
    model = copy.deepcopy(model).double().eval()
    for module in model.modules():
        module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if isinstance(getattr(module, "eps", None), float):
            module.eps = 1e-30
    for p in model.parameters():
        p.add_(0.1 * torch.randn_like(p))
    found, outputs = [], model(images)
    for name in names:
        path, _, key = name.rpartition(".")
        bias = getattr(model.get_submodule(path), key.replace("weight", "bias"), None)
        layer = [p for p in (model.get_parameter(name), bias) if p is not None]
        torch._foreach_mul_(layer, 2)
        if (model(images) - outputs).norm() < 1e-9 * outputs.norm():
            found.append(name)
        torch._foreach_div_(layer, 2)
    return found


@pytest.mark.filterwarnings("ignore:.*stay dense")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_is_normalized_where_its_scale_does_not_matter(family):
    make, size, count = FAMILIES[family]
    torch.manual_seed(0)
    model = make()
    topology = Topology(model, 0.5)
    topology.example = torch.zeros(1, 3, size, size)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ambient = torch.get_rng_state()
    assert len(topology.normalized) == count
    assert torch.equal(torch.get_rng_state(), ambient)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    assert topology.normalized == unmoved(model, list(topology.weights), images)


def test_all_layers_of_a_resnet_but_the_classifier():
    topology = Topology(timm_model(10, 3, "resnet10t"), 0.5)
    topology.example = torch.zeros(1, 3, 32, 32)
    assert topology.normalized == [name for name in topology.masks if name != "fc.weight"]


class Tokens(nn.Module):
    """Takes whole numbers by keyword and gives a mapping, as models of text do."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(9, 8), nn.LayerNorm(8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 9)

    def forward(self, tokens):
        return {"logits": self.head(self.norm(self.mix(self.embedding(tokens)))), "tokens": tokens}


def test_models_of_tokens_and_embeddings_that_have_no_neurons():
    topology = Topology(Tokens(), 0.5, include="embedding.weight")
    topology.example = {"tokens": torch.arange(9)[None]}
    assert topology.normalized == ["mix.weight"]


def test_a_wrapper_of_ones_own_may_normalize():
    class Normed(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return nn.functional.normalize(self.module(x))

    topology = Topology(nn.DataParallel(Normed(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5)))), 0.5)
    topology.example = torch.zeros(1, 4)
    assert topology.normalized == ["1.weight"]


def test_copies_know_what_was_measured_and_not_the_model(small_net):
    model = small_net()
    model.unpicklable = lambda: None
    topology = Topology(model, 0.5)
    topology.example = torch.zeros(1, 3, 6, 6)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, precondition=EqualAngle())
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert again.topology.normalized == ["conv1.weight", "conv2.weight"]
    with pytest.raises(ConfigError, match="example=None: must be an input"):
        _ = copy.deepcopy(Topology(model, 0.5)).normalized


def test_outputs_without_a_gradient_are_named():
    class Argmax(nn.Linear):
        def forward(self, x):
            return super().forward(x).argmax(1)

    topology = Topology(Argmax(4, 4), 0.5)
    topology.example = torch.zeros(1, 4)
    with pytest.raises(ConfigError, match="example=Tensor: gives outputs of the model that have no gradient"):
        _ = topology.normalized
