"""Figure 1 as a measurement: one real layer, dense and masked, and the angle between its gradients."""

from itertools import islice

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from sparse_train.errors import require_one_of
from sparse_train.models.init import kaiming_normal
from sparse_train.optim.sparseopt import neuron_scale
from sparse_train.options.targets import make
from sparse_train.record.record import Record
from sparse_train.theory.gradients import angle, batch_norm_input_gradient
from sparse_train.theory.layer_norm import FAN_INS, masks
from sparse_train.theory.measurement import load_data, masked, measure, watched


def gradient_skew(
    cfg: DictConfig,
    record: Record,
    layer: str,
    norm: str,
    sparsity: float,
    fan_ins: str,
    batches: int,
    weights: bool = False,
) -> None:
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
    require_one_of("fan_ins", fan_ins, FAN_INS)

    def work() -> tuple[list[dict], dict]:
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
            rows = _by_weight(flat, {"dense": unmasked, **others})
            final |= {f"{name}_length": float(g.norm() / total["ideal"].norm()) for name, g in others.items()}
        return rows, final

    measure(work, cfg, record, f"gradient skew, {layer}, {fan_ins} fan-ins")


def _by_weight(mask: Tensor, gradients: dict[str, Tensor]) -> list[dict]:
    columns = {"kept": mask, **gradients}
    listed = {name: values.reshape(mask.shape).tolist() for name, values in columns.items()}
    neurons, inputs = mask.shape
    return [
        {"neuron": i, "input": j, **{name: float(values[i][j]) for name, values in listed.items()}}
        for i in range(neurons)
        for j in range(inputs)
    ]


def _gradients(dense: nn.Module, sparse: nn.Module, layer: str, norm: str, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """`ideal`, `raw`, and `fixed`: the dense gradient with each neuron's sigma replaced by that of the masked layer."""
    ideal, inputs, output, grad_xhat = _look(dense, layer, norm, x, y)
    raw, _, masked_output, _ = _look(sparse, layer, norm, x, y)
    before, before_masked = _by_neuron(output), _by_neuron(masked_output)
    amplified = before.std(0) / before_masked.std(0)
    neurons = len(amplified)
    grad_x = (batch_norm_input_gradient(before, grad_xhat) * amplified).view(len(x), -1, neurons)
    conv = dense.get_submodule(layer)
    if isinstance(conv, nn.Linear):
        return {"ideal": ideal, "raw": raw, "fixed": grad_x.flatten(0, 1).T @ inputs}
    grad_output = grad_x.transpose(1, 2).reshape(output.shape)
    options = (conv.stride, conv.padding, conv.dilation, conv.groups)
    fixed = torch.nn.grad.conv2d_weight(inputs, conv.weight.shape, grad_output, *options)
    return {"ideal": ideal, "raw": raw, "fixed": fixed}


def _look(model: nn.Module, layer: str, norm: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dL/dW, the layer's input and output, and dL/dxhat (samples, neurons) of the normalization after it."""
    with watched(model, layer, norm) as seen:
        loss = F.cross_entropy(model(x), y)
    (inputs, output), (_, after) = seen[layer], seen[norm]
    grad_weight, grad_after = torch.autograd.grad(loss, (model.get_submodule(layer).weight, after))
    gamma = model.get_submodule(norm).weight.detach()
    return grad_weight, inputs.detach(), output.detach(), _by_neuron(grad_after) * gamma


def _by_neuron(values: Tensor) -> Tensor:
    """(samples, neurons), each position of an image a sample."""
    return values.movedim(1, -1).flatten(0, -2)
