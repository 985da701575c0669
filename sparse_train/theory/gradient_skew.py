"""Figure 1 as a measurement: one real layer, dense and masked, and the angle between its gradients."""

from itertools import islice

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from sparse_train.models.init import kaiming_normal
from sparse_train.optim.sparseopt import neuron_scale
from sparse_train.options.targets import make
from sparse_train.theory.gradients import angle, batch_norm_input_gradient
from sparse_train.theory.layer_norm import FAN_INS, masks
from sparse_train.theory.measurement import Measured, load_data, look, masked, measurement


@measurement("gradient skew, {layer}, {fan_ins} fan-ins", fan_ins=FAN_INS)
def gradient_skew(
    cfg: DictConfig,
    layer: str,
    norm: str,
    sparsity: float,
    fan_ins: str,
    batches: int,
    weights: bool = False,
) -> Measured:
    """Gradients of one masked layer of a network that is dense otherwise, at initialization, over its kept weights.

    `ideal` is the dense layer's gradient, `raw` the masked layer's, `corrected` that times Eq. 12. Once as they are,
    where the mask also changes what the layer computes, and once with dL/dxhat and xhat held fixed, where
    normalization's scale (Eq. 10) is all that differs. Rows are neurons; the result is the angle of raw and corrected
    to ideal, in degrees.

    Args:
        layer, norm: names of a convolution or linear layer of the model and of the batch normalization after it.
        sparsity: of that layer.
        fan_ins: "uniform", "random" or "graded" (`layer_norm.masks`).
        weights: a row per weight instead, masked ones too, and each gradient's length over that of ideal, to draw a
            small layer.
    """
    data = load_data(cfg)
    dense = make(cfg, "model", num_classes=data.num_classes, in_channels=data.in_channels)
    kaiming_normal(dense, cfg.seed)
    weight = dense.get_submodule(layer).weight
    flat = masks((len(weight), weight[0].numel()), sparsity, fan_ins, cfg.seed)
    mask = flat.view(weight.shape)
    sparse = masked(dense, layer, mask)
    total: dict[str, Tensor] = {}
    unmasked = torch.zeros_like(weight)
    for images, labels in islice(data.train.epoch(0), batches):
        for name, gradient in _gradients(dense, sparse, layer, norm, images, labels).items():
            total[name] = total.get(name, 0) + gradient * mask / batches
            unmasked += gradient / batches if name == "ideal" else 0
    scale = neuron_scale(mask).float()
    corrected = {f"{name}_corrected": total[name] * scale for name in ("raw", "fixed")}
    gradients, density = {**total, **corrected}, flat.double().mean(1).tolist()
    norms = {name: g.flatten(1).norm(dim=1).tolist() for name, g in gradients.items()}
    rows = [{"neuron": i, "density": d, **{n: v[i] for n, v in norms.items()}} for i, d in enumerate(density)]
    others = {name: g for name, g in gradients.items() if name != "ideal"}
    final = {f"{name}_angle": angle(g, total["ideal"]) for name, g in others.items()}
    if weights:
        listed = {
            name: g.reshape(flat.shape).tolist() for name, g in {"kept": flat, "dense": unmasked, **others}.items()
        }
        rows = [
            {"neuron": i, "input": j, **{name: float(values[i][j]) for name, values in listed.items()}}
            for i in range(len(flat))
            for j in range(flat.shape[1])
        ]
        final |= {f"{name}_length": float(g.norm() / total["ideal"].norm()) for name, g in others.items()}
    return rows, final


def _gradients(dense: nn.Module, sparse: nn.Module, layer: str, norm: str, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """`ideal`, `raw`, and `fixed`: the dense gradient with each neuron's sigma replaced by that of the masked layer."""
    ideal, raw = look(dense, layer, norm, x, y), look(sparse, layer, norm, x, y)
    # (samples, neurons), each position of an image a sample
    before, before_masked, grad_y = (t.movedim(1, -1).flatten(0, -2) for t in (ideal.output, raw.output, ideal.grad_y))
    grad_xhat = grad_y * dense.get_submodule(norm).weight.detach()
    grad_x = batch_norm_input_gradient(before, grad_xhat) * (before.std(0) / before_masked.std(0))
    found, conv = {"ideal": ideal.gradient, "raw": raw.gradient}, dense.get_submodule(layer)
    if isinstance(conv, nn.Linear):
        return {**found, "fixed": grad_x.T @ ideal.inputs}
    grad_output = grad_x.view(len(x), -1, grad_x.shape[1]).transpose(1, 2).reshape(ideal.output.shape)
    options = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return {**found, "fixed": torch.nn.grad.conv2d_weight(ideal.inputs, conv.weight.shape, grad_output, *options)}
