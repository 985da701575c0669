"""ImageNet's networks come from timm."""

import re

import timm
from torch import nn

from sparse_train.errors import require


def timm_model(num_classes: int, in_channels: int, name: str = "resnet50", zero_init_last: bool = False) -> nn.Module:
    """One of timm's ResNets, without pretrained weights.

    timm's own function also takes weights from a file or a URL; none of its arguments passes but those named here.
    timm's ResNet50 strides in the 3x3 convolution, as in the paper's reading; `zero_init_last` would start the last
    normalization of each block at 0.
    """
    plain = isinstance(name, str) and re.fullmatch(r"\w+(\.\w+)?", name) is not None
    require(plain and timm.is_model(name), "name", name, "timm has no such model")
    require(isinstance(zero_init_last, bool), "zero_init_last", zero_init_last, "must be true or false")
    return timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels, zero_init_last=zero_init_last
    )
