import hashlib
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, MNIST
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from sparse_train.data import small
from sparse_train.data.imagenet import imagefolder, imagenet, read_image
from sparse_train.data.memory import EvalSplit, Loading, TrainSplit, average_pool, in_memory
from sparse_train.data.small import cifar10, cifar100, digits, mnist
from sparse_train.errors import ConfigError
from sparse_train.process.distributed import Ranks
from sparse_train.randomness import derive, generator

CPU = torch.device("cpu")


def loading(data_dir="nowhere", batch_size=4, seed=0, **options):
    return Loading(str(data_dir), batch_size, seed, CPU, **{"download": False, **options})


def numbered(count=10, size=6):
    """Images that tell their own index and pixel: value = index in channel 0, row in 1, column in 2."""
    images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    images[:, 0] = torch.arange(count)[:, None, None] + 1
    images[:, 1] = torch.arange(size)[:, None] + 1
    images[:, 2] = torch.arange(size)[None, :] + 1
    return images, torch.arange(count)


def pixels(images):
    """Undo mean 0 and std 1."""
    return (images * 255).round().int()


def train_split(**options):
    return TrainSplit(*numbered(), loading(), [0.0] * 3, [1.0] * 3, **options)


def images_of(split, epoch=0):
    return [image.numpy().tobytes() for images, _ in split.epoch(epoch) for image in images]


MADE = {"digits": partial(digits, train_images=40), "cifar100": cifar100, "mnist": mnist}
CHANNELS = {"digits": 1, "cifar100": 3, "mnist": 1}


@pytest.fixture(params=MADE)
def data_set(request):
    """The name of a small data set, where its files are, and how it is made of options."""
    name = request.param
    root = "nowhere" if name == "digits" else request.getfixturevalue(f"{name.removesuffix('100')}_dir")

    def made(pad=0, flip=False, validation=0, **options):
        statistics = [0.0] * CHANNELS[name], [1.0] * CHANNELS[name]
        return MADE[name](loading(root, **options), *statistics, pad=pad, flip=flip, validation=validation)

    return name, root, made


def test_training_has_every_image_once_but_the_last_partial_batch_and_the_test_all_in_order():
    split = train_split()
    batches = list(split.epoch(0))
    assert (len(split), len(batches), split.samples) == (2, 2, 8)
    assert len({int(label) for _, labels in batches for label in labels}) == 8
    for images, labels in batches:
        assert images.dtype == torch.float32
        assert torch.equal(pixels(images)[:, 0, 3, 3], labels.int() + 1)
    test = EvalSplit(*numbered(), loading(), [0.5] * 3, [0.25] * 3, batch_size=4)
    images, labels = (torch.cat(part) for part in zip(*test.epoch(), strict=True))
    assert [len(labels) for _, labels in test.epoch()] == [4, 4, 2]
    assert labels.tolist() == list(range(10))
    torch.testing.assert_close(images, (numbered()[0].float() / 255 - 0.5) / 0.25)


def test_order_and_augmentation_follow_seed_and_epoch_alone():
    """Augmentation is asked of one image many times over, so that the order says nothing."""
    split = train_split(pad=2, flip=True)
    first, other_epoch = images_of(split, 3), images_of(split, 4)
    torch.manual_seed(99)
    assert images_of(train_split(pad=2, flip=True), 3) == first != other_epoch
    [late] = split.epoch(3, start=1)
    assert [image.numpy().tobytes() for image in late[0]] == first[4:]
    same = numbered(1)[0].expand(8, -1, -1, -1), torch.zeros(8).long()
    one, other = (
        TrainSplit(*same, loading(batch_size=8, seed=seed), [0.0] * 3, [1.0] * 3, pad=2, flip=True) for seed in (1, 2)
    )
    assert images_of(one) != images_of(other)


@pytest.mark.parametrize(
    ("make", "place"), [(lambda x: x[..., :4], 0), (lambda x: x / 255, 1), (lambda x: x[:, :2], 0)]
)
def test_own_images_of_another_kind_or_shape_are_refused(make, place):
    """A crop of the width's size would train on a corner of taller images."""
    images, labels = numbered()
    given = [(images, labels), (images, labels)]
    options = {"num_classes": 10, "mean": [0.0] * 3, "std": [1.0] * 3, "pad": 0, "flip": False}
    assert in_memory(*given, loading(), **options).image_size == 6
    given[place] = (make(images), labels)
    with pytest.raises(ConfigError, match="must be uint8|must have one number per channel"):
        in_memory(*given, loading(), **options)


