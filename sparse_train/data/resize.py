"""Resizes the photographs of class folders once, so that every epoch decodes smaller files.

`make resize-imagenet DATA_DIR=data`, or `python -m sparse_train.data.resize --data-dir data`, writes
`data/resized-256/imagenet`; train with `data_dir=data/resized-256`. Interrupted, the same command goes on.
"""

import argparse
import io
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize
from tqdm import tqdm

from sparse_train.data.imagenet import JPEG, decode, is_image
from sparse_train.errors import first_line
from sparse_train.process.distributed import Ranks
from sparse_train.record.files import read_whole, remove_temporaries, typed_path, write_whole

QUALITY = 90  # of JPEG


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sparse_train.data.resize", description=__doc__)
    parser.add_argument("--data-dir", type=typed_path, default=Path("data"), help="holds the folder")
    parser.add_argument("--folder", default="imagenet", help="of class folders, such as imagenet")
    parser.add_argument("--side", type=int, default=256, help="pixels of the shorter side; at least the key `resize`")
    parser.add_argument("--in-place", action="store_true", help="replace the files themselves; the originals are lost")
    given = parser.parse_args()
    source = given.data_dir / given.folder
    place = source if given.in_place else given.data_dir / f"resized-{given.side}" / given.folder
    if not source.is_dir():
        parser.exit(1, f"error: --data-dir={given.data_dir}: there is no directory {source}\n")
    if place.exists() and not given.in_place:
        parser.exit(0, f"{place} is there already; remove it to make it anew\n")
    try:
        wrong = resize_tree(source, place, given.side)
    except KeyboardInterrupt:
        parser.exit(128 + signal.SIGINT, "interrupted; the same command goes on\n")
    except OSError as error:
        parser.exit(1, f"error: {place.parent} cannot be written ({error.strerror}); the same command goes on\n")
    if wrong:
        more = f"\nand {len(wrong) - 10} others" * (len(wrong) > 10)
        parser.exit(1, "\n".join(wrong[:10]) + more + "\nerror: mend or remove these; the same command goes on\n")
    print(f"{place}: done; train with data_dir={place.parent}")


def resize_tree(source: Path, place: Path, side: int) -> list[str]:
    """Write all images under `source` to the same paths under `place`, and say which ones cannot be read.

    Until all are there, they lie in a hidden directory beside `place`, so that a part never passes for the whole. Where
    both are the same, each file is replaced as a whole.
    """
    target = place if place == source else place.with_name(f".{place.name}")
    folders = [(Path(at), [Path(at, name) for name in sorted(names)]) for at, names in _visible(source)]
    wrong: list[str] = []
    with ProcessPoolExecutor(Ranks().cpus(), initializer=_begin) as pool:
        jobs = ((target / at.relative_to(source), paths) for at, paths in folders)
        try:
            for found in tqdm(pool.map(partial(_resize_folder, side), jobs), total=len(folders), unit="folder"):
                wrong += found
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not wrong and target != place:
        os.rename(target, place)
    return wrong


def resized(data: bytes, side: int) -> bytes:
    """An image file with a shorter side of `side` pixels, in the same format; the same bytes if it is not longer.

    It is resized as a test image is, so testing on it differs by JPEG's compression alone.
    """
    with Image.open(io.BytesIO(data)) as image:
        size, kind = image.size, image.format
    if min(size) <= side:
        return data
    pixels, file = resize(decode(data), [side], antialias=True), io.BytesIO()
    options = {"format": "JPEG", "quality": QUALITY} if data.startswith(JPEG) else {"format": kind}
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, **options)
    return file.getvalue()


def _visible(source: Path) -> Iterator[tuple[str, list[str]]]:
    for at, inner, names in os.walk(source, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield at, [name for name in names if is_image(os.path.join(at, name), str(source))]


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and lets each finish its folder
    torch.set_num_threads(1)


def _resize_folder(side: int, job: tuple[Path, list[Path]]) -> list[str]:
    target, paths = job
    target.mkdir(parents=True, exist_ok=True)
    remove_temporaries(target)  # of an earlier attempt that was killed
    wrong = []
    for path in paths:
        place = target / path.name
        if place != path and place.exists():
            continue
        try:
            data = read_whole(path)
            after = resized(data, side)
        except Exception as error:  # whatever a decoder may raise
            wrong.append(f"{path} cannot be read as an image ({first_line(error)})")
            continue
        if place != path or after != data:
            write_whole(place, after)
    return wrong


if __name__ == "__main__":
    main()
