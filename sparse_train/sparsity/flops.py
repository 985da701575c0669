"""Floating-point operations of a sparse network relative to its dense twin, in the RigL paper's convention."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def layer_flops(model: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Dense FLOPs of one sample's forward pass per weight, 2 per multiply-accumulate; biases and norms count nothing.

    A weight is that of a module without children. So products without one count nothing, such as attention's of queries
    and keys, and neither do weights of other names, such as an LSTM's.

    Args:
        model: any module; modes and buffers are left as they were.
        example: one input, with a batch dimension of 1.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(example)
    finally:
        for module, training in modes.items():
            module.training = training
    per_module = counter.get_flop_counts()
    root = type(model).__name__
    leaves = [name for name, module in model.named_modules() if not any(module.children())]
    flops = {name: sum(per_module.get(f"{root}.{name}", {}).values()) for name in leaves}
    return {f"{name}.weight": count for name, count in flops.items() if count}


def relative_flops(
    flops: Mapping[str, int],
    densities: Mapping[str, float],
    dense_gradient_share: float = 0.0,
    training: Mapping[str, float] | None = None,
) -> dict:
    """Sparse over dense FLOPs (Evci et al. 2020, Appendix H).

    With f_D and f_S the dense and sparse forward FLOPs, a training step costs 3 f_D dense, 3 f_S sparse, and
    2 f_S + f_D where the dense gradient is needed: RigL's growth, at `dense_gradient_share` of the steps.

    Args:
        flops: weight name -> dense forward FLOPs (`layer_flops`).
        densities: weight name -> density; a weight not named is dense.
        dense_gradient_share: share of the training steps that need the dense gradient, in [0, 1].
        training: the densities' means over the training, where they are not the same in inference.
    """
    layers = {name: {"dense": f, "sparse": f * densities.get(name, 1.0)} for name, f in flops.items()}
    f_dense = sum(layer["dense"] for layer in layers.values())
    f_sparse = sum(layer["sparse"] for layer in layers.values())
    f_step = f_sparse if training is None else sum(f * training.get(name, 1.0) for name, f in flops.items())
    step = (1 - dense_gradient_share) * 3 * f_step + dense_gradient_share * (2 * f_step + f_dense)
    return {
        "inference_dense": f_dense,
        "inference_sparse": f_sparse,
        "inference_ratio": f_sparse / f_dense,
        "training_ratio": step / (3 * f_dense),
        "layers": layers,
    }