def test_average_pool():
    images = torch.tensor([[[[0, 4, 1, 2], [8, 0, 2, 1], [9, 9, 0, 0], [9, 9, 0, 255]]]], dtype=torch.uint8)
    assert average_pool(images, 2).tolist() == [[[[3, 2], [9, 64]]]]
    assert torch.equal(average_pool(images, 4), images)
    for size in (3, 8, 0):
        with pytest.raises(ConfigError, match=f"image_size={size}: must divide"):
            average_pool(images, size)


def test_digits_are_there_without_a_download():
    data = digits(loading(batch_size=50), [0.3], [0.4])
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 8)
    assert data.train.samples == 500
    assert data.test.samples == 1297
    labels = torch.cat([labels for _, labels in data.test.epoch()])
    assert labels.bincount(minlength=10).min() > 100
    images, _ = next(iter(data.train.epoch(0)))
    assert images.shape == (50, 1, 8, 8)
    for batch_size in (0, 501):
        with pytest.raises(ConfigError, match=f"batch_size={batch_size}: must be between 1 and the 500"):
            digits(loading(batch_size=batch_size), [0.3], [0.4])
    with pytest.raises(ConfigError, match="train_images=1797"):
        digits(loading(), [0.3], [0.4], train_images=1797)


def test_held_out_images_are_never_trained_on_and_the_same_for_every_seed(data_set):
    *_, made = data_set
    whole, first, second = (made(batch_size=1, seed=seed, validation=n) for seed, n in ((0, 0), (0, 3), (1, 3)))
    assert whole.validation is None
    assert (first.train.samples, first.validation.samples) == (whole.train.samples - 3, 3)
    assert images_of(first.validation) == images_of(second.validation)
    assert images_of(first.test) == images_of(whole.test)
    every = sorted(images_of(first.validation) + images_of(first.train))
    assert every == sorted(images_of(second.validation) + images_of(second.train, 3)) == sorted(images_of(whole.train))
    for count in (-1, whole.train.samples, 1.5):
        with pytest.raises(ConfigError, match=f"validation={count}: must be between 0 and {whole.train.samples - 1}"):
            made(validation=count)


# --- CIFAR-100 ---


@pytest.mark.parametrize(("made", "torchvisions", "classes"), [(cifar100, CIFAR100, 100), (cifar10, CIFAR10, 10)])
def test_cifar_is_read_as_torchvision_has_it(cifar_dir, monkeypatch, made, torchvisions, classes):
    if torchvisions is CIFAR10:  # of the same form, in a place of its own
        (cifar_dir / "cifar-100-python").rename(cifar_dir / "cifar-10-batches-py")
        for part in ("train_list", "test_list", "meta"):
            monkeypatch.setattr(CIFAR10, part, getattr(CIFAR100, part))
    data = made(loading(cifar_dir, batch_size=8), [0.0] * 3, [1.0] * 3, pad=0, flip=False)
    assert (data.num_classes, data.in_channels, data.image_size, data.train.samples) == (classes, 3, 32, 40)
    raw = torchvisions(str(cifar_dir), train=False)
    images, labels = next(iter(data.test.epoch()))
    assert torch.equal(pixels(images), torch.from_numpy(raw.data).permute(0, 3, 1, 2).int())
    assert labels.tolist() == raw.targets
    assert made(loading(cifar_dir), [0.0] * 3, [1.0] * 3, image_size=16).image_size == 16


def test_cifar_that_is_missing_or_damaged_is_named(cifar_dir):
    with pytest.raises(ConfigError, match=r"data_dir=nowhere: downloading is off.*put cifar-100-python/train"):
        cifar100(loading("nowhere"), [0.0] * 3, [1.0] * 3)
    train = cifar_dir / "cifar-100-python" / "train"
    whole = train.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        train.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"damaged \(wrong MD5.*cifar-100-python/train"):
            cifar100(loading(cifar_dir, download=True), [0.0] * 3, [1.0] * 3)
        assert train.read_bytes() == damaged, "a damaged file is the user's to delete"
    for make in (os.mkdir, os.mkfifo):
        train.unlink()
        make(train)
        with pytest.raises(
            ConfigError, match=r"not a regular file: cifar-100-python/train; get the data set from https"
        ):
            cifar100(loading(cifar_dir), [0.0] * 3, [1.0] * 3)
        train.rmdir() if train.is_dir() else train.unlink()
        train.touch()


