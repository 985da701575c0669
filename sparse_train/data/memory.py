"""Small data sets live on the training device; batches are gathered, augmented and normalized there as a whole."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.process.distributed import Ranks
from sparse_train.randomness import generator

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) float32 normalized, labels (B,) int64; both on the device


class Loading(NamedTuple):
    """How any data set is loaded. Of a given one, `batch_size` and `seed` alone decide the global batches.

    Attributes:
        data_dir: where the files are.
        batch_size: the global one.
        seed: of order and augmentation.
        device: where the batches are wanted.
        download: fetch missing files, where the data set can be fetched.
        workers: processes that decode images, where there are images to decode.
        ranks: the processes of the run; each loads its share of every training batch, and of the test set.
    """

    data_dir: str
    batch_size: int
    seed: int
    device: torch.device
    download: bool = True
    workers: int = 0
    ranks: Ranks = Ranks()

    def share(self, first: int) -> slice:
        """This rank's part of the batch that begins at place `first` of an epoch."""
        part = self.batch_size // self.ranks.world
        return slice(first + self.ranks.rank * part, first + (self.ranks.rank + 1) * part)


class Split(Protocol):
    """A training or test set."""

    samples: int  # in one epoch, as trained or tested on

    def __len__(self) -> int:
        """Batches in one epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from the `start`-th on; the same every time it is called."""


class Data(NamedTuple):
    """A data set as the loop and the models see it.

    Attributes:
        validation: held out of the training images, if wanted.
        files: of images that stay in files, which may change: part -> words that tell one state of them from another.
    """

    train: Split
    test: Split
    num_classes: int
    in_channels: int
    image_size: int
    validation: Split | None = None
    files: dict[str, str] | None = None


class TrainSplit:
    """Training batches: shuffled, randomly cropped and flipped, the last partial one dropped.

    Order and augmentation of epoch e come from generators named (seed, "shuffle" / "augment", e), drawn for the whole
    epoch at once, so any batch can be made again without those before it.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,).
        loading: its batch size must be at most N.
        mean, std: per channel, for pixels in [0, 1].
        pad: black pixels added on each side before a random crop of the original size; 0 for no crops.
        flip: mirror each image left to right with probability 1/2.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        loading: Loading,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int = 0,
        flip: bool = False,
    ):
        self.loading, self.batch_size, self.seed, device = loading, loading.batch_size, loading.seed, loading.device
        require_batches(loading, len(images))
        require(pad >= 0, "pad", pad, "must be at least 0")
        self.size, self.pad, self.flip = images.shape[-1], pad, flip
        # Channels last: a pixel's channels lie together for the gather, and the result is channels_last for free.
        self.images = torch.nn.functional.pad(images, [pad] * 4).permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = labels.to(device)
        self.normalize = Normalize(mean, std, device)
        self.samples = len(self) * self.batch_size

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        count, device, augment = len(self.images), self.images.device, generator(self.seed, "augment", epoch)
        order = torch.randperm(count, generator=generator(self.seed, "shuffle", epoch)).to(device)
        top, left = torch.randint(2 * self.pad + 1, (2, count, 1), generator=augment).to(device)
        mirrored = (torch.rand(count, 1, generator=augment) < (0.5 if self.flip else 0.0)).to(device)
        span = torch.arange(self.size, device=device)
        for first in range(start * self.batch_size, self.samples, self.batch_size):
            batch = self.loading.share(first)
            if not (self.pad or self.flip):  # whole images are several times faster to take than pixels
                yield self.normalize(self.images[order[batch]]), self.labels[order[batch]]
                continue
            which, rows = order[batch], top[batch] + span  # (B,), (B, H)
            columns = left[batch] + torch.where(mirrored[batch], span.flip(0), span)  # (B, W)
            pixels = self.images[which[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield self.normalize(pixels), self.labels[which]


class EvalSplit:
    """Test batches: in order, each image once, the last batch as small as it comes; a rank has every world-th image."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        loading: Loading,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = 1000,
    ):
        mine = slice(loading.ranks.rank, None, loading.ranks.world)
        self.images = images[mine].permute(0, 2, 3, 1).contiguous().to(loading.device)
        self.labels = labels[mine].to(loading.device)
        self.batch_size, self.samples = batch_size, len(self.labels)
        self.normalize = Normalize(mean, std, loading.device)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        for first in range(start * self.batch_size, self.samples, self.batch_size):
            batch = slice(first, first + self.batch_size)
            yield self.normalize(self.images[batch]), self.labels[batch]


