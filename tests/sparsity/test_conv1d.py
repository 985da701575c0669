"""GPT-2's linear layer, whose weight is (in, out), trains as `nn.Linear` does: its neurons are columns."""

import pytest
import torch
from torch import nn

from sparse_train.models.init import kaiming_normal, over_sqrt_c, own_fan_in
from sparse_train.optim import Renorm, SparseOpt, SparseSGD
from sparse_train.optim.equal_angle import EqualAngle
from sparse_train.sparsity.flops import layer_flops
from sparse_train.sparsity.methods.mean import Mean
from sparse_train.sparsity.methods.ranked import Ranked
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.methods.rigl_blind import RigLBlind
from sparse_train.sparsity.methods.set import SET
from sparse_train.sparsity.methods.snfs import SNFS
from sparse_train.sparsity.methods.srigl import SRigL
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.tracking.sinks import neuron_densities
from sparse_train.train.diagnostics import Diagnostics
from sparse_train.train.meter import Meter


class Conv1D(nn.Module):
    """As `transformers.pytorch_utils` has it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], self.nf)


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.norm, self.second, self.head = layer(8, 12), nn.BatchNorm1d(12), layer(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.norm(self.first(x))))))


def nets():
    """The same network twice."""
    return Net(nn.Linear), Net(lambda inputs, outputs: Conv1D(outputs, inputs))


def trained(model, method, initial="random", scale=None, **slots):
    kaiming_normal(model, 0)
    model.first.bias.data.fill_(0.1), model.second.bias.data.zero_()
    topology = Topology(model, 0.6, initial=initial)
    topology.example = torch.zeros(1, 8)
    if scale is not None:
        scale(topology)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, weight_decay=1e-3, **slots)
    updater = Updater(topology, optimizer, method(), 40, 0.4, 3)
    look, meter = Diagnostics(model, topology, optimizer), Meter(torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    for step in range(20):
        optimizer.zero_grad()
        model(torch.randn(16, 8, generator=draw)).square().sum(1).mean().backward()
        updater.observe(step)
        if updater.due(step):
            with look.update(meter, updater):
                updater.update(step)
        else:
            with look.step(meter):
                optimizer.step()
    told = look.trained(meter) | look.masks() | {"norm_ratio": look.norm_ratio()}
    densities = {name: neuron_densities(topology.rows(name, mask)).tolist() for name, mask in topology.masks.items()}
    return topology, {key: -1 if value is None else value for key, value in told.items()}, densities


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (RigL, {"precondition": SparseOpt(average="global", per="layer"), "renorm": Renorm()}),
        (RigL, {"precondition": SparseOpt(layers="normalized", scale_decay=True)}),
        (RigLBlind, {"precondition": EqualAngle(), "scale": own_fan_in}),
        (SET, {"scale": over_sqrt_c, "initial": "constant_fan_in"}),
        (SRigL, {"initial": "constant_fan_in", "precondition": SparseOpt()}),
        (lambda: Ranked(RigL(), "sparseopt", rescale=True), {}),
        (lambda: Ranked(Mean(RigL(), 2), "invariant", gradient="corrected"), {"precondition": SparseOpt()}),
        (SNFS, {}),
    ],
)
def test_it_trains_as_a_linear_layer_does(method, options):
    linear, conv = nets()
    (of_linear, *told), (of_conv, *again) = (trained(model, method, **options) for model in (linear, conv))
    assert of_conv.by_column == {"first.weight", "second.weight"}
    assert of_conv.normalized == of_linear.normalized == ["first.weight"]
    for name, mask in of_linear.masks.items():
        assert torch.equal(of_conv.rows(name, of_conv.masks[name]), mask)
        torch.testing.assert_close(of_conv.rows(name, of_conv.weights[name]), of_linear.weights[name])
    assert again[0] == pytest.approx(told[0], rel=1e-4, abs=1e-6)
    assert again[1] == told[1]


def test_its_flops_are_those_of_a_linear_layer():
    linear, conv = (layer_flops(model, torch.zeros(1, 8)) for model in nets())
    assert conv == linear
    assert linear["first.weight"] == 2 * 8 * 12
