"""What a sweep costs: epochs, GPU-hours, and how long it takes on several GPUs; at measured speeds, or stated ones."""

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pandas as pd

from sparse_train.report.results import COMPLETE, MALFORMED, Records
from sparse_train.report.sweeps import Cell, workload

# Training images per second on one current data-centre GPU, and images of one epoch (training plus a third of the price
# for each test image): stated, not measured here.
STATED = {"imagenet": (2_500, 1_281_167 + 50_000 / 3), "cifar100": (25_000, 50_000 + 10_000 / 3)}
LOADED = "imagenet"  # the one of them whose images are decoded by CPUs


@dataclass(frozen=True)
class Speeds:
    """Seconds per epoch on one GPU: measured for the same workload on one kind of GPU, or else stated.

    Attributes:
        measured: workload (`sweeps.workload`) -> the median over runs.
        runs: over so many, in all.
        device: the GPU.
        loader: images a second that one CPU loads: how the photographs lie -> measured (`loader`).
        cpus: that load for each GPU; None: as many as it needs. Measured speeds have had their own.
    """

    measured: dict[str, float] = field(default_factory=dict)
    runs: int = 0
    device: str = ""
    loader: dict[str, float] = field(default_factory=dict)
    cpus: int | None = None

    def __str__(self) -> str:
        stated = " and ".join(f"{speed:,} of {dataset}" for dataset, (speed, _) in STATED.items())
        here = f"{self.runs} runs on {self.device}" if self.runs else "no run on a GPU"
        text = f"stated: {stated} in images per second on one GPU; measured: {here}"
        if self.loader:
            needs = [f"{STATED[LOADED][0] / each:.1f} {how}" for how, each in self.loader.items()]
            text += f"; CPUs that must load {LOADED} for each GPU: {', '.join(needs)}"
            text += "" if self.cpus is None else f"; here {self.cpus} load it {next(iter(self.loader))}"
        return text

    def seconds(self, cell: Cell) -> float:
        """Of the whole run; 0 for a workload without any speed."""
        images_per_second, images = STATED.get(cell.dataset, (1, 0))
        if cell.dataset == LOADED and self.loader and self.cpus is not None:
            images_per_second = min(images_per_second, self.cpus * next(iter(self.loader.values())))
        return cell.epochs * self.measured.get(cell.workload, images / images_per_second)

    def source(self, cells: list[Cell]) -> str:
        """Which of the two it is, for each data set that they train on."""
        words = []
        for dataset in dict.fromkeys(cell.dataset for cell in cells if cell.epochs):
            here = [cell.workload in self.measured for cell in cells if cell.epochs and cell.dataset == dataset]
            word = "stated" if dataset in STATED else "without a speed"
            if all(here):
                word = "measured"
            elif any(here):
                word = f"measured for {sum(here)} of {len(here)} runs, else {word}"
            words.append(f"{dataset} {word}")
        return ", ".join(words)


STATED_ONLY = Speeds()


def loader(results_dir: Path) -> dict[str, float]:
    """Images a second that one CPU loads, by how the photographs lie; from `make bench-loader`, else none."""
    path = results_dir / "loader.csv"
    if not path.exists():
        return {}
    rows = pd.read_csv(path).query("loader == 'now'")
    return dict(zip(rows["photographs"], 1000 / rows["ms"], strict=True))


def measured(records: Records) -> Speeds:
    """From complete training runs, each on one GPU of the kind that most had; a CPU's speed does not count."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _, record in records.found.values():
        if record["status"] != COMPLETE or "images_per_second" not in record["final"]:
            continue
        try:
            device, work = record["hardware"]["device"], workload(record["config"])
            if device != "cpu" and record.get("processes", 1) == 1:
                found[device][work].append(record["seconds"] / record["final"]["epoch"])
        except MALFORMED:
            continue  # named where it is collected
    if not found:
        return STATED_ONLY
    runs = {device: sum(map(len, works.values())) for device, works in found.items()}
    device = max(runs, key=runs.get)
    return Speeds({work: median(times) for work, times in found[device].items()}, runs[device], device)


@dataclass(frozen=True)
class Cost:
    """What some runs cost.

    Attributes:
        seconds: of each run, alone on one GPU.
        gpus: to run on, each run on one.
    """

    epochs: int
    seconds: list[float]
    gpus: int

    @property
    def wall_clock(self) -> float:
        """Seconds until the last run has ended: the longest first, each on the GPU that is free first."""
        free = [0.0] * self.gpus
        for seconds in sorted(self.seconds, reverse=True):
            heapq.heappush(free, heapq.heappop(free) + seconds)
        return max(free)

    @property
    def gpu_hours(self) -> float:
        return sum(self.seconds) / 3600

    def __str__(self) -> str:
        text = f"{len(self.seconds)} runs, {self.epochs:,} epochs"
        if any(self.seconds):
            text += f", about {number(self.gpu_hours)} GPU-hours"
        if any(self.seconds) and self.gpus > 1:
            longest = number(max(self.seconds) / 3600)
            text += f", {number(self.wall_clock / 3600)} hours on {self.gpus} GPUs, the longest run {longest}"
        return text


def of(cells: list[Cell], speeds: Speeds = STATED_ONLY, gpus: int = 1) -> Cost:
    """The cost of all these runs."""
    return Cost(sum(cell.epochs for cell in cells), [speeds.seconds(cell) for cell in cells], gpus)


def number(hours: float) -> str:
    """Two digits, or whole hours from ten on."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
