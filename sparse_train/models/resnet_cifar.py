"""ResNet20 for small images (He et al. 2016, Section 4.2), with a width multiplier and a choice of shortcut."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from sparse_train.errors import require, require_one_of

SHORTCUTS = ("conv3x3", "conv1x1", "pad")
NORMS = ("batch", "group")
Norm = Callable[[int], nn.Module]  # from a number of channels


class PadShortcut(nn.Module):
    """He et al.'s option A: subsample in space, fill the new channels with zeros."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.extra, self.stride = out_channels - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.extra // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))


def shortcut_of(kind: str, in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """The identity where the shape stays; elsewhere what `kind` says."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(in_channels, out_channels, stride)
    kernel = {"conv3x3": 3, "conv1x1": 1}[kind]
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, norm(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with normalization, and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str, norm: Norm):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm(out_channels)
        self.shortcut = shortcut_of(shortcut, in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Three stages of three basic blocks with 16, 32 and 64 channels times `width`.

    At width 1 with 3 input channels and 100 classes it has 297,136 weights in tensors with two or more dimensions
    (`conv3x3` shortcuts).

    Args:
        num_classes, in_channels: of the data set.
        width: multiplier of all channel counts.
        shortcut: where the shape changes: "conv3x3" or "conv1x1", each with normalization, or "pad".
        norm: "batch", or "group": within `groups` groups of channels, each image by itself (Wu and He 2018). A control:
            neurons of a group share mean and variance, so that a neuron's own scale is no longer divided out.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1,
        shortcut: str = "conv3x3",
        norm: str = "batch",
        groups: int = 8,
    ):
        super().__init__()
        require_one_of("shortcut", shortcut, SHORTCUTS)
        narrow, middle, wide = widened(width)
        require_one_of("norm", norm, NORMS)
        divides = isinstance(groups, int) and groups >= 1 and not any(size % groups for size in (narrow, middle, wide))
        right = f"must be a whole number that divides {narrow}, {middle} and {wide}: the channels"
        require(norm == "batch" or divides, "groups", groups, right)
        make: Norm = nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, groups)
        self.conv1 = nn.Conv2d(in_channels, narrow, 3, padding=1, bias=False)
        self.bn1 = make(narrow)
        self.layer1 = _stage(narrow, narrow, 1, shortcut, make)
        self.layer2 = _stage(narrow, middle, 2, shortcut, make)
        self.layer3 = _stage(middle, wide, 2, shortcut, make)
        self.fc = nn.Linear(wide, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def widened(width: float) -> tuple[int, ...]:
    """Channels of the three stages: 16, 32 and 64, times `width`."""
    enough = isinstance(width, int | float) and round(16 * width) >= 1
    require(enough, "width", width, "must be a number that leaves at least one channel of 16")
    return tuple(round(channels * width) for channels in (16, 32, 64))


def _stage(in_channels: int, out_channels: int, stride: int, shortcut: str, norm: Norm) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut, norm)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, shortcut, norm) for _ in range(2)))
