"""A folder of images per class, decoded by workers: ImageNet (Deng et al. 2009), or any other."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

from sparse_train.data.memory import Batch, Data, Loading, Normalize, held_out, require_batches
from sparse_train.errors import ConfigError, first_line, require
from sparse_train.process.signals import sheltered
from sparse_train.randomness import derive, generator

Sample = tuple[int, int]  # (epoch, index of the image): enough to decode and augment it the same way anywhere


class Augmented(Dataset):
    """Images by (epoch, index), each augmented by a generator of its own name: the same whatever worker decodes it."""

    def __init__(self, folder: ImageFolder, transform: v2.Transform, loading: Loading):
        self.folder, self.transform = folder, transform
        self.seed, self.data_dir = loading.seed, loading.data_dir

    def __getitem__(self, sample: Sample) -> tuple[Tensor, int] | ConfigError:
        """Image and label, or the error as a value: raising it in a worker would print two tracebacks."""
        try:
            image, label = self.folder[sample[1]]
        except Exception as error:  # whatever a decoder may raise
            path, reason = self.folder.samples[sample[1]][0], first_line(error)
            return ConfigError("data_dir", self.data_dir, f"{path} cannot be read as an image ({reason})")
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms read the ambient state
            torch.manual_seed(derive(self.seed, "augment", *sample))
            return self.transform(image), label


def collate(items: list) -> list[Tensor] | ConfigError:
    """A batch, or what is wrong with the first image that cannot be read."""
    wrong = [item for item in items if isinstance(item, ConfigError)]
    return wrong[0] if wrong else default_collate(items)


def read_image(path: str) -> Image:
    """Load an image. Refuse a pipe, which would block forever."""
    if not os.path.isfile(path):
        raise OSError("not a regular file")
    return default_loader(path)


def end_if_orphaned(run: int, worker: int) -> None:
    """Exit if the run is gone. torch's watchdog looks up the parent when it starts, so it misses earlier orphans."""
    if os.getppid() != run:
        os._exit(1)


def batches(order: Tensor, loading: Loading, epoch: int, start: int, train: bool) -> list[list[Sample]]:
    """This rank's part of the batches of one epoch, from the `start`-th on."""
    size, ranks = loading.batch_size, loading.ranks
    if train:
        count = len(order) // size
        parts = [order[loading.share(first)] for first in range(start * size, count * size, size)]
    else:
        parts = order[ranks.rank :: ranks.world].split(size)[start:]
    return [[(epoch, i) for i in part.tolist()] for part in parts]


class FolderSplit:
    """A split as `Split` has it, read from disk by `workers` processes (0: by this one)."""

    def __init__(
        self,
        folder: ImageFolder,
        transform: v2.Transform,
        loading: Loading,
        normalize: Normalize,
        train: bool,
    ):
        batch_size = loading.batch_size
        if train:
            require_batches(loading, len(folder))
        self.dataset = Augmented(folder, transform, loading)
        self.loading, self.normalize, self.train, self.batch_size = loading, normalize, train, batch_size
        self.samples = len(self) * batch_size if train else len(folder)

    def __len__(self) -> int:
        count, ranks = len(self.dataset.folder), self.loading.ranks
        if self.train:
            return count // self.batch_size
        return -(-len(range(ranks.rank, count, ranks.world)) // self.batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        count = len(self.dataset.folder)
        shuffle = generator(self.loading.seed, "shuffle", epoch)
        order = torch.randperm(count, generator=shuffle) if self.train else torch.arange(count)
        device = self.loading.device
        pinned = device.type == "cuda"
        loader = DataLoader(
            self.dataset,
            batch_sampler=batches(order, self.loading, epoch, start, self.train),
            collate_fn=collate,
            num_workers=self.loading.workers,
            worker_init_fn=partial(end_if_orphaned, os.getpid()),
            pin_memory=pinned,
            generator=generator(self.loading.seed, "workers", epoch),
        )
        with sheltered():
            loaded = iter(loader)
        wrong = None
        for batch in loaded:
            if isinstance(batch, ConfigError):
                wrong = batch
                break
            images, labels = batch
            images, labels = images.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned)
            yield self.normalize(images.permute(0, 2, 3, 1)), labels
        del loaded  # ends the workers now: an error would keep them for as long as it is looked at
        if wrong is not None:
            raise wrong