def in_memory(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    loading: Loading,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    pad: int,
    flip: bool,
    validation: int = 0,
    image_size: int | None = None,
) -> Data:
    """A data set of square uint8 images (N, C, H, W) and labels, held on the device.

    Args:
        validation: how many of the training images are held out (`held_out`) and tested on as they are.
        image_size: their own (None), or a divisor of it: blocks of pixels are averaged (`average_pool`).

    Raises:
        ConfigError: for images of another kind or shape, and for constants that do not fit them.
    """
    channels, size = train[0].shape[1], train[0].shape[-1]
    for images, _ in (train, test):
        found = f"{images.dtype} {tuple(images.shape)}"
        fits = images.dtype == torch.uint8 and images.shape[1:] == (channels, size, size)
        require(fits, "images", found, "must be uint8 (N, C, H, H): square pixels from 0 to 255, alike in both sets")
    for key, values in (("mean", mean), ("std", std)):
        require(len(values) == channels, key, list(values), f"must have one number per channel, {channels}")
    if image_size is not None:
        train, test = ((average_pool(images, image_size), labels) for images, labels in (train, test))
    if loading.ranks.world > 1:
        loading.ranks.require_same({"training data": checksum(*train), "test data": checksum(*test)})
    aside, kept = held_out(len(train[0]), validation)
    tests = [test, *([(train[0][aside], train[1][aside])] if validation else [])]
    splits = [EvalSplit(*one, loading, mean, std) for one in tests]
    train = (train[0][kept], train[1][kept]) if validation else train
    train_split = TrainSplit(*train, loading, mean, std, pad, flip)
    return Data(train_split, splits[0], num_classes, channels, train[0].shape[-1], *splits[1:])


def held_out(images: int, validation: int) -> tuple[Tensor, Tensor]:
    """Which training images are held out, and which are kept, each in order: the same whatever the run's seed."""
    known = isinstance(validation, int) and 0 <= validation < images
    require(known, "validation", validation, f"must be between 0 and {images - 1}: training images to hold out")
    order = torch.randperm(images, generator=generator(0, "validation"))
    return order[:validation].sort().values, order[validation:].sort().values


def checksum(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()[:12]


class Normalize:
    """(B, H, W, C) uint8 -> (B, C, H, W) float32 in channels_last layout: (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device):
        mean_, std_ = torch.tensor(list(mean), device=device), torch.tensor(list(std), device=device)
        self.scale, self.shift = 1 / (255 * std_), -mean_ / std_

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(self.shift, pixels.float(), self.scale).permute(0, 3, 1, 2)


def require_batches(loading: Loading, images: int) -> None:
    """An epoch must have at least one whole batch, and each rank the same share of it."""
    size, world = loading.batch_size, loading.ranks.world
    require(1 <= size <= images, "batch_size", size, f"must be between 1 and the {images} training images")
    require(size % world == 0, "batch_size", size, f"must be divisible by the number of processes, {world}")


def average_pool(images: Tensor, size: int) -> Tensor:
    """uint8 images (N, C, H, W) made `size` x `size` by averaging square blocks of pixels, rounded.

    Raises:
        ConfigError: if `size` does not divide the images' size.
    """
    full = images.shape[-1]
    require(size > 0 and full % size == 0, "image_size", size, f"must divide the images' own size, {full}")
    if size == full:
        return images
    block = full // size
    blocks = images.view(*images.shape[:2], size, block, size, block)
    return blocks.float().mean((3, 5)).round().to(torch.uint8)
