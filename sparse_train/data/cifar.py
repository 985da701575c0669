"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read by torchvision."""

from collections.abc import Sequence

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from sparse_train.data.files import ensure
from sparse_train.data.memory import Data, Loading, average_pool, in_memory


def cifar10(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = 32,
    pad: int = 4,
    flip: bool = True,
    validation: int = 0,
) -> Data:
    """50,000 training and 10,000 test images of 10 classes, under `data_dir/cifar-10-batches-py`.

    The arguments are those of `cifar100`.
    """
    return in_memory(*_read(CIFAR10, loading, image_size), loading, 10, mean, std, pad, flip, validation)


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
    return in_memory(*_read(CIFAR100, loading, image_size), loading, 100, mean, std, pad, flip, validation)


def _read(kind: type[CIFAR10], loading: Loading, image_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels of the training and the test set."""
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    files = {f"{kind.base_folder}/{name}": md5 for name, md5 in listed}
    ensure(loading.data_dir, files, (lambda place: kind(place, download=True)) if loading.download else None, kind.url)
    splits = []
    for train in (True, False):
        raw = kind(loading.data_dir, train=train)
        images = average_pool(torch.from_numpy(raw.data).permute(0, 3, 1, 2), image_size)
        splits.append((images, torch.tensor(raw.targets)))
    return splits
