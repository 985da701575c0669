"""Several runs at the same time, each a process of its own, as `LAUNCHER=local PACK=N` starts them."""

import subprocess
import sys
import time

import torch

from benchmarks.training import BATCH, STEPS, entrypoint


def seconds_per_image(device: torch.device, data_dir: str, runs: int) -> float:
    """Of one run's training, where so many train side by side and share the time."""
    command = [sys.executable, "-m", "benchmarks.packed", device.type, data_dir]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(runs)]
    for process in processes:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"process {process.pid} of {runs} side by side has ended")
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in processes) / runs


def main() -> None:
    """Say when ready, wait for a word, train a while, and say how long an image took."""
    device, data_dir = torch.device(sys.argv[1]), sys.argv[2]
    train = entrypoint(device, data_dir, "amp=bf16", "channels_last=true", "threads=1")
    calls = 50 if device.type == "cuda" else 2
    train()
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    for _ in range(calls):
        train()  # reads its sums at the end, so it waits for the device
    print((time.perf_counter() - started) / calls / STEPS / BATCH)


if __name__ == "__main__":
    main()
