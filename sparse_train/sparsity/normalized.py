"""Which weights are followed by a normalization layer."""

from torch import nn

from sparse_train.sparsity.layers import WEIGHTED, bare, unwrapped

NORMALIZATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
)


def normalizations(model: nn.Module) -> dict[str, str]:
    """Weight of a linear or convolution layer -> name of the normalization layer that it feeds.

    Read off the order in which the model registers its layers, activations passed over: true of models that define
    each normalization right after its layer, as ours and timm's ResNets do.
    """
    found, previous = {}, None
    for name, module in unwrapped(model).named_modules():
        if isinstance(module, NORMALIZATIONS):
            if previous is not None:
                found[bare(f"{previous}.weight")] = bare(name)
            previous = None
        elif isinstance(module, WEIGHTED):
            previous = name
    return found
