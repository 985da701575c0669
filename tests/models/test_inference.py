"""A compressed copy computes what the model computes, from the weights that exist alone."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from sparse_train.errors import ConfigError
from sparse_train.models.compressed import CSR, compress, size
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.sparsity.topology import Topology
from support.steps import same


def sparse(model, sparsity=0.9):
    topology = Topology(model, sparsity)
    with torch.no_grad():  # statistics and affine parameters that are not the identity
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.normal_(), norm.bias.normal_()
    return model.eval(), topology.masks


def test_a_resnet_keeps_its_outputs_and_itself():
    model, masks = sparse(ResNet20(10, width=0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small, x = compress(torch.compile(model, backend="eager"), masks), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-4)
    assert same(before.values(), model.state_dict().values())
    assert sum(isinstance(m, CSR) for m in small.modules()) == len(masks), "also of a model that is wrapped"


class Halved(nn.Module):
    """A wrapper with a forward of its own, and with the one child that torch's wrappers have."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x / 2) / 2


def test_a_wrapper_of_ones_own_keeps_its_forward():
    model, masks = sparse(Halved(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6))), 0.5)
    small, x = compress(nn.DataParallel(model), masks), torch.randn(3, 8)
    torch.testing.assert_close(small(x), model(x).detach())
    assert any(isinstance(m, CSR) for m in small.modules())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 4, 9, 7)),
        (nn.Conv2d(4, 6, 1, bias=False), (2, 4, 9, 7)),
        (nn.Conv2d(4, 6, 3, padding="same"), (4, 9, 7)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 7)),
        (nn.Conv2d(4, 6, 3, groups=2), (0, 4, 9, 7)),
        (nn.Linear(8, 6), (2, 3, 8)),
        (nn.Linear(8, 6), (8,)),
        (nn.Linear(8, 6), (0, 8)),
        (nn.TransformerEncoderLayer(8, 2, 32, batch_first=True), (2, 5, 8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_of_every_kind_and_inputs_of_every_shape(layer, shape):
    model, masks = sparse(nn.Sequential(layer), 0.5)
    x = torch.randn(shape)
    torch.testing.assert_close(compress(model, masks)(x), model(x).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("first", "shape"), [(nn.Linear(12, 6), (2, 12)), (nn.Conv2d(4, 6, 3), (2, 4, 9, 7))])
def test_networks_of_other_precision(first, shape, dtype):
    """Made in it, or brought to it afterwards, or autocast."""
    x, last = torch.randn(shape), nn.Linear(6 if len(shape) == 2 else 210, 5)
    model, masks = sparse(deepcopy(nn.Sequential(first, nn.ReLU(), nn.Flatten(), last)).to(dtype), 0.5)
    for small in (compress(model, masks), compress(model.float(), masks).to(dtype)):
        torch.testing.assert_close(small(x.to(dtype)), model.to(dtype)(x.to(dtype)).detach(), rtol=0.02, atol=0.02)
        assert all(t.dtype == dtype for t in small.state_dict().values())
    with torch.autocast("cpu"):
        expected = model.float()(x).detach().float()
        torch.testing.assert_close(compress(model, masks)(x).float(), expected, rtol=0.02, atol=0.02)


def test_a_neuron_without_weights_gives_its_bias():
    model, masks = nn.Sequential(nn.Linear(3, 2)), {"0.weight": torch.tensor([[True, False, True], [False] * 3])}
    with torch.no_grad():
        model[0].weight.mul_(masks["0.weight"])
    out = compress(model, masks)(torch.randn(4, 3))
    assert torch.equal(out[:, 1], model[0].bias.detach()[1].expand(4))


def test_its_size_is_that_of_existing_weights_and_their_indices_and_so_is_its_file(tmp_path):
    model, masks = sparse(nn.Sequential(nn.Linear(100, 50, bias=False)), 0.9)
    small = compress(model, masks)
    assert (size(model), size(small)) == (4 * 5000, 8 * 500 + 4 * 51)
    torch.save(small.state_dict(), tmp_path / "small.pt")
    read = torch.load(tmp_path / "small.pt", weights_only=True)
    assert torch.equal(read["0.weight"].to_dense(), model[0].weight.detach())


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"1.weight": torch.ones(2, 3, dtype=torch.bool)}, "is no weight of this model"),
        ({"0.weight": torch.ones(3, 2, dtype=torch.bool)}, "has another shape"),
        ({"0.weight": torch.zeros(2, 3, dtype=torch.bool)}, "leaves out weights that are not 0"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, said):
    with pytest.raises(ConfigError, match=said):
        compress(nn.Sequential(nn.Linear(3, 2)), masks)
