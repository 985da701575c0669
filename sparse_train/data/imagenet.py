"""ImageNet (Deng et al. 2009) as a folder of images per class, decoded by workers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sparse_train.data.memory import Batch, Data, Loading, Normalize, require_batches
from sparse_train.errors import ConfigError, require
from sparse_train.randomness import derive, generator

Place = tuple[int, int]  # (epoch, index of the image): enough to decode and augment it the same way anywhere


class Augmented(Dataset):
    """Images by (epoch, index), each augmented by a generator of its own name: the same whatever worker decodes it."""

    def __init__(self, folder: ImageFolder, transform: v2.Transform, seed: int):
        self.folder, self.transform, self.seed = folder, transform, seed

    def __getitem__(self, place: Place) -> tuple[Tensor, int]:
        image, label = self.folder[place[1]]
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms read the ambient state
            torch.manual_seed(derive(self.seed, "augment", *place))
            return self.transform(image), label


class Batches(Sampler[list[Place]]):
    """This rank's part of the batches of one epoch, from the `start`-th on."""

    def __init__(self, order: Tensor, loading: Loading, epoch: int, start: int, train: bool):
        size, ranks = loading.batch_size, loading.ranks
        if train:
            count = len(order) // size
            parts = [order[loading.share(first)] for first in range(start * size, count * size, size)]
        else:
            parts = order[ranks.rank :: ranks.world].split(size)[start:]
        self.batches = [[(epoch, i) for i in part.tolist()] for part in parts]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        return iter(self.batches)


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
        self.dataset = Augmented(folder, transform, loading.seed)
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
            batch_sampler=Batches(order, self.loading, epoch, start, self.train),
            num_workers=self.loading.workers,
            pin_memory=pinned,
            generator=generator(self.loading.seed, "workers", epoch),
        )
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned)
            yield self.normalize(images.permute(0, 2, 3, 1)), labels


def imagenet(
    loading: Loading,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int = 1000,
    image_size: int = 224,
    resize: int = 256,
) -> Data:
    """Training and validation images under `data_dir/imagenet/{train,val}/<class>/`.

    Training: a random crop of 8% to 100% of the area, resized, mirrored with probability 1/2. Test: the shorter side
    to `resize`, central crop.

    Args:
        num_classes: how many class folders there must be, so that a subset is never taken for the whole.

    It must be fetched by hand, from https://image-net.org.
    """
    folders = {}
    for part in ("train", "val"):
        root = Path(loading.data_dir, "imagenet", part)
        right = f"put ImageNet's class folders under {root}, from https://image-net.org"
        require(root.is_dir(), "data_dir", loading.data_dir, right)
        try:
            folders[part] = ImageFolder(str(root))
        except FileNotFoundError as error:
            raise ConfigError("data_dir", loading.data_dir, str(error)) from error
        found = len(folders[part].classes)
        require(found == num_classes, "num_classes", num_classes, f"{root} holds {found} class folders")
    crop = v2.Compose([v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    center = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])
    normalize = Normalize(mean, std, loading.device)
    train = FolderSplit(folders["train"], crop, loading, normalize, train=True)
    test = FolderSplit(folders["val"], center, loading, normalize, train=False)
    return Data(train, test, num_classes, 3, image_size)
