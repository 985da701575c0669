"""A folder of images per class, decoded by workers: ImageNet (Deng et al. 2009), or any other."""

import hashlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from sparse_train.data.memory import Batch, Data, Loading, Normalize, held_out, require_batches
from sparse_train.errors import ConfigError, first_line, require
from sparse_train.process.signals import sheltered
from sparse_train.randomness import derive, generator
from sparse_train.record.files import read_whole

Sample = tuple[int, int]  # (epoch, index of the image): enough to decode and augment it the same way anywhere
JPEG = b"\xff\xd8"  # how such a file begins, whatever its name


class Images(ImageFolder):
    """Images by (epoch, index), each augmented by a generator of its own name: the same whatever worker decodes it.

    They lie in a folder of class folders, in alphabetical order. Hidden ones, as editors leave them, are no part.

    Args:
        root: such as `data/imagenet/train`.
    """

    def __init__(self, root: Path, loading: Loading):
        super().__init__(str(root), loader=read_image, is_valid_file=partial(is_image, root=str(root)))
        self.seed, self.data_dir = loading.seed, loading.data_dir

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        classes = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
        return classes, {name: label for label, name in enumerate(classes)}

    def some(self, which: Tensor, transform: v2.Transform) -> "Images":
        """The same folder with these of its images, transformed."""
        part = copy(self)
        part.samples, part.transform = [self.samples[i] for i in which.tolist()], transform
        return part

    def __getitem__(self, sample: Sample) -> tuple[Tensor, int] | ConfigError:
        """Image and label, or the error as a value: raising it in a worker would print two tracebacks."""
        path, label = self.samples[sample[1]]
        try:
            image = self.loader(path)
        except Exception as error:  # whatever a decoder may raise
            right = f"{path} cannot be read as an image ({first_line(error)})"
            return ConfigError("data_dir", self.data_dir, right)
        ambient = torch.get_rng_state()  # which torchvision's transforms read
        torch.default_generator.manual_seed(derive(self.seed, "augment", *sample))
        try:
            return self.transform(image), label
        finally:
            torch.set_rng_state(ambient)

    def listing(self) -> str:
        """A hash of the names, classes and sizes of all images; their number and bytes."""
        parts = [self.samples[first : first + 1000] for first in range(0, len(self.samples), 1000)]
        with ThreadPoolExecutor(16) as pool:  # a file server takes its time for each
            sizes = [
                size
                for part in pool.map(lambda part: [os.path.getsize(path) for path, _ in part], parts)
                for size in part
            ]
        total = hashlib.sha256()
        for (path, label), size in zip(self.samples, sizes, strict=True):
            total.update(f"{os.path.relpath(path, self.root)} {label} {size}\n".encode())
        return f"{total.hexdigest()[:12]} ({len(sizes)} images of {sum(sizes)} bytes)"


def is_image(path: str, root: str) -> bool:
    """Whether a file below a folder counts as one of its images: by its ending; nothing hidden does."""
    return path.lower().endswith(IMG_EXTENSIONS) and f"{os.sep}." not in path.removeprefix(root)


def read_image(path: str) -> Tensor:
    """An image file in RGB, (3, H, W) uint8.

    Raises:
        OSError: for a pipe, which would block forever, and as `decode`.
    """
    return decode(read_whole(Path(path)))


def decode(data: bytes) -> Tensor:
    """An image in RGB, (3, H, W) uint8: JPEG by torchvision, other formats by Pillow.

    Both decode JPEG to the same pixels. torchvision is faster, and resizes its tensors in half of the time that Pillow
    takes for its images; some pixels are then rounded to a neighbouring one of the 256 levels.

    Raises:
        OSError: also for more than 8 bits a channel, which would turn white.
    """
    if data.startswith(JPEG):
        try:
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError as error:  # "decode_jpeg, <file and line of its source>, <reason>"
            raise OSError(first_line(error).rpartition(", ")[2]) from error
    image = Image.open(io.BytesIO(data))
    if image.mode[0] in "IF":
        raise OSError(f"its mode is {image.mode}; save it with 8 bits a channel")
    return pil_to_tensor(image.convert("RGB"))


def collate(items: list) -> list[Tensor] | ConfigError:
    """A batch, or what is wrong with the first image that cannot be read."""
    wrong = [item for item in items if isinstance(item, ConfigError)]
    return wrong[0] if wrong else default_collate(items)


def end_if_orphaned(run: int, worker: int) -> None:
    """Exit if the run is gone. torch's watchdog looks up the parent when it starts, so it misses earlier orphans."""
    if os.getppid() != run:
        os._exit(1)


