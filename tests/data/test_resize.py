"""Photographs resized once: the same images in the same order, a part never taken for the whole."""

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sparse_train.data import resize
from sparse_train.data.imagenet import imagefolder
from sparse_train.data.memory import Loading


@pytest.fixture
def photos(image_folder):
    """Besides PNG of 40 and 36 pixels: JPEG, one in grey, one that is small, and a hidden file."""
    folder = image_folder / "imagenet" / "train" / "n01"
    noise = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(noise).save(folder / "photo.JPEG")
    Image.fromarray(noise[..., 0]).save(folder / "grey.jpg")
    Image.fromarray(noise[:20]).save(folder / "small.jpg")
    (folder / "._photo.JPEG").write_bytes(b"AppleDouble")
    return image_folder


def run(monkeypatch, data_dir, *words):
    """The exit status of the command, for a side of 24 pixels."""
    monkeypatch.setattr(sys, "argv", ["resize", f"--data-dir={data_dir}", "--side=24", *words])
    try:
        resize.main()
    except SystemExit as stop:
        return stop.code
    return 0


def tree(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def split_of(data_dir, split):
    loading = Loading(str(data_dir), 4, 0, torch.device("cpu"))
    return getattr(imagefolder(loading, [0.5] * 3, [0.25] * 3, "imagenet", image_size=20, resize=24), split)


def test_resized_photographs_are_the_same_images_in_the_same_order(photos, monkeypatch):
    before = tree(photos / "imagenet")
    assert run(monkeypatch, photos) == 0
    assert tree(photos / "imagenet") == before, "the originals stay"
    after = tree(photos / "resized-24" / "imagenet")
    assert set(after) == {path for path in before if not path.name.startswith(".")}
    for path, data in after.items():
        with (
            Image.open(photos / "imagenet" / path) as old,
            Image.open(photos / "resized-24" / "imagenet" / path) as new,
        ):
            assert new.format == old.format
            assert min(new.size) == min(24, *old.size)
            assert (data == before[path]) == (min(old.size) <= 24)
    tested = [split_of(place, "test").epoch(0) for place in (photos, photos / "resized-24")]
    for (images, labels), (small, same) in zip(*tested, strict=True):
        assert torch.equal(images, small), "PNG loses nothing, and is tested at this size"
        assert torch.equal(labels, same)


def test_an_interrupted_resize_goes_on_and_never_passes_for_the_whole(photos, monkeypatch, capsys):
    whole = shutil.copytree(photos, photos / "whole")
    assert run(monkeypatch, whole) == 0
    broken = photos / "imagenet" / "val" / "n02" / "1.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:100])
    assert run(monkeypatch, photos) == 1
    assert f"{broken} cannot be read as an image (" in capsys.readouterr().err
    hidden = photos / "resized-24" / ".imagenet"
    assert [path.name for path in hidden.parent.iterdir()] == [".imagenet"]
    (hidden / "train" / "n01" / ".0.png.abc.tmp").write_bytes(b"of a writer that was killed")
    (hidden / "train" / "n02" / "3.png").unlink()
    kept = hidden / "train" / "n01" / "0.png"
    written = kept.stat().st_mtime_ns
    broken.write_bytes(good)
    assert run(monkeypatch, photos) == 0
    place = photos / "resized-24" / "imagenet"
    assert tree(place) == tree(whole / "resized-24" / "imagenet")
    assert (place / "train" / "n01" / "0.png").stat().st_mtime_ns == written, "what was there is not made again"
    assert run(monkeypatch, photos) == 0
    assert "is there already" in capsys.readouterr().err


def test_files_are_replaced_only_if_that_is_asked_for(photos, monkeypatch):
    apart = shutil.copytree(photos, photos / "apart")
    assert run(monkeypatch, apart) == 0
    for _ in range(2):  # again: nothing is compressed a second time
        assert run(monkeypatch, photos, "--in-place") == 0
        after = {path: data for path, data in tree(photos / "imagenet").items() if not path.name.startswith(".")}
        assert after == tree(apart / "resized-24" / "imagenet")
    assert not (photos / "resized-24").exists()
    assert run(monkeypatch, photos / "nowhere") == 1
