"""scikit-learn's bundled handwritten digits (Alpaydin and Kaynak 1998): real images that need no download."""

from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits

from sparse_train.data.memory import Data, Loading, average_pool, in_memory
from sparse_train.errors import require

WHITE = 16  # the largest pixel value


def digits(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = 8,
    train_images: int = 500,
    pad: int = 1,
    flip: bool = False,
    validation: int = 0,
) -> Data:
    """1,797 images of 8x8 pixels; the first `train_images` train and the others test.

    The images are ordered by writer, so mostly other hands wrote the test images.

    Args:
        image_size: 8, or a divisor of it: blocks of pixels are averaged.
        pad, flip: augmentation, see `TrainSplit`.
        validation: training images that are held out (`held_out`).
    """
    raw = load_digits()
    images = torch.from_numpy(raw.images * (255 / WHITE)).round().to(torch.uint8)[:, None]
    images = average_pool(images, image_size)
    labels = torch.from_numpy(raw.target).long()
    enough = 1 <= train_images < len(images)
    require(enough, "train_images", train_images, f"must be between 1 and {len(images) - 1}")
    train, test = (images[:train_images], labels[:train_images]), (images[train_images:], labels[train_images:])
    return in_memory(train, test, loading, 10, mean, std, pad, flip, validation)
