"""Times of several cases, taken in turn, so that what else the machine does falls on all of them alike."""

import time
from collections.abc import Callable

import torch


def interleaved(
    cases: dict[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call of each case, one number a round, after a round that is not counted.

    Args:
        calls: how often a case is called each time, so that short ones can be timed.
        clock: on a CPU; `time.thread_time` leaves out what else the machine does, for work of one thread.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            seconds = _seconds(case, device, calls, clock)
            if turn:
                times[name].append(seconds)
    return times


def _seconds(case: Callable[[], object], device: torch.device, calls: int, clock: Callable[[], float]) -> float:
    if calls > 1:
        case()  # short ones find their data in the cache
    if device.type != "cuda":
        started = clock()
        for _ in range(calls):
            case()
        return (clock() - started) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(calls):
        case()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000 / calls
