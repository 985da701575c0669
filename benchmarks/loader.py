"""How many images a second the loader of ImageNet and of class folders gives for each CPU.

`python -m benchmarks.loader` writes results/loader.md and results/loader.csv in a minute, on one thread.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2

from benchmarks.measure import interleaved
from sparse_train.data.imagenet import Images, collate, imagefolder
from sparse_train.data.memory import Loading
from sparse_train.data.resize import QUALITY, resized
from sparse_train.record.files import read_whole, typed_path, write_whole
from sparse_train.record.metadata import describe

CPU = torch.device("cpu")
SIDE, BATCH, COUNT, ROUNDS = 256, 50, 200, 7
IMAGENET = 1_281_167  # training images
TEXT = """\
# The loader of photographs

`make bench-loader`, {date}, revision {git}; {cpu}; python {python},
torch {torch}, torchvision {torchvision}, Pillow {pillow}. {photographs}

A training image is read, decoded, cropped at random, resized to 224 x 224, mirrored and put into a batch of {batch};
no network. Time is CPU time of one thread (`time.process_time`), which leaves out what else the machine does: the
median of {rounds} rounds, in which the cases take turns, with the smallest and the largest beside it. *Before* decodes
and resizes by Pillow, as torchvision's `ImageFolder` does. *Now* decodes JPEG by `torchvision.io.decode_jpeg`, to the
same pixels, and resizes tensors of bytes. *Resized once*: after `make resize-imagenet`, with a shorter side of {side}
pixels at JPEG quality {quality}.

| photographs | loader | ms an image | min to max | images/s a core |
|---|---|---|---|---|
{rows}

Resizing them once takes {once:.1f} ms an image: {hours:.1f} hours of one core for ImageNet's training images.

CPUs that must load for each GPU so that it never waits (`make plan` works this out from loader.csv):

| images/s of the GPU | as they are | resized once |
|---|---|---|
{needs}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=typed_path, help="holds imagenet/train; else photographs are made")
    parser.add_argument("--out", type=typed_path, default=Path("results/loader.md"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        about, originals = photographs(Path(place), given.data_dir)
        small, started = Path(place, "small"), time.process_time()
        for path in originals:
            write_whole(small / "train" / path.parent.name / path.name, resized(read_whole(path), SIDE))
        once = 1000 * (time.process_time() - started) / len(originals)
        table = measured({"as they are": Path(place, "originals"), "resized once": small})
    write_whole(given.out, text(about, table, once).encode())
    write_whole(given.out.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n").encode())
    print(given.out.read_text())


def photographs(place: Path, data_dir: Path | None) -> tuple[str, list[Path]]:
    """Some photographs under `place/originals/train/<class>/`, in words and as paths.

    They are links to some of `data_dir`/imagenet; where it has too few, parts of scikit-learn's two photographs as JPEG
    files of the size that ImageNet's have on average.
    """
    target = place / "originals" / "train"
    found = [] if data_dir is None else sorted(Path(data_dir, "imagenet", "train").glob("*/*"))
    if len(found) >= COUNT:
        for i, path in enumerate(random.Random(0).sample(found, COUNT)):
            (target / path.parent.name).mkdir(parents=True, exist_ok=True)
            (target / path.parent.name / f"{i}{path.suffix}").symlink_to(path.resolve())
        words = "{count} of the images in `imagenet/train`"
    else:
        draw, images = random.Random(0), [Image.fromarray(image) for image in load_sample_images().images]
        for i in range(COUNT):
            image = images[i % 2]
            height = draw.randint(300, image.height - 1)
            left, top = draw.randint(0, image.width - height * 5 // 4), draw.randint(0, image.height - height)
            part = image.crop((left, top, left + height * 5 // 4, top + height)).resize((500, 400), Image.LANCZOS)
            path = target / str(i % 2) / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            part.save(path, quality=97)
        words = "{count} photographs of 500 x 400 pixels, made of scikit-learn's two sample photographs"
    paths = sorted(target.glob("*/*"))
    size = sum(path.stat().st_size for path in paths) / len(paths) / 1024
    return f"{words.format(count=len(paths))}, {size:.0f} KiB on average.", paths


def measured(places: dict[str, Path]) -> pd.DataFrame:
    """Photographs, loader, and milliseconds of CPU time of an image: `ms`, and of all rounds `least` and `most`."""
    cases = {}
    for words, place in places.items():
        (place / "val").symlink_to(place / "train")
        loading = Loading(str(place.parent), BATCH, 0, CPU)
        images = imagefolder(loading, [0.5] * 3, [0.25] * 3, place.name).train.images
        cases |= {(words, "before"): batches(by_pillow(images)), (words, "now"): batches(images)}
    times = interleaved(cases, CPU, ROUNDS, clock=time.process_time)
    rows = []
    for (words, loader), rounds in times.items():
        each = [1000 * seconds / COUNT for seconds in rounds]
        rows.append({"photographs": words, "loader": loader, "ms": median(each), "least": min(each), "most": max(each)})
    return pd.DataFrame(rows).round(3)


def by_pillow(images: Images) -> Images:
    """The same images, decoded and augmented as before: by Pillow."""

    def read(path: str) -> Image.Image:
        with open(path, "rb") as file:
            return Image.open(file).convert("RGB")

    steps = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    former = images.some(torch.arange(len(images)), v2.Compose(steps))
    former.loader = read
    return former


def batches(images: Images) -> Callable[[], None]:
    """What a worker does for an epoch; each time the next one, with other crops."""
    epochs = iter(range(10**9))

    def load() -> None:
        epoch = next(epochs)
        for first in range(0, COUNT, BATCH):
            collate([images[epoch, i] for i in range(first, first + BATCH)])

    return load


def text(about: str, table: pd.DataFrame, once: float) -> str:
    facts, now = describe(CPU), table[table["loader"] == "now"].set_index("photographs")["ms"]
    rows = [
        f"| {row.photographs} | {row.loader} | {row.ms:.2f} | {row.least:.2f} to {row.most:.2f} |"
        f" {1000 / row.ms:,.0f} |"
        for row in table.itertuples()
    ]
    needs = [
        f"| {speed:,} | {speed * now['as they are'] / 1000:.1f} | {speed * now['resized once'] / 1000:.1f} |"
        for speed in (1_000, 2_500, 5_000)
    ]
    return TEXT.format(
        date=date.today(),
        git=facts["git"],
        cpu=facts["hardware"]["cpu"],
        pillow=Image.__version__,
        photographs=about,
        batch=BATCH,
        rounds=ROUNDS,
        side=SIDE,
        quality=QUALITY,
        rows="\n".join(rows),
        once=once,
        hours=once * IMAGENET / 3_600_000,
        needs="\n".join(needs),
        **{name: facts["versions"][name] for name in ("python", "torch", "torchvision")},
    )


if __name__ == "__main__":
    main()
