"""CIFAR-100 (Krizhevsky 2009), read by torchvision."""

from collections.abc import Sequence

import torch
from torchvision.datasets import CIFAR100

from sparse_train.data.files import ensure
from sparse_train.data.memory import Data, Loading, average_pool, in_memory

FILES = {
    f"{CIFAR100.base_folder}/{name}": md5
    for name, md5 in [*CIFAR100.train_list, *CIFAR100.test_list, (CIFAR100.meta["filename"], CIFAR100.meta["md5"])]
}


def cifar100(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = 32,
    pad: int = 4,
    flip: bool = True,
    validation: int = 0,
) -> Data:
    """50,000 training and 10,000 test images of 100 classes, under `data_dir/cifar-100-python`.

    Args:
        image_size: 32, or a divisor of it: blocks of pixels are averaged.
        pad, flip: augmentation, see `TrainSplit`.
        validation: training images that are held out (`held_out`).

    The files are unpickled only after their MD5 has been checked.
    """
    fetch = (lambda place: CIFAR100(place, download=True)) if loading.download else None
    ensure(loading.data_dir, FILES, fetch, CIFAR100.url)
    splits = []
    for train in (True, False):
        raw = CIFAR100(loading.data_dir, train=train)
        images = average_pool(torch.from_numpy(raw.data).permute(0, 3, 1, 2), image_size)
        splits.append((images, torch.tensor(raw.targets)))
    return in_memory(*splits, loading, 100, mean, std, pad, flip, validation)
