"""What a sweep costs: epochs, GPU-hours, and how long it takes on several GPUs; at measured speeds, or stated ones."""

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from sparse_train.report.collect import COMPLETE, Records
from sparse_train.report.sweeps import Cell

# Training images per second on one current data-centre GPU, and images of one epoch (training plus a third of the price
# for each test image): stated, not measured here.
STATED = {"imagenet": (2_500, 1_281_167 + 50_000 / 3), "cifar100": (25_000, 50_000 + 10_000 / 3)}


@dataclass(frozen=True)
class Speeds:
    """Seconds per epoch of each data set, measured or else stated.

    Attributes:
        measured: data set -> the median over runs.
        runs: over so many.
    """

    measured: dict[str, float] = field(default_factory=dict)
    runs: int = 0

    def __str__(self) -> str:
        return f"at the speed of {self.runs} runs measured here" if self.runs else "at the stated speed"

    def seconds(self, cell: Cell) -> float:
        """Of the whole run; 0 for a data set without any speed."""
        images_per_second, images = STATED.get(cell.dataset, (1, 0))
        return cell.epochs * self.measured.get(cell.dataset, images / images_per_second)


STATED_ONLY = Speeds()


def measured(records: Records) -> Speeds:
    """From complete training runs: their seconds over their epochs."""
    found = defaultdict(list)
    for _, record in records.found.values():
        if record["status"] == COMPLETE and "images_per_second" in record["final"]:
            dataset = record["config"]["dataset"]["_target_"].rsplit(".", 1)[-1]
            found[dataset].append(record["seconds"] / record["final"]["epoch"])
    return Speeds({dataset: median(times) for dataset, times in found.items()}, sum(map(len, found.values())))


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
            text += f", about {_number(self.gpu_hours)} GPU-hours"
        if any(self.seconds) and self.gpus > 1:
            longest = _number(max(self.seconds) / 3600)
            text += f", {_number(self.wall_clock / 3600)} hours on {self.gpus} GPUs, the longest run {longest}"
        return text


def of(cells: list[Cell], speeds: Speeds = STATED_ONLY, gpus: int = 1) -> Cost:
    """The cost of all these runs."""
    return Cost(sum(cell.epochs for cell in cells), [speeds.seconds(cell) for cell in cells], gpus)


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
