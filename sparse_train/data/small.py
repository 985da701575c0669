"""Data sets of small images, held in memory: CIFAR-10, CIFAR-100, MNIST, and scikit-learn's digits.

The arguments of all:

    loading: where, and in which batches.
    mean, std: per channel, for pixels in [0, 1].
    image_size: the images' own, or a divisor of it: blocks of pixels are averaged.
    pad, flip: augmentation, see `TrainSplit`.
    validation: training images that are held out (`held_out`).
"""

import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, MNIST
from torchvision.datasets.utils import check_integrity

from sparse_train.data.memory import Data, Loading, in_memory
from sparse_train.errors import ConfigError, require

MNIST_FILES = {  # MD5 of the uncompressed files; torchvision knows those of the archives
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
WHITE = 16  # the largest pixel value of scikit-learn's digits


def cifar10(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = 32,
    pad: int = 4,
    flip: bool = True,
    validation: int = 0,
) -> Data:
    """50,000 training and 10,000 test images of 10 classes (Krizhevsky 2009), in `data_dir/cifar-10-batches-py`."""
    return in_memory(*_cifar(CIFAR10, loading), loading, 10, mean, std, pad, flip, validation, image_size)


def cifar100(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = 32,
    pad: int = 4,
    flip: bool = True,
    validation: int = 0,
) -> Data:
    """50,000 training and 10,000 test images of 100 classes (Krizhevsky 2009), in `data_dir/cifar-100-python`."""
    return in_memory(*_cifar(CIFAR100, loading), loading, 100, mean, std, pad, flip, validation, image_size)


def _cifar(kind: type[CIFAR10], loading: Loading) -> list[tuple[Tensor, Tensor]]:
    """Images and labels of both sets. torchvision unpickles the files, so their MD5 is checked first."""
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    files = {f"{kind.base_folder}/{name}": md5 for name, md5 in listed}
    ensure(loading.data_dir, files, (lambda place: kind(place, download=True)) if loading.download else None, kind.url)
    both = [kind(loading.data_dir, train=train) for train in (True, False)]
    return [(torch.from_numpy(raw.data).permute(0, 3, 1, 2), torch.tensor(raw.targets)) for raw in both]


def mnist(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = 28,
    pad: int = 0,
    flip: bool = False,
    validation: int = 0,
) -> Data:
    """60,000 training and 10,000 test images of 10 digits (LeCun et al. 1998), in `data_dir/MNIST/raw`."""
    fetch = (lambda place: MNIST(place, download=True)) if loading.download else None
    ensure(loading.data_dir, MNIST_FILES, fetch, f"{MNIST.mirrors[0]} (uncompressed)")
    both = [MNIST(loading.data_dir, train=train) for train in (True, False)]
    splits = [(raw.data[:, None], raw.targets) for raw in both]
    return in_memory(*splits, loading, 10, mean, std, pad, flip, validation, image_size)


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
    """scikit-learn's 1,797 images of 8x8 pixels (Alpaydin and Kaynak 1998), which need no download.

    The first `train_images` train and the others test. They are ordered by writer, so mostly other hands wrote the
    test images.
    """
    # the file itself: to import scikit-learn, SciPy and pandas takes longer than to train
    found = find_spec("sklearn")
    require(
        found is not None, "dataset", "digits", "needs scikit-learn, whose images these are: pip install scikit-learn"
    )
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = torch.from_numpy(table[:, :-1] * (255 / WHITE)).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1]).long()
    enough = 1 <= train_images < len(images)
    require(enough, "train_images", train_images, f"must be between 1 and {len(images) - 1}")
    train, test = (images[:train_images], labels[:train_images]), (images[train_images:], labels[train_images:])
    return in_memory(train, test, loading, 10, mean, std, pad, flip, validation, image_size)


# --- files that torchvision downloads ---


def ensure(data_dir: str, files: Mapping[str, str], download: Callable[[str], object] | None, source: str) -> None:
    """Make sure that every file is under `data_dir` with the right MD5, downloading what is missing.

    Args:
        files: path relative to `data_dir` -> MD5.
        download: fetches the data set into the directory that it is given; None where downloading is not wanted.
        source: where a user finds the data set, for the error.

    Raises:
        ConfigError: names each file that is missing or damaged. A damaged file is never replaced.
    """
    root = Path(data_dir)
    if not (wrong := _wrong(root, files)):
        return
    reason = "downloading is off (download=false)"
    if there := [name for name in wrong if (root / name).exists()]:
        reason = f"damaged (wrong MD5, delete to download again): {', '.join(there)}"
        if odd := [name for name in there if not (root / name).is_file()]:
            reason = f"not a regular file: {', '.join(odd)}"
    elif download is not None:
        try:
            _download(root, files, download)
            reason = "the download is incomplete"
        except Exception as error:  # torchvision raises whatever its transport did
            reason = f"the download failed ({type(error).__name__}: {error})"
        if not _wrong(root, files):
            return
    missing = [name for name in files if not (root / name).exists()]
    right = f"put {', '.join(missing)} there, from {source}" if missing else f"get the data set from {source}"
    raise ConfigError("data_dir", data_dir, f"{reason}; {right}")


def _wrong(root: Path, files: Mapping[str, str]) -> list[str]:
    return [name for name, md5 in files.items() if not check_integrity(root / name, md5)]


def _download(root: Path, files: Mapping[str, str], download: Callable[[str], object]) -> None:
    """Download and unpack elsewhere, then move each complete file into place: no partial file is ever left."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as directory, ExitStack() as after:
        after.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(30)
        place = Path(directory)
        for folder in {Path(name).parent for name in files} | {Path()}:
            (place / folder).mkdir(parents=True, exist_ok=True)
            for archive in (root / folder).glob("*.gz"):  # brought here by hand
                (place / folder / archive.name).symlink_to(archive.resolve())
        download(directory)
        for name in files.keys() - set(_wrong(place, files)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(place / name, root / name)
