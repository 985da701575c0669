"""MNIST (LeCun et al. 1998), read by torchvision."""

from collections.abc import Sequence

from torchvision.datasets import MNIST

from sparse_train.data.files import ensure
from sparse_train.data.memory import Data, Loading, average_pool, in_memory

FILES = {  # MD5 of the uncompressed files; torchvision knows those of the archives
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def mnist(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = 28,
    pad: int = 0,
    flip: bool = False,
    validation: int = 0,
) -> Data:
    """60,000 training and 10,000 test images of 10 digits, under `data_dir/MNIST/raw`.

    Args:
        image_size: 28, or a divisor of it: blocks of pixels are averaged.
        pad, flip: augmentation, see `TrainSplit`.
        validation: training images that are held out (`held_out`).
    """
    fetch = (lambda place: MNIST(place, download=True)) if loading.download else None
    ensure(loading.data_dir, FILES, fetch, f"{MNIST.mirrors[0]} (uncompressed)")
    splits = []
    for train in (True, False):
        raw = MNIST(loading.data_dir, train=train)
        splits.append((average_pool(raw.data[:, None], image_size), raw.targets))
    return in_memory(*splits, loading, 10, mean, std, pad, flip, validation)
