"""ImageNet's networks come from timm."""

import timm
from torch import nn

from sparse_train.errors import require


def timm_model(
    num_classes: int, in_channels: int, name: str = "resnet50", zero_init_last: bool = False, **options
) -> nn.Module:
    """`timm.create_model` without pretrained weights.

    timm's ResNet50 strides in the 3x3 convolution, as in the paper's reading; `zero_init_last` would start the last
    normalization of each block at 0.
    """
    require(timm.is_model(name), "name", name, "timm has no such model")
    return timm.create_model(
        name, num_classes=num_classes, in_chans=in_channels, zero_init_last=zero_init_last, **options
    )
