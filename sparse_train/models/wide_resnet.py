"""Wide residual networks for small images (Zagoruyko and Komodakis 2016)."""

import torch.nn.functional as F
from torch import Tensor, nn

from sparse_train.errors import require
from sparse_train.models.resnet_cifar import widened


class PreActivation(nn.Module):
    """Normalization and ReLU before each of two 3x3 convolutions; where the shape changes, a 1x1 convolution beside."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        beside = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + beside


class WideResNet(nn.Module):
    """WRN-depth-width: a convolution of 16 channels, then three groups of blocks with 16, 32 and 64 times `width`.

    WRN-28-10 has 36,479,194 parameters for ten classes.

    Args:
        num_classes, in_channels: of the data set.
        depth: 6n + 4 for n blocks in each group.
        width: the multiplier k.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, depth: int = 22, width: float = 2):
        super().__init__()
        blocks = isinstance(depth, int) and depth >= 10 and (depth - 4) % 6 == 0
        require(blocks, "depth", depth, "must be 6n + 4, such as 16, 22, 28 or 40")
        sizes = [16, *widened(width)]
        self.conv1 = nn.Conv2d(in_channels, sizes[0], 3, padding=1, bias=False)
        for group, stride in enumerate((1, 2, 2)):
            ins = [sizes[group], *[sizes[group + 1]] * ((depth - 4) // 6 - 1)]
            made = [PreActivation(size, sizes[group + 1], 1 if place else stride) for place, size in enumerate(ins)]
            self.add_module(f"layer{group + 1}", nn.Sequential(*made))
        self.bn1 = nn.BatchNorm2d(sizes[-1])
        self.fc = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))
