"""The first lines of a run: its model and the weights that are kept, its length, its device, and a warning."""

from pathlib import Path

import torch

from sparse_train.train.run import Run

SLOW_BF16 = "this CPU has no fast bfloat16 (AVX-512 has): a step takes several times as long as with amp=none"


def card(run: Run, run_dir: Path) -> list[str]:
    """The run's directory and name, then what is trained and on what; warnings of slow numbers and idle methods."""
    kept = sum(run.topology.counts.values())
    sparse = sum(mask.numel() for mask in run.topology.masks.values())
    dense = sum(parameter.numel() for parameter in run.model.parameters()) - sparse
    epochs = "1 epoch" if run.epochs == 1 else f"{run.epochs:,} epochs"
    steps = "1 step" if len(run.data.train) == 1 else f"{len(run.data.train):,} steps"
    numbers = "bf16" if run.autocast else "fp32"
    threads = torch.get_num_threads()
    where = str(run.device) if run.device.type != "cpu" else f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    processes = f", {run.ranks.world} processes" if run.ranks.world > 1 else ""
    compiled = "; torch.compile delays the first step" if run.metadata["compile"] else ""
    weights = f"{kept:,} of {sparse:,} weights kept ({kept / sparse:.2%}); {dense:,} dense ones"
    slow = run.autocast and run.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return [
        f"{run_dir}: {run.metadata['name']}",
        f"  {type(run.model).__name__}: {weights}",
        f"  {epochs} of {steps} on {where}{processes}, {numbers}{compiled}",
        *([f"  warning: {SLOW_BF16}"] if slow else []),
        *([f"  warning: {warning}"] if run.updater is not None and (warning := run.updater.idle()) else []),
    ]
