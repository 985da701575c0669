"""Section 3 on a network that trains: amplification by fan-in, and how a mask update turns the gradient."""

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sparse_train.optim.sparseopt import SparseOpt
from sparse_train.process.distributed import join
from sparse_train.theory.gradients import angle, batch_norm_input_gradient, slope
from sparse_train.theory.measurement import Measured, first_batches, measurement, watched
from sparse_train.train.build import Run, build


@measurement("amplification {cfg.sparsity:g}")
def amplification(cfg: DictConfig, steps: int) -> Measured:
    """Train as configured for `steps` steps; rows are of two kinds.

    `update`: at each mask update, on the same batch before and after it, the angle in degrees between the gradients of
    the weights that stay, raw and corrected by Eq. 12 with the masks of the moment (Section 3.3's claim).
    `layer`: at the first and at the last step, for each layer before batch normalization, the exponent of (1 - s_i) in
    ||dL/dx_i|| / ||dL/dxhat_i||, which Eq. 10 says is -1/2.
    """
    run = build(cfg, join())
    rows = []
    for step, (images, labels) in enumerate(first_batches(run.data.train, steps)):
        if step in (0, steps - 1):
            rows += [{"kind": "layer", "step": step, **row} for row in _layers(run, images, labels)]
        run.set_lr(step)
        _backward(run, images, labels)
        if run.updater is not None:
            run.updater.observe(step)
        if run.updater is not None and run.updater.due(step):
            rows.append({"kind": "update", "step": step, **_update(run, step, images, labels)})
        else:
            run.optimizer.step()
    return rows, _summary(rows)


def _backward(run: Run, images: Tensor, labels: Tensor) -> None:
    run.forward.train()
    run.optimizer.zero_grad()
    run.loss(images, labels)[0].backward()


def _gradients(run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight -> its gradient, raw and corrected."""
    scales = SparseOpt().scales(run.topology)
    return {n: (w.grad.clone(), w.grad * scales[n].float()) for n, w in run.topology.weights.items()}


def _update(run: Run, step: int, images: Tensor, labels: Tensor) -> dict:
    masks, before = dict(run.topology.masks), _gradients(run)
    run.updater.update(step)
    _backward(run, images, labels)
    after = _gradients(run)
    stay = {name: masks[name] & run.topology.masks[name] for name in masks}

    def flat(gradients: dict[str, tuple[Tensor, Tensor]], kind: int) -> Tensor:
        return torch.cat([gradients[name][kind][mask] for name, mask in stay.items()])

    raw, corrected = (angle(flat(before, kind), flat(after, kind)) for kind in (0, 1))
    return {"angle_raw": raw, "angle_corrected": corrected, "replaced": run.updater.fraction(step)}


def _layers(run: Run, images: Tensor, labels: Tensor) -> list[dict]:
    module = run.model.get_submodule
    layers = [name.removesuffix(".weight") for name in run.topology.masks if name.endswith(".weight")]
    norms = [name for name, norm in run.model.named_modules() if isinstance(norm, _BatchNorm)]
    with watched(run.model, *layers, *norms) as seen:
        loss = run.loss(images, labels)[0]
    read_by = {id(seen[norm][0]): norm for norm in norms if norm in seen}
    outputs = {f"{layer}.weight": id(seen[layer][1]) for layer in layers if layer in seen}
    pairs = {name: read_by[output] for name, output in outputs.items() if output in read_by}
    if not pairs:
        return []
    grads = torch.autograd.grad(loss, [seen[norm][1] for norm in pairs.values()])
    rows = []
    for (name, norm), grad_y in zip(pairs.items(), grads, strict=True):
        x, grad = (t.detach().float().movedim(1, -1).flatten(0, -2) for t in (seen[norm][0], grad_y))
        grad_xhat = grad * module(norm).weight.detach()
        amplified = batch_norm_input_gradient(x, grad_xhat, module(norm).eps).norm(dim=0) / grad_xhat.norm(dim=0)
        density = run.topology.masks[name].flatten(1).double().mean(1)
        use = (density > 0) & amplified.isfinite() & (amplified > 0) & (x.std(0) > 1e-3)
        if density[use].unique().numel() > 2:
            spread = float(density[use].std() / density[use].mean())
            rows.append({"layer": name, "exponent": slope(density[use], amplified[use]), "fan_in_spread": spread})
    return rows


def _summary(rows: list[dict]) -> dict:
    def median(kind: str, key: str, *steps: int) -> float | None:
        values = [row[key] for row in rows if row["kind"] == kind and (not steps or row["step"] in steps)]
        return float(torch.tensor(values).median()) if values else None

    last = max((row["step"] for row in rows), default=0)
    return {
        "angle_raw": median("update", "angle_raw"),
        "angle_corrected": median("update", "angle_corrected"),
        "exponent_first": median("layer", "exponent", 0),
        "exponent_last": median("layer", "exponent", last),
    }
