"""What SparseOpt changes: with a static mask before batch normalization it is SGD from another initial scale.

The loss does not depend on the length of a weight w_i that feeds batch normalization: its gradient scales as 1/|w_i|.
With c_i = sqrt((1 - s_i) / (1 - s_avg)) and v_i = w_i / sqrt(c_i), a SparseOpt step on w,
w <- w - eta (c g(w) + lambda w), is the SGD step v <- v - eta (g(v) + lambda v), since g(v) = sqrt(c) g(w).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from sparse_train.data.memory import Data
from sparse_train.models.init import kaiming_normal, over_sqrt_c
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.optim.ham import HAM
from sparse_train.optim.renorm import Renorm
from sparse_train.optim.sgd import SparseSGD
from sparse_train.optim.sparseopt import SparseOpt, neuron_scale
from sparse_train.sparsity.methods.ranked import Ranked
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.theory.equilibrium import OPTIMIZERS
from sparse_train.theory.gradients import slope
from sparse_train.theory.measurement import Measured, first_batches, load_data, measurement

ZERO_EPS = 1e-300  # torch refuses 0; added to a variance in float64, the same number
# How masks are updated: by SparseOpt, and by SGD.
RANKINGS: dict[str, tuple[dict, dict]] = {
    "rigl": ({}, {}),
    "rigl_ranked": ({}, {"rank_as": "sparseopt", "rescale": True}),
    "rigl_invariant": ({"rank_as": "invariant"}, {"rank_as": "invariant"}),
    "rigl_invariant_rescaled": ({"rank_as": "invariant"}, {"rank_as": "invariant", "rescale": True}),
}
VARIANTS = ("exact", "eps", "decay_scaled", "classifier", *RANKINGS, "ham", "clipped")


@measurement("equivalence, {variant}", variant=VARIANTS)
def equivalence(cfg: DictConfig, variant: str, sparsity: float, steps: int, lr: float, weight_decay: float) -> Measured:
    """Train SparseOpt from w and SGD from w / sqrt(c) side by side in float64; rows are both losses over steps.

    Args:
        variant: "exact", where all assumptions hold, or where one of them ends: "eps", BN's usual 1e-5; "decay_scaled",
            weight decay scaled with the gradient; "classifier", corrected too, though nothing normalizes it; "rigl",
            mask updates; "rigl_invariant", mask updates that compare no lengths, after which c jumps still; "ham";
            "clipped", renormalized gradients. With "rigl_ranked" SGD updates its masks as SparseOpt does
            (`sparsity.lengths`), with "rigl_invariant_rescaled" only its lengths follow: the equivalence is back.
    """
    data, options = load_data(cfg), (variant, sparsity, lr, weight_decay, steps)
    twins = [_prepared(cfg, data, *options, corrected) for corrected in (True, False)]
    rows = []
    for step, (images, labels) in enumerate(_batches(data, steps)):
        losses = []
        for model, optimizer, updater in twins:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            if updater is not None and updater.due(step):
                updater.update(step)
            else:
                optimizer.step()
            losses.append(loss.item())
        gap = abs(losses[0] - losses[1])  # far below the digits of the losses that are kept
        rows.append({"step": step, "sparseopt": losses[0], "sgd": losses[1], "gap": gap})
    gaps = torch.tensor([row["gap"] for row in rows])
    return rows, {"largest_gap": float(gaps.max()), "mean_gap": float(gaps.mean())}


@measurement("neuron steps, {optimizer}", optimizer=OPTIMIZERS)
def neuron_steps(
    cfg: DictConfig, optimizer: str, sparsity: float, steps: int, lr: float, weight_decay: float
) -> Measured:
    """Per neuron over training with a static mask: the length of its weight and the angle it turns in a step.

    Rows are neurons, with means over the last tenth of the steps; the result is the exponent of c_i in both.

    Args:
        optimizer: "sgd", "sparseopt" (decay added after the correction) or "sparseopt_decay_scaled".
    """
    variant = "decay_scaled" if optimizer == "sparseopt_decay_scaled" else "eps"
    data, options = load_data(cfg), (variant, sparsity, lr, weight_decay, steps)
    model, optim, _ = _prepared(cfg, data, *options, optimizer != "sgd", rescale=False)
    weights = optim.topology.weights
    turned = {name: torch.zeros(len(weight), dtype=weight.dtype) for name, weight in weights.items()}
    last = range(steps - max(steps // 10, 1), steps)
    length = {name: torch.zeros_like(value) for name, value in turned.items()}
    for step, (images, labels) in enumerate(_batches(data, steps)):
        before = {name: weight.detach().flatten(1).clone() for name, weight in weights.items()}
        optim.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optim.step()
        if step in last:
            for name, weight in weights.items():
                now = weight.detach().flatten(1)
                cosine = F.cosine_similarity(before[name], now).clamp(-1, 1)
                turned[name] += torch.rad2deg(torch.arccos(cosine)) / len(last)
                length[name] += now.norm(dim=1) / len(last)
    rows = [row for name in weights for row in _neurons(name, optim.topology.masks[name], turned[name], length[name])]
    alive = [row for row in rows if row["c"] > 0 and row["degrees_per_step"] > 0]
    c, degrees, norm = (torch.tensor([row[key] for row in alive]) for key in ("c", "degrees_per_step", "length"))
    return rows, {"angle_exponent": slope(c, degrees), "length_exponent": slope(c, norm)}


def _neurons(name: str, mask: Tensor, degrees: Tensor, length: Tensor) -> Iterator[dict]:
    fan_in, c = mask.flatten(1).sum(1).tolist(), neuron_scale(mask).flatten().tolist()
    for values in zip(range(len(fan_in)), fan_in, c, degrees.tolist(), length.tolist(), strict=True):
        yield dict(zip(("neuron", "fan_in", "c", "degrees_per_step", "length"), values, strict=True), layer=name)


def _prepared(
    cfg: DictConfig,
    data: Data,
    variant: str,
    sparsity: float,
    lr: float,
    weight_decay: float,
    steps: int,
    corrected: bool,
    rescale: bool = True,
) -> tuple[nn.Module, SparseSGD, Updater | None]:
    """A sparse ResNet20 x{0.5} in float64 with its optimizer; SGD starts from w / sqrt(c) where `rescale`."""
    model = ResNet20(data.num_classes, in_channels=data.in_channels, width=0.5)
    kaiming_normal(model, cfg.seed)
    model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5 if variant == "eps" else ZERO_EPS
    if variant == "classifier":  # ERK would leave so small a classifier dense
        topology = Topology(model, sparsity, "uniform", cfg.seed, exclude=["conv1.weight"])
    else:
        topology = Topology(model, sparsity, seed=cfg.seed, exclude=["fc.weight"])
    if rescale and not corrected:
        over_sqrt_c(topology)
    optimizer = SparseSGD(
        model.parameters(),
        topology,
        lr=lr,
        momentum=0.9,
        weight_decay=weight_decay,
        precondition=SparseOpt(scale_decay=variant == "decay_scaled") if corrected else None,
        renorm=Renorm() if variant == "clipped" else None,
        mirror=HAM(alpha=4.0) if variant == "ham" else None,
    )
    if variant not in RANKINGS:
        return model, optimizer, None
    ranking = RANKINGS[variant][0 if corrected else 1]
    return model, optimizer, Updater(topology, optimizer, Ranked(RigL(), **ranking), steps, every=50, seed=cfg.seed)


def _batches(data: Data, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in first_batches(data.train, steps):
        yield images.double(), labels