def imagenet(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int = 1000,
    image_size: int = 224,
    resize: int = 256,
    validation: int = 0,
) -> Data:
    """Training and validation images under `data_dir/imagenet/{train,val}/<class>/`.

    Training: a random crop of 8% to 100% of the area, resized, mirrored with probability 1/2. Test: the shorter side
    to `resize`, central crop.

    Args:
        num_classes: how many class folders there must be, so that a subset is never taken for the whole.
        validation: training images that are held out (`held_out`) and treated like test images.

    It must be fetched by hand, from https://image-net.org.
    """
    return imagefolder(loading, mean, std, "imagenet", num_classes, image_size, resize, validation)


def imagefolder(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    folder: str = "imagefolder",
    num_classes: int | None = None,
    image_size: int = 224,
    resize: int = 256,
    validation: int = 0,
) -> Data:
    """Any images under `data_dir/<folder>/{train,val}/<class>/`, treated as `imagenet`'s.

    A run's id knows the folder by its name: give another set of images another one.

    Args:
        folder: such as "tiny-imagenet-200".
        num_classes: how many class folders there must be; null: as many as there are.
    """
    require(isinstance(folder, str) and folder != "", "folder", folder, "must be the name of a directory in data_dir")
    require(image_size >= 1, "image_size", image_size, "must be at least 1")
    require(resize >= image_size, "resize", resize, f"must be at least image_size, {image_size}")
    folders = {}
    for part in ("train", "val"):
        root = Path(loading.data_dir, folder, part)
        right = f"put its class folders under {root}"
        if folder == "imagenet":
            right = f"put ImageNet's class folders under {root}, from https://image-net.org"
        require(root.is_dir(), "data_dir", loading.data_dir, right)
        try:
            folders[part] = ImageFolder(str(root), loader=read_image)
        except FileNotFoundError as error:
            raise ConfigError("data_dir", loading.data_dir, str(error)) from error
        found = len(folders[part].classes)
        right = f"{root} holds {found} class folders"
        require(num_classes in (None, found), "num_classes", num_classes, right)
    _require_same_classes(folders["train"], folders["val"], loading)
    if loading.ranks.world > 1:
        loading.ranks.require_same({f"files of {part}": _listing(folder) for part, folder in folders.items()})
    crop = v2.Compose([v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    center = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])
    normalize = Normalize(mean, std, loading.device)
    aside, kept = (_some(folders["train"], which) for which in held_out(len(folders["train"]), validation))
    train = FolderSplit(kept, crop, loading, normalize, train=True)
    tests = [folders["val"], *([aside] if validation else [])]
    splits = [FolderSplit(folder, center, loading, normalize, train=False) for folder in tests]
    return Data(train, splits[0], len(folders["train"].classes), 3, image_size, *splits[1:])


def _some(folder: ImageFolder, which: Tensor) -> ImageFolder:
    """The same folder with these of its images."""
    part = copy(folder)
    part.samples = [folder.samples[i] for i in which.tolist()]
    return part


def _require_same_classes(train: ImageFolder, val: ImageFolder, loading: Loading) -> None:
    """A label is a class folder's place in the alphabet: with another folder it means another class."""
    known = {"train": set(train.classes), "val": set(val.classes)}
    only = {"train": sorted(known["train"] - known["val"]), "val": sorted(known["val"] - known["train"])}
    told = [f"only {part} has {', '.join(n[:5])}{' and others' * (len(n) > 5)}" for part, n in only.items() if n]
    right = f"the class folders of {Path(train.root).parent}/train and val differ: {'; '.join(told)}"
    require(not told, "data_dir", loading.data_dir, right)


def _listing(folder: ImageFolder) -> str:
    """A checksum of which images there are, and of which class."""
    names = "\n".join(f"{os.path.relpath(path, folder.root)} {label}" for path, label in folder.samples)
    return hashlib.sha256(names.encode()).hexdigest()[:12]
