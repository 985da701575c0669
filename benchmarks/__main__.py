"""Runs every section in processes of its own, and writes results/performance.md."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from inspect import getdoc
from pathlib import Path
from statistics import median

import torch

from benchmarks import inference, limits, sections
from sparse_train.process.console import piped
from sparse_train.record.files import typed_path, write_whole
from sparse_train.record.metadata import describe

# title, processes, what it needs of the data directory, unit and how many of it make one
SECTIONS = {
    "optimizer_steps": ("Optimizer and masking, ResNet20 x1", 7, None, "ms", 1000),
    "optimizer_steps_50": ("Optimizer and masking, ResNet50", 3, None, "ms", 1000),
    "whole_steps": ("Training step, ResNet20 x1, 64 images", 2, None, "ms", 1000),
    "mask_updates": ("Mask update, ResNet20 x1", 5, None, "ms", 1000),
    "diagnostics": ("Diagnostics, ResNet20 x1", 3, None, "% of an epoch", 100),
    "training": ("CIFAR-100 training, ResNet20 x1, 256 images a step", 1, "cifar-100-python", "ms per image", 1000),
    "packed": ("CIFAR-100 training, several runs at a time", 1, "cifar-100-python", "ms per image and run", 1000),
    "stacked": ("Four networks in one process", 1, None, "ms", 1000),
    "memory": ("Memory, ResNet20 x1", 1, None, "bytes per weight", 1),
    "limits": ("How far from the limit, ResNet20 x1, 256 images a step", 3, None, "%", 100),
    "convolutions_1": ("Inference, ResNet20 x1, one image", 3, None, "ms", 1000),
    "convolutions_64": ("Inference, ResNet20 x1, 64 images", 3, None, "ms", 1000),
    "linear_1": ("Inference, linear layers, one input", 3, None, "ms", 1000),
    "linear_64": ("Inference, linear layers, 64 inputs", 3, None, "ms", 1000),
    "sizes": ("Size, ResNet20 x1", 1, None, "KiB", 1 / 1024),
}
OWED = """\
These need a GPU and are not measured yet: everything above on CUDA (by the same command), what `make gpu-check`
times, 1 to 16 runs at a time under NVIDIA's MPS, and how many images a second ResNet50 needs from
[the loader](loader.md). Parallel runs are processes (`LAUNCHER=local PACK=N`), so every run has the numbers that it
has alone; "Four networks in one process" measures the alternatives, without masks and optimizer.
"""


@piped()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="where cifar-100-python/ is, for what needs it")
    parser.add_argument("--section", choices=SECTIONS, help="measure this one here and print its times as JSON")
    parser.add_argument("--out", type=typed_path, default=Path("results/performance.md"))
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.section:
        data = [arguments.data_dir] if SECTIONS[arguments.section][2] else []
        print(json.dumps(_section(arguments.section)(device, *data)))
        return
    text = [_head(device)]
    for name, (title, processes, needs, *unit) in SECTIONS.items():
        if needs and not Path(arguments.data_dir or "", needs).is_dir():
            text.append(f"## {title}\n\nNot measured: there was no {needs}/ in the data directory.\n")
            continue
        results = [_in_a_process(name, arguments.data_dir) for _ in range(processes)]
        text.append(f"## {title}\n\n{getdoc(_section(name))}\n\n{_table(results, *unit)}")
        print(text[-1], flush=True)
    write_whole(arguments.out, "\n".join([*text, "## Owed\n", OWED]).encode())


def _section(name: str) -> Callable[..., dict[str, list[float]]]:
    return next(getattr(module, name) for module in (inference, limits, sections) if hasattr(module, name))


def _in_a_process(section: str, data_dir: str | None) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "benchmarks", "--section", section]
    command += ["--data-dir", data_dir] if data_dir else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def _table(results: list[dict[str, list[float]]], unit: str = "ms", of_it: float = 1000) -> str:
    """Of each case the median over processes of their medians, and its ratio to the fastest dense case."""
    medians = [{name: median(times) for name, times in result.items()} for result in results]
    lines = [f"| | {unit} | min to max | over fastest dense | min to max |", "|---|---|---|---|---|"]
    for name in medians[0]:
        times = [of_it * process[name] for process in medians]
        line = f"| {name} | {median(times):.4g} | {min(times):.4g} to {max(times):.4g} |"
        dense = [[t for case, t in process.items() if case.startswith("dense")] for process in medians]
        if not dense[0]:
            lines.append(f"{line} | |")
            continue
        ratios = [process[name] / min(base) for process, base in zip(medians, dense, strict=True)]
        lines.append(f"{line} {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    return "\n".join(lines) + "\n"


def _head(device: torch.device) -> str:
    facts = describe(device)
    hardware = facts["hardware"]["cpu"] if device.type == "cpu" else facts["hardware"]["device"]
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("python", "torch", "numpy"))
    return f"""# Performance

`make bench`, {date.today()}, revision {facts["git"]}; {hardware}, {facts["threads"]} threads; {versions}.

The cases of a section are timed in turn, in several rounds and in several processes. A number is the median over
processes of each process's median; beside it stand the smallest and the largest of these. Sparsity is 0.9 unless a
row says otherwise.
"""


if __name__ == "__main__":
    main()
