"""The worked example of mask updates: eight weights, of which four exist."""

import torch
from torch import nn

from sparse_train.optim import SparseSGD
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater

# position       0     1    2    3      4     5    6    7
EIGHT = [[[0.4, -0.1, 0.0, 0.0], [0.3, 0.0, -0.2, 0.0]]]
MASKS = [[[1, 1, 0, 0], [1, 0, 1, 0]]]
GRADS = [[[-9.0, 1, 2, -3], [0.5, 4, 7, -5]]]
WEIGHT = "layers.0.weight"


class Layers(nn.Module):
    """Weight matrices without biases, of these shapes."""

    def __init__(self, *shapes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs, bias=False) for outputs, inputs in shapes)


def prepared(weights=EIGHT, masks=None, grads=None, initial="random", sparsity=0.5, exclude=(), **options):
    """A topology of layers with these weights and gradients, where there are masks masked, and its optimizer.

    Momentum is 1 where weights are.

    Args:
        weights, masks, grads: of each layer, as nested lists.
    """
    weights = [torch.as_tensor(weight, dtype=torch.float32) for weight in weights]
    model = Layers(*(weight.shape for weight in weights))
    topology = Topology(model, sparsity, "uniform", exclude=exclude, initial=initial)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, **options)
    for i, (name, weight) in enumerate(topology.weights.items()):
        if masks is not None:
            topology.replace(name, torch.as_tensor(masks[i], dtype=torch.bool))
        weight.data.copy_(weights[i] * topology.masks[name])
        weight.grad = torch.zeros_like(weights[i]) if grads is None else torch.as_tensor(grads[i])
        optimizer.state[weight]["momentum_buffer"] = topology.masks[name].float()
    return topology, optimizer


def updated(method, drop_fraction, *example, step=1, seed=0, **options):
    """The topology of an example after one update, where the schedule drops just this share."""
    topology, optimizer = prepared(*example, **options)
    Updater(topology, optimizer, method, 100, drop_fraction, every=1, decay="constant", seed=seed).update(step)
    return topology


def flat(topology):
    """The mask of each layer as a word of 0 and 1."""
    return ["".join(str(int(bit)) for bit in mask.flatten()) for mask in topology.masks.values()]
