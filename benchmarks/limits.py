"""How far a training step on this device is from what the device can do."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import interleaved
from benchmarks.sections import network, ours
from sparse_train.optim import SparseOpt

SIZE, BATCH = 4096, 256
PARTS = {"convolutions": "conv", "batch normalization": "batch_norm", "copies between layouts and types": "copy_"}


def limits(device: torch.device) -> dict[str, list[float]]:
    """RigL + SparseOpt on 256 images in bfloat16 with channels last: its matrix operations per second, counted as
    dense, relative to those of a 4096 x 4096 matrix product in bfloat16; and where the time goes, by torch.profiler.
    Sparse kernels would not help: see inference of 64 images below, where compressed rows lose to dense bfloat16 at
    every sparsity. Alone: `python -m benchmarks --section limits`."""
    a, b = (torch.randn(SIZE, SIZE, device=device, dtype=torch.bfloat16) for _ in range(2))
    step = _step(device)
    with FlopCounterMode(display=False) as counter:
        step()
    times = interleaved({"product": lambda: a @ b, "step": step}, device, rounds=5)
    shares = [
        counter.get_total_flops() / step / (2 * SIZE**3 / product)
        for product, step in zip(times["product"], times["step"], strict=True)
    ]
    found: dict[str, list[float]] = {"of the matrix product's speed": shares}
    for _ in range(3):
        for name, share in _where(step).items():
            found.setdefault(f"time in {name}", []).append(share)
    return found


def _step(device: torch.device) -> Callable[[], None]:
    model = network(device).to(memory_format=torch.channels_last)
    optimizer = ours(model, {"precondition": SparseOpt()})
    images = torch.randn(BATCH, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(100, (BATCH,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def _where(step: Callable[[], None]) -> dict[str, float]:
    """Shares of one step's time, each operation's without those that it calls."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as seen:
        step()
    kind = "device" if torch.cuda.is_available() else "cpu"
    times = {event.key: getattr(event, f"self_{kind}_time_total") for event in seen.key_averages()}
    total = sum(times.values())
    shares = {name: sum(t for key, t in times.items() if part in key) for name, part in PARTS.items()}
    [whole] = [event for event in seen.key_averages() if event.key.startswith("Optimizer.step#")]
    shares["optimizer and masking"] = getattr(whole, f"{kind}_time_total")
    return {**{name: t / total for name, t in shares.items()}, "all else": 1 - sum(shares.values()) / total}
