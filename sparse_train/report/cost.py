"""What a sweep costs: epochs, and GPU-hours at a stated speed."""

from dataclasses import dataclass

from sparse_train.report.sweeps import Cell

# Training images per second on one current data-centre GPU, and images of one epoch (training plus a third of the price
# for each test image): stated, not measured here. Measured speeds are in the records.
STATED = {"imagenet": (2_500, 1_281_167 + 50_000 / 3), "cifar100": (25_000, 50_000 + 10_000 / 3)}


@dataclass(frozen=True)
class Cost:
    """Runs, the epochs they train, and GPU-hours; hours of data sets without a stated speed count nothing."""

    runs: int
    epochs: int
    gpu_hours: float

    def __str__(self) -> str:
        hours = f", about {self.gpu_hours:,.0f} GPU-hours" if self.gpu_hours >= 1 else ""
        return f"{self.runs} runs, {self.epochs:,} epochs{hours}"


def of(cells: list[Cell]) -> Cost:
    """The cost of all these runs at the stated speed."""
    hours = 0.0
    for cell in cells:
        speed, images = STATED.get(cell.dataset, (1, 0))
        hours += cell.epochs * images / speed / 3600
    return Cost(len(cells), sum(cell.epochs for cell in cells), hours)
