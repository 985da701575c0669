"""Floating-point operations of a sparse network relative to its dense twin, in the RigL paper's convention."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from sparse_train.sparsity.layers import parameters


def layer_flops(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Dense FLOPs of one sample's forward pass per weight, 2 per multiply-accumulate; biases and norms count nothing.

    A product counts for the weight that it multiplies by, whatever module holds it: a packed weight of attention has
    those of queries, keys and values, a weight that two layers share has both. A weight that its layer first
    transforms (weight standardization) is known by the layer and its size. Products of activations alone, such as
    attention's of queries and keys, count nothing.

    Args:
        model: any module; modes and buffers are left as they were.
        example: one input, with a batch dimension of 1.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # With gradients: without, torch's attention takes one opaque operation instead of its products.
        with torch.enable_grad(), ModuleTracker() as modules, _Products(model, modules) as products:
            model(example)
    finally:
        for module, training in modes.items():
            module.training = training
    return products.flops


class _Products(TorchDispatchMode):
    """Counts the matrix products and convolutions inside by the weight that they multiply by."""

    def __init__(self, model: nn.Module, modules: ModuleTracker):
        super().__init__()
        named = parameters(model)
        self.flops: dict[str, int] = {}
        self._names = {p.untyped_storage()._cdata: name for name, p in named.items() if p.ndim > 1}
        ids = {id(p): name for name, p in named.items()}
        root = type(model).__name__  # as the tracker calls modules
        self._own = {
            f"{root}.{path}" if path else root: [(p.numel(), ids[id(p)]) for p in module.parameters(recurse=False)]
            for path, module in model.named_modules()
        }
        self._modules = modules  # entered once, outside: a second entry would leave its hooks on all modules

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            with self:
                if (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return parts
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry and (name := self._weight(args)):
            count = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
            self.flops[name] = self.flops.get(name, 0) + count
        return out

    def _weight(self, args: tuple) -> str | None:
        """The name of the weight among the operands."""
        operands = [each for each in args if isinstance(each, Tensor) and each.ndim > 1]
        for each in operands:
            if name := self._names.get(each.untyped_storage()._cdata):
                return name
        inner = max(self._modules.parents - {"Global"}, key=len, default="")
        sizes = {each.numel() for each in operands}
        return next((name for size, name in self._own.get(inner, ()) if size in sizes), None)


def relative_flops(
    flops: Mapping[str, int],
    densities: Mapping[str, float],
    dense_gradient_share: float = 0.0,
    training: Mapping[str, float] | None = None,
) -> dict:
    """Sparse over dense FLOPs (Evci et al. 2020, Appendix H).

    With f_D and f_S the dense and sparse forward FLOPs, a training step costs 3 f_D dense, 3 f_S sparse, and
    2 f_S + f_D where the dense gradient is needed: RigL's growth, at `dense_gradient_share` of the steps. Warns of a
    sparse weight whose products were not seen, since it counts as if it were not there. Ratios are None where no
    product was.

    Args:
        flops: weight name -> dense forward FLOPs (`layer_flops`).
        densities: weight name -> density; a weight not named is dense.
        dense_gradient_share: share of the training steps that need the dense gradient, in [0, 1].
        training: the densities' means over the training, where they are not the same in inference.
    """
    if unseen := [name for name in densities if name not in flops]:
        warnings.warn(
            f"{', '.join(unseen)}: no FLOPs of these sparse weights were seen; ratios leave them out", stacklevel=2
        )
    layers = {name: {"dense": f, "sparse": f * densities.get(name, 1.0)} for name, f in flops.items()}
    f_dense = sum(layer["dense"] for layer in layers.values())
    f_sparse = sum(layer["sparse"] for layer in layers.values())
    f_step = f_sparse if training is None else sum(f * training.get(name, 1.0) for name, f in flops.items())
    step = (1 - dense_gradient_share) * 3 * f_step + dense_gradient_share * (2 * f_step + f_dense)
    return {
        "inference_dense": f_dense,
        "inference_sparse": f_sparse,
        "inference_ratio": f_sparse / f_dense if f_dense else None,
        "training_ratio": step / (3 * f_dense) if f_dense else None,
        "layers": layers,
    }