def test_a_download_that_fails_or_is_broken_off_leaves_nothing(cifar_dir, tmp_path, monkeypatch):
    """As SIGTERM breaks it off: the same command then starts over, and nothing has to be deleted by hand."""
    target = tmp_path / "fresh"

    def unreachable(self):
        raise OSError("no route")

    def whole(self):
        shutil.copytree(f"{cifar_dir}/cifar-100-python", f"{self.root}/cifar-100-python", dirs_exist_ok=True)

    def broken_off(self):
        whole(self)
        with open(f"{self.root}/cifar-100-python/test", "r+b") as file:
            file.truncate(100)
        sys.exit(143)

    def downloaded(by):
        monkeypatch.setattr(CIFAR100, "download", by)
        return cifar100(loading(target, download=True), [0.0] * 3, [1.0] * 3)

    with pytest.raises(ConfigError, match=r"the download failed \(OSError: no route\); put .*test.*https://"):
        downloaded(unreachable)
    with pytest.raises(SystemExit):
        downloaded(broken_off)
    assert not list(target.iterdir())
    assert downloaded(whole).train.samples == 40


def test_an_archive_that_is_there_is_not_fetched_again(cifar_dir, tmp_path, monkeypatch):
    target = tmp_path / "fresh"
    target.mkdir()
    archive = shutil.make_archive(str(target / "cifar-100-python"), "gztar", cifar_dir, "cifar-100-python")
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(Path(archive).read_bytes()).hexdigest())
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("fetched"))
    assert cifar100(loading(target, download=True), [0.0] * 3, [1.0] * 3).train.samples == 40
    assert sorted(path.name for path in target.iterdir()) == ["cifar-100-python", "cifar-100-python.tar.gz"]


# --- MNIST ---


