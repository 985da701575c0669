"""A data set that needs no files: random images and labels, to time training by."""

from collections.abc import Sequence

import torch

from sparse_train.data.memory import Data, Loading, in_memory
from sparse_train.randomness import generator


def random_images(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = 32,
    train_images: int = 50_000,
    num_classes: int = 100,
    pad: int = 4,
    flip: bool = True,
    validation: int = 0,
) -> Data:
    """So many training images of three channels, and 10 test images; augmented as CIFAR's."""
    draw = generator(0, "random images")
    splits = [
        (
            torch.randint(256, (count, 3, image_size, image_size), generator=draw, dtype=torch.uint8),
            torch.randint(num_classes, (count,), generator=draw),
        )
        for count in (train_images, 10)
    ]
    return in_memory(*splits, loading, num_classes, mean, std, pad, flip, validation)