class FolderSplit:
    """A split as `Split` has it, read from disk by `workers` processes (0: by this one).

    Attributes:
        waited: seconds for which this process has waited for images in its latest epoch.
    """

    def __init__(self, images: Images, loading: Loading, normalize: Normalize, train: bool):
        if train:
            require_batches(loading, len(images))
        self.images = images
        self.loading, self.normalize, self.train, self.waited = loading, normalize, train, 0.0
        self.size = loading.batch_size if train else max(loading.batch_size // loading.ranks.world, 1)
        self.samples = len(self) * self.size if train else len(images)

    def __len__(self) -> int:
        count, ranks = len(self.images), self.loading.ranks
        return count // self.size if self.train else -(-len(range(ranks.rank, count, ranks.world)) // self.size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        loading, count, device = self.loading, len(self.images), self.loading.device
        if self.train:
            order = torch.randperm(count, generator=generator(loading.seed, "shuffle", epoch))
            parts = [order[loading.share(batch * self.size)] for batch in range(start, len(self))]
        else:
            parts = torch.arange(count)[loading.ranks.rank :: loading.ranks.world].split(self.size)[start:]
        pinned = device.type == "cuda"
        loader = DataLoader(
            self.images,
            batch_sampler=[[(epoch, i) for i in part.tolist()] for part in parts],
            collate_fn=collate,
            num_workers=min(loading.workers, len(parts)),
            worker_init_fn=partial(end_if_orphaned, os.getpid()),
            pin_memory=pinned,
            generator=generator(loading.seed, "workers", epoch),
        )
        self.waited, asked, wrong = 0.0, time.perf_counter(), None
        with sheltered():
            loaded = iter(loader)
        for batch in loaded:
            self.waited += time.perf_counter() - asked
            if isinstance(batch, ConfigError):
                wrong = batch
                break
            images, labels = batch
            images, labels = images.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned)
            yield self.normalize(images.permute(0, 2, 3, 1)), labels
            asked = time.perf_counter()
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

    A run's id knows the folder by its name alone: give another set of images another one. The record has a hash of the
    names and sizes of its files.

    Args:
        folder: such as "tiny-imagenet-200".
        num_classes: how many class folders there must be; null: as many as there are.
    """
    require(isinstance(folder, str) and folder != "", "folder", folder, "must be the name of a directory in data_dir")
    require(image_size >= 1, "image_size", image_size, "must be at least 1")
    require(resize >= image_size, "resize", resize, f"must be at least image_size, {image_size}")
    at, sets = Path(loading.data_dir, folder), {}
    for part in ("train", "val"):
        root = at / part
        found = [path.name for path in root.glob("[!.]*") if path.is_dir()]
        whose, source = ("ImageNet's", ", from https://image-net.org") if folder == "imagenet" else ("its", "")
        right = f"put {whose} class folders under {root}{source}"
        require(root.is_dir() and (found or part == "val"), "data_dir", loading.data_dir, right)
        by = "val_annotations.txt" if (root / "val_annotations.txt").exists() else "valprep.sh, for ImageNet"
        right = f"{root} is not sorted into class folders as train is: move each image to {root}/<class>/ (by {by})"
        flat = part == "val" and found in ([], ["images"]) and found != sets["train"].classes
        require(not flat, "data_dir", loading.data_dir, right)
        right = f"{root} holds {len(found)} class folders"
        require(num_classes in (None, len(found)), "num_classes", num_classes, right)
        try:
            sets[part] = Images(root, loading)
        except FileNotFoundError as error:  # a folder without an image
            raise ConfigError("data_dir", loading.data_dir, str(error)) from error
    train, val = sets["train"], sets["val"]
    # A label is a class folder's place in the alphabet: with another folder it means another class.
    only = {"train": set(train.classes) - set(val.classes), "val": set(val.classes) - set(train.classes)}
    told = [
        f"only {part} has {', '.join(sorted(names)[:5])}{' and others' * (len(names) > 5)}"
        for part, names in only.items()
        if names
    ]
    right = f"the class folders of {at}/train and val differ: {'; '.join(told)}"
    require(not told, "data_dir", loading.data_dir, right)
    files = {f"files of {part}": images.listing() for part, images in sets.items()}
    loading.ranks.require_same(files)
    crop = v2.Compose([v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()])
    center = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(image_size)])
    normalize = Normalize(mean, std, loading.device)
    aside, kept = held_out(len(train), validation)
    training = FolderSplit(train.some(kept, crop), loading, normalize, train=True)
    tests = [val.some(torch.arange(len(val)), center), *([train.some(aside, center)] if validation else [])]
    splits = [FolderSplit(images, loading, normalize, train=False) for images in tests]
    return Data(training, splits[0], len(train.classes), 3, image_size, *splits[1:], files=files)