@pytest.fixture
def mnist_dir(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random, md5 = np.random.default_rng(0), {}
    for part, count in (("train", 12), ("t10k", 6)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = np.array([2051, count, 28, 28], dtype=">i4").tobytes()
        labels = np.array([2049, count], dtype=">i4").tobytes() + bytes(i % 10 for i in range(count))
        for kind, content in (("images-idx3", header + images.tobytes()), ("labels-idx1", labels)):
            file = raw / f"{part}-{kind}-ubyte"
            file.write_bytes(content)
            md5[f"MNIST/raw/{file.name}"] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(small, "MNIST_FILES", md5)
    return tmp_path


def test_mnist(mnist_dir):
    data = mnist(loading(mnist_dir), [0.1307], [0.3081])
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 28)
    assert data.train.samples == 12
    assert data.test.samples == 6
    assert mnist(loading(mnist_dir), [0.0], [1.0], image_size=14).image_size == 14
    (mnist_dir / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"damaged.*t10k-labels-idx1-ubyte"):
        mnist(loading(mnist_dir), [0.1307], [0.3081])


# --- what augmentation each data set has is its own keys' choice ---


def views(images, labels, pad):
    """Bytes of every shift of every image, mirrored or not -> {(label, rows, columns, mirrored)}, by numpy alone."""
    height, width = images.shape[2:]
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    found = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crops = padded[:, :, top : top + height, left : left + width]
            for mirrored in (False, True):
                for crop, label in zip(crops[..., ::-1] if mirrored else crops, labels.tolist(), strict=True):
                    found.setdefault(crop.tobytes(), set()).add((label, top - pad, left - pad, mirrored))
    return found


def originals(name, root):
    """Training images and labels as torchvision and scikit-learn have them."""
    if name == "cifar100":
        raw = CIFAR100(str(root))
        return torch.from_numpy(raw.data).permute(0, 3, 1, 2), torch.tensor(raw.targets)
    if name == "mnist":
        raw = MNIST(str(root))
        return raw.data[:, None], raw.targets
    raw = load_digits()
    return torch.from_numpy(raw.images[:40] * 255 / 16).round().to(torch.uint8)[:, None], torch.tensor(raw.target[:40])


@pytest.mark.parametrize(("pad", "flip"), [(0, False), (2, False), (1, True)])
def test_pad_and_flip_are_honoured(data_set, pad, flip):
    """Every training image is a view of an original with its label, within the padding, mirrored only if asked."""
    name, root, made = data_set
    split, known, seen = made(pad=pad, flip=flip).train, views(*originals(name, root), pad), []
    for epoch in range(8 if name == "mnist" else 3):
        for batch, batch_labels in split.epoch(epoch):
            for image, label in zip(pixels(batch).to(torch.uint8), batch_labels.tolist(), strict=True):
                fitting = {view[1:] for view in known[image.numpy().tobytes()] if view[0] == label}
                assert fitting, "an image with another one's label"
                if len(fitting) == 1:  # else the image is symmetric
                    seen += fitting
    assert len(seen) > 70
    assert {rows for rows, _, _ in seen} == {columns for _, columns, _ in seen} == set(range(-pad, pad + 1))
    assert len({view[:2] for view in seen}) > (2 * pad + 1) ** 2 / 2, "rows and columns shift independently"
    mirrored = sum(mirrored for *_, mirrored in seen) / len(seen)
    assert 0.35 < mirrored < 0.65 if flip else mirrored == 0


# --- ImageNet: a folder of photos ---


def folder_data(root, validation=0, **options):
    sizes = {"num_classes": 2, "image_size": 16, "resize": 20, "validation": validation}
    return imagenet(loading(root, **options), [0.5] * 3, [0.25] * 3, **sizes)


def test_imagenet_is_read_in_order_from_anywhere_and_leaves_the_ambient_state_alone(image_folder):
    data = folder_data(image_folder)
    assert (len(data.train), data.train.samples, len(data.test), data.test.samples) == (2, 8, 2, 6)
    before = torch.random.get_rng_state()
    first = images_of(data.train)
    assert torch.equal(torch.random.get_rng_state(), before)
    [late] = data.train.epoch(0, start=1)
    assert [image.numpy().tobytes() for image in late[0]] == first[4:]
    assert images_of(data.train, 1) != first
    whole, some = folder_data(image_folder, batch_size=1), folder_data(image_folder, batch_size=1, validation=3)
    kept, aside, every = (split.images.samples for split in (some.train, some.validation, whole.train))
    assert (len(aside), sorted(kept + aside)) == (3, every)
    assert images_of(some.test) == images_of(whole.test)
    assert images_of(some.validation) == images_of(some.validation, 1), "no augmentation"
    assert whole.validation is None


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def require_rounded(made, expected):
    """Tensors are resized with fewer bits than Pillow has: some pixels are one of 256 levels off."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    apart = (((made * std + mean) * 255).round().int() - pil_to_tensor(expected).int()).abs()
    assert apart.max() <= 1
    assert apart.float().mean() < 0.03


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("part", ["train", "val"])
def test_imagenet_transforms_as_torchvision_does_with_the_seed_of_each_image(image_folder, part, workers):
    """Pillow reads the images here, in the order of their paths; a test takes the centre of each."""
    data = imagenet(loading(image_folder, seed=3, workers=workers), MEAN, STD, 2, image_size=16, resize=20)
    paths = sorted((image_folder / "imagenet" / part).glob("*/*"))
    augment = v2.Compose(
        [v2.RandomResizedCrop(16, (0.08, 1.0), (3 / 4, 4 / 3), antialias=True), v2.RandomHorizontalFlip(0.5)]
    )
    center = v2.Compose([v2.Resize(20, antialias=True), v2.CenterCrop(16)])
    order = torch.randperm(10, generator=generator(3, "shuffle", 1)).tolist()[:8] if part == "train" else range(6)
    split = data.train if part == "train" else data.test
    made = [pair for batch in split.epoch(1) for pair in zip(*batch, strict=True)]
    for (image, label), index in zip(made, order, strict=True):
        torch.manual_seed(derive(3, "augment", 1, index))
        original = Image.open(paths[index]).convert("RGB")
        require_rounded(image, augment(original) if part == "train" else center(original))
        assert label == (paths[index].parent.name == "n02")


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("RGB", {"subsampling": 0, "progressive": True}), ("L", {}), ("CMYK", {})],
    ids=["plain", "progressive", "grey", "CMYK"],
)
def test_jpeg_is_decoded_to_the_pixels_that_pillow_has(tmp_path, mode, options):
    """Also under another format's name, as ImageNet has one."""
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    blocks = np.random.default_rng(0).integers(0, 256, (6, 9, channels), dtype=np.uint8).repeat(7, 0).repeat(7, 1)
    path = tmp_path / "photo.png"
    Image.fromarray(blocks.squeeze(), mode).save(path, "JPEG", **options)
    with Image.open(path) as image:
        expected = pil_to_tensor(image.convert("RGB"))
    assert torch.equal(read_image(str(path)), expected)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(OSError, match=r"^Image is incomplete or truncated$"):
        read_image(str(path))


def test_a_listing_tells_files_of_other_names_sizes_or_classes_apart(image_folder):
    """And nothing else: the place and the time of a copy do not count."""
    train, found = image_folder / "imagenet" / "train", []
    shutil.copytree(image_folder, image_folder / "copy")

    def swap(one, other):
        data = one.read_bytes(), other.read_bytes()
        assert len(data[0]) != len(data[1])
        one.write_bytes(data[1]), other.write_bytes(data[0])

    for change in (
        lambda: None,
        lambda: swap(train / "n01" / "0.png", train / "n02" / "1.png"),
        lambda: (train / "n01" / "0.png").rename(train / "n01" / "00.png"),
        lambda: (train / "n01" / "00.png").rename(train / "n02" / "00.png"),
    ):
        change()
        found.append(folder_data(image_folder).files)
    assert folder_data(image_folder / "copy").files == found[0]
    assert len({one["files of train"] for one in found}) == 4
    assert len({one["files of val"] for one in found}) == 1
    size = sum(path.stat().st_size for path in train.glob("*/*"))
    assert found[-1]["files of train"].endswith(f" (10 images of {size} bytes)")


def test_any_folder_of_classes_is_read_as_imagenet_is(image_folder):
    expected = folder_data(image_folder)
    (image_folder / "photos").symlink_to(image_folder / "imagenet")
    data = imagefolder(loading(image_folder), [0.5] * 3, [0.25] * 3, folder="photos", image_size=16, resize=20)
    assert (data.num_classes, data.in_channels, data.image_size) == (2, 3, 16)
    for part in ("train", "test"):
        assert images_of(getattr(data, part), 1) == images_of(getattr(expected, part), 1)


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (imagenet, {"place": "nowhere"}, r"data_dir=.*put ImageNet's class folders under"),
        (imagenet, {}, r"num_classes=1000: .* holds 2 class folders"),
        (
            imagefolder,
            {"folder": "imagenet", "num_classes": 3},
            r"num_classes=3: .*imagenet/train holds 2 class folders",
        ),
        (imagefolder, {}, r"data_dir=.*: put its class folders under .*/imagefolder/train$"),
        (imagenet, {"num_classes": 2, "batch_size": 11}, "batch_size=11: must be between 1 and the 10 training images"),
        # Labels are places in the alphabet: a class called otherwise would be taken for its neighbour.
        (
            imagenet,
            {"num_classes": 2, "rename": "n03"},
            r"data_dir=.*/train and val differ: only train has n01; only val has n03$",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_named(image_folder, made, options, message):
    options = dict(options)
    if name := options.pop("rename", None):
        (image_folder / "imagenet" / "val" / "n01").rename(image_folder / "imagenet" / "val" / name)
    how = loading(image_folder / options.pop("place", ""), batch_size=options.pop("batch_size", 4))
    with pytest.raises(ConfigError, match=message):
        made(how, [0.5] * 3, [0.25] * 3, **options)


def test_hidden_folders_and_files_are_no_classes_and_no_images(image_folder):
    """Editors and macOS leave them."""
    expected = folder_data(image_folder)
    for part in ("train", "val"):
        root = image_folder / "imagenet" / part
        for place in (root / ".ipynb_checkpoints", root / "n01" / ".ipynb_checkpoints"):
            place.mkdir()
            shutil.copy(root / "n01" / "0.png", place / "0-checkpoint.png")
        (root / "n01" / "._0.png").write_bytes(b"AppleDouble")
    data = folder_data(image_folder)
    assert data.num_classes == 2
    for part in ("train", "test"):
        assert images_of(getattr(data, part)) == images_of(getattr(expected, part))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_images_of_more_than_8_bits_are_refused(image_folder, dtype):
    """PIL makes them white."""
    path = image_folder / "imagenet" / "val" / "n01" / "0.tiff"
    Image.fromarray(np.full((40, 40), 1000, dtype=dtype)).save(path)
    with pytest.raises(ConfigError, match=r"0.tiff cannot be read as an image \(its mode is \S+; save it with 8 bits"):
        list(folder_data(image_folder).test.epoch(0))


@pytest.mark.parametrize(("place", "by"), [("", "valprep.sh, for ImageNet"), ("images", "val_annotations.txt")])
def test_a_val_folder_as_it_is_downloaded_is_named_with_what_to_do(image_folder, place, by):
    """ImageNet's holds all images side by side, Tiny ImageNet's in a folder `images` beside a list of their classes."""
    val = image_folder / "imagenet" / "val"
    (val / place).mkdir(exist_ok=True)
    for path in sorted(val.glob("n*/*")):
        path.rename(val / place / f"{path.parent.name}_{path.name}")
    for name in ("n01", "n02"):
        (val / name).rmdir()
    if place:
        (val / "val_annotations.txt").touch()
    with pytest.raises(ConfigError) as error:
        folder_data(image_folder)
    right = f"move each image to {val}/<class>/ (by {by})"
    assert str(error.value) == f"data_dir={image_folder}: {val} is not sorted into class folders as train is: {right}"


def test_two_processes_divide_the_batches_of_a_folders_test(image_folder, monkeypatch):
    monkeypatch.setattr(Ranks, "require_same", lambda *_: None)
    whole = images_of(folder_data(image_folder).test)
    splits = [folder_data(image_folder, ranks=Ranks(rank, 2)).test for rank in (0, 1)]
    sizes = [[len(labels) for _, labels in split.epoch()] for split in splits]
    assert sizes == [[2, 1], [2, 1]], "of 6 images in global batches of 4"
    assert [len(split) for split in splits] == [2, 2]
    assert [image for pair in zip(*map(images_of, splits), strict=True) for image in pair] == whole


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(("damage", "workers"), [(empty, 0), (cut, 2), (pipe, 0)])
def test_an_image_that_cannot_be_read_is_named_in_one_line(damage, workers, image_folder):
    path = image_folder / "imagenet" / "val" / "n02" / "1.png"
    damage(path)
    with pytest.raises(ConfigError) as caught:
        list(folder_data(image_folder, workers=workers).test.epoch(0))
    assert str(caught.value).startswith(f"data_dir={image_folder}: {path} cannot be read as an image (")
    assert "\n" not in str(caught.value)


def test_processes_with_other_data_are_refused(image_folder, monkeypatch):
    seen = []

    def gathered(found, mine):  # process 0 had what the first call had
        seen.append(mine)
        found[:] = [seen[0], mine]

    monkeypatch.setattr("sparse_train.process.distributed.dist.all_gather_object", gathered)
    digits(loading(ranks=Ranks(0, 2)), [0.5], [0.5], train_images=40)
    digits(loading(ranks=Ranks(1, 2)), [0.5], [0.5], train_images=40)
    with pytest.raises(ConfigError, match=r"training data=\w+: on process 1, but \w+ on process 0; all processes"):
        digits(loading(ranks=Ranks(1, 2)), [0.5], [0.5], train_images=41)
    seen.clear()
    folder_data(image_folder, ranks=Ranks(0, 2))
    folder_data(image_folder, ranks=Ranks(1, 2))
    (image_folder / "imagenet" / "val" / "n01" / "0.png").unlink()
    with pytest.raises(
        ConfigError, match=r"files of val=\w+ \(5 images .*\): on process 1, but \w+ \(6 images .*\) on process 0"
    ):
        folder_data(image_folder, ranks=Ranks(1, 2))
