"""How long weights before normalization get, how far they turn in a step, and how soon: closed forms, measured.

A gradient before normalization is orthogonal to its weight and has the length k / |w|, k being that at unit length. So
it lengthens the weight at every step, and decay shortens it. Let the optimizer multiply gradient and decay of a neuron
by p and q: 1 and 1 for SGD, c and 1 for SparseOpt, c and c where decay is scaled too. With eta' = eta / (1 - mu),

    d|w|^4/dt = -4 eta' q lambda |w|^4 + 2 (eta' p k)^2,

if gradients of different steps have nothing in common (`results/theory.md` has the derivation).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from sparse_train.data.memory import Batch, Data
from sparse_train.models.init import kaiming_normal
from sparse_train.models.mlp import MLP
from sparse_train.optim.sgd import SparseSGD
from sparse_train.optim.sparseopt import SparseOpt, neuron_scale
from sparse_train.randomness import generator
from sparse_train.sparsity.layers import last_weight
from sparse_train.sparsity.masks import random_mask
from sparse_train.sparsity.topology import Topology
from sparse_train.theory.gradients import slope
from sparse_train.theory.measurement import Measured, first_batches, load_data, measurement

OPTIMIZERS = {"sgd": (0, 0), "sparseopt": (1, 0), "sparseopt_decay_scaled": (1, 1)}  # powers of c in p and q
LONGER_EVERY, LONGER = 8, 2.0  # one neuron in LONGER_EVERY is made LONGER times as long
TIMES = [i / 10 for i in range(16)]  # since then, in time constants


@dataclass(frozen=True)
class Law:
    """The equilibrium of each neuron.

    Args:
        lr, momentum, decay: eta, mu and lambda.
        p, q: factors of its gradient and of its decay.
    """

    lr: float
    momentum: float
    decay: float
    p: Tensor
    q: Tensor

    def length(self, k: Tensor) -> Tensor:
        """|w|* = (eta' (p k)^2 / (2 q lambda))^(1/4)."""
        return (self.lr * (self.p * k).square() / (2 * self.q * self.decay * (1 - self.momentum))) ** 0.25

    def angle(self) -> Tensor:
        """That of a step in radians, root mean square: sqrt(2 eta q lambda / (1 + mu))."""
        return (2 * self.lr * self.q * self.decay / (1 + self.momentum)).sqrt()

    def time(self) -> Tensor:
        """tau = (1 - mu) / (4 eta q lambda), the steps in which |w|^4 - |w|*^4 falls by e."""
        return (1 - self.momentum) / (4 * self.lr * self.q * self.decay)


@measurement("equilibrium, {optimizer}", optimizer=OPTIMIZERS)
def equilibrium(
    cfg: DictConfig,
    optimizer: str,
    hidden: Sequence[int],
    fan_ins: Sequence[int],
    steps: int,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> Measured:
    """Train an MLP in float64 with a static mask at a constant rate; then make some of its neurons longer.

    Rows are neurons, with means over the second half of the steps beside the closed forms, and, after some have been
    made twice as long, the part of the excess of |w|^4 that is left over time. The result is the geometric mean of
    measured over predicted, its scatter (the standard deviation of the logarithm), the exponents of c_i in
    |w| / sqrt(k), in the angle and in k, and the smallest variance of a neuron's output in units of BN's eps. The time
    constant is that between half of one and three halves: momentum remembers the old length for 1 / (1 - mu) steps.

    A neuron whose output varies less than eps, as one that sees constant pixels alone, is not invariant: without a
    gradient its weight decays to nothing. Such neurons are counted as dead, and left out of everything else.

    Args:
        optimizer: "sgd", "sparseopt" (decay added after the correction) or "sparseopt_decay_scaled".
        hidden: units of the layers; each is sparse and followed by BN. The classifier is dense.
        fan_ins: the smallest and the largest of each layer, the others evenly between them by ratio.
    """
    data = load_data(cfg)
    model, topology = _sparse_mlp(data, hidden, fan_ins, cfg.seed)
    c = torch.cat([neuron_scale(mask).flatten() for mask in topology.masks.values()])
    law = Law(lr, momentum, weight_decay, *(c**power for power in OPTIMIZERS[optimizer]))
    correction = SparseOpt(scale_decay=optimizer == "sparseopt_decay_scaled") if optimizer != "sgd" else None
    weights = {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": weight_decay}
    others = {"params": [p for p in model.parameters() if p.ndim <= 1]}
    optim = SparseSGD([weights, others], topology, lr=lr, momentum=momentum, precondition=correction)
    more = ceil(TIMES[-1] * float(law.time().max())) + 1
    batches = first_batches(data.train, steps + more)
    seen = list(_steps(model, optim, islice(batches, steps)))[steps // 2 :]
    length, k, angle = map(torch.stack, zip(*seen, strict=True))
    length, k, angle = (length**4).mean(0) ** 0.25, k.square().mean(0).sqrt(), angle.square().mean(0).sqrt()
    left = _relaxation(model, optim, batches, length, law.time())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]  # one for each sparse layer
    found = {
        "fan_in": torch.cat([mask.sum(1) for mask in topology.masks.values()]),
        "c": c,
        "k": k,
        "length": length,
        "length_theory": law.length(k),
        "degrees": angle.rad2deg(),
        "degrees_theory": law.angle().rad2deg(),
        "variance_over_eps": torch.cat([norm.running_var / norm.eps for norm in norms]),
    }
    alive = found["variance_over_eps"] > 1
    dead, left = int((~alive).sum()), left[:, alive[::LONGER_EVERY]]
    found = {key: values[alive] for key, values in found.items()}
    columns = zip(*(values.tolist() for values in found.values()), strict=True)
    rows: list[dict] = [{"kind": "neuron", **dict(zip(found, values, strict=True))} for values in columns]
    rows += [{"kind": "time", "time": time, "left": float(left[i].mean())} for i, time in enumerate(TIMES)]
    return rows, {"dead": dead, **_summary(found, left)}


def _sparse_mlp(data: Data, hidden: Sequence[int], fan_ins: Sequence[int], seed: int) -> tuple[nn.Module, Topology]:
    model = MLP(data.num_classes, data.in_channels, data.image_size, hidden)
    kaiming_normal(model, seed)
    topology = Topology(model.double(), 0.5, "uniform", seed, exclude=[last_weight(model)])
    for name, weight in topology.weights.items():
        draw, (low, high) = generator(seed, "mask", name), torch.tensor(list(fan_ins), dtype=torch.float64).log()
        counts = torch.linspace(low, high, len(weight)).exp().round().int().tolist()
        topology.replace(name, torch.stack([random_mask((weight.shape[1],), count, draw) for count in counts]))
    return model, topology


def _steps(model: nn.Module, optim: SparseSGD, batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Train; yields after each step the neurons' |w| before it, k = |g| |w| and the angle in radians."""
    weights, masks = optim.topology.weights, optim.topology.masks
    for images, labels in batches:
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        optim.zero_grad()
        F.cross_entropy(model(images.double()), labels).backward()
        optim.step()
        length = torch.cat([before[name].norm(dim=1) for name in weights])
        slopes = torch.cat([(weight.grad * masks[name]).norm(dim=1) for name, weight in weights.items()])
        cosine = torch.cat([F.cosine_similarity(before[name], weight.detach()) for name, weight in weights.items()])
        yield length, length * slopes, torch.arccos(cosine.clamp(-1, 1))


def _relaxation(model: nn.Module, optim: SparseSGD, batches: Iterator[Batch], rest: Tensor, time: Tensor) -> Tensor:
    """Double the norm of every eighth neuron, and its momentum, which leaves the function unchanged.

    Returns (times, those neurons): the share left of the excess of |w|^4 over its earlier mean, at `TIMES` in units of
    each neuron's time constant.
    """
    longer = torch.ones(len(rest), dtype=rest.dtype)
    longer[::LONGER_EVERY] = LONGER
    weights = optim.topology.weights.values()
    for weight, factor in zip(weights, longer.split([len(weight) for weight in weights]), strict=True):
        optim.multiply(weight, factor[:, None])
    excess = torch.stack([length for length, _, _ in _steps(model, optim, batches)]) ** 4 / rest**4 - 1
    places = (torch.tensor(TIMES)[:, None] * time).round().long()
    return (excess.gather(0, places) / excess[0])[:, ::LONGER_EVERY]


def _summary(found: dict[str, Tensor], left: Tensor) -> dict:
    c, k = found["c"], found["k"]
    ratios = {key: (found[f"{key}_theory"] / found[key]).log().neg() for key in ("length", "degrees")}
    final = {f"{key}_ratio": float(ratio.mean().exp()) for key, ratio in ratios.items()}
    final |= {f"{key}_scatter": float(ratio.std()) for key, ratio in ratios.items()}
    early, late = (left.mean(1)[TIMES.index(time)] for time in (0.5, 1.5))
    final["tau_ratio"] = 1 / float((early / late).log())
    exponents = {"length": found["length"] / k.sqrt(), "degrees": found["degrees"], "k": k}
    final |= {f"{key}_exponent": slope(c, values) for key, values in exponents.items()}
    return final | {"variance_over_eps": float(found["variance_over_eps"].min())}
