"""Linear layers that multiply only the weights that exist while they train, beside dense ones and SparseLab.

`python -m benchmarks.sparse --data-dir data` writes results/sparse-training.md in a few minutes, on one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measure import interleaved
from benchmarks.training import entrypoint
from sparse_train import SparseOpt, SparseSGD, Topology, use_csr
from sparse_train.record.files import typed_path, write_whole
from sparse_train.record.metadata import describe

SPARSITIES = (0.8, 0.9, 0.95, 0.97, 0.99)
SETTINGS = ((1024, 16), (1024, 128), (1024, 512), (4096, 128))  # width of two hidden layers, and batch
WIDEST = SETTINGS[-1]
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
DENSE, CPU = "dense fp32", torch.device("cpu")
COMMAND = ("model=mlp", "model.hidden=[1024,1024]", "threads=1")
BY_COMMAND = {
    DENSE: ("dst=dense", "optimizer=sgd"),
    "RigL, masked, 97%": ("sparsity=0.97",),
    **{f"RigL, CSR, {s:.0%}": (f"sparsity={s}", "execution=csr") for s in SPARSITIES},
}
TEXT = """\
# Sparse linear layers while they train

`make bench`, or `python -m benchmarks.sparse` alone, {date}, revision {git}; {cpu}, one thread; python {python}, torch
{torch}, SparseLab {sparselab}. [docs/performance.md](../docs/performance.md#csr-linear-layers) says when to use them.

## A step, over dense fp32

MLP 784 - width - width - 10 with ReLU, random inputs: forward, backward and optimizer. Both hidden layers have the
sparsity of the row, the last is dense. Dense and SparseLab: torch's fused SGD with momentum and decay; CSR: `use_csr`
and `SparseSGD` with SparseOpt. Cases are timed in turn, in CPU time of their thread. A number is the median over rounds
of a case's time over that of dense fp32 in the same round. There is no normalization: torch's takes 20 times as long
after SparseLab's layers, whose outputs lie in memory column by column.

{steps}

## Memory

The same network with width {width} and batch {batch}: the most memory that the process held during three steps, beyond
what it held before the network was made, in MiB. CSR keeps the dense weight and its mask; SparseLab does not.

{memory}

## By command

`python -m sparse_train dataset=mnist {command} batch_size=128`: ten steps of the project's own
loop, with data, batch normalization, the norms of the history and RigL's dense gradients where they look at them, over
those of `dst=dense optimizer=sgd`.

{commands}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="", help="where MNIST/raw is, to train by command too")
    parser.add_argument("--out", type=typed_path, default=Path("results/sparse-training.md"))
    parser.add_argument("--measure", nargs="+", help="measure this here and print it as JSON")
    given = parser.parse_args()
    if given.measure:
        what, *rest = given.measure
        torch.set_num_threads(1)
        print(json.dumps({"steps": steps, "memory": memory, "commands": commands}[what](*rest)))
        return
    facts = describe(CPU)
    measured = {f"{width}, batch {batch}": _apart("steps", width, batch) for width, batch in SETTINGS}
    text = TEXT.format(
        date=date.today(),
        git=facts["git"],
        cpu=facts["hardware"]["cpu"],
        **{name: facts["versions"][name] for name in ("python", "torch")},
        sparselab=_sparselab(),
        steps=_table({name: _relative(times) for name, times in measured.items()}),
        width=WIDEST[0],
        batch=WIDEST[1],
        memory=_table({"MiB": {case: f"{_apart('memory', case):.0f}" for case in _cases()}}),
        command=" ".join(COMMAND),
        commands=_by_command(given.data_dir),
    )
    write_whole(given.out, text.encode())
    print(text)


def _cases() -> list[str]:
    """Dense, masked, CSR and, where it is installed, SparseLab."""
    kinds = ("CSR", "SparseLab") if find_spec("sparselab") else ("CSR",)
    return [DENSE, "dense bf16", "masked, 97%", *(f"{kind}, {s:.0%}" for kind in kinds for s in SPARSITIES)]


def steps(width: str, batch: str) -> dict[str, list[float]]:
    """Seconds of each case's whole step, by rounds."""
    cases = {case: _step(case, int(width), int(batch)) for case in _cases()}
    large = int(width) * int(batch) > 2**18
    return interleaved(cases, CPU, rounds=7 if large else 15, calls=1 if large else 4, clock=time.thread_time)


def memory(case: str) -> float:
    """MiB that three steps of a case need, beyond what the process has before."""
    torch.randn(256, 256) @ torch.randn(256, 256)
    before = _status("VmRSS")
    step = _step(case, *WIDEST)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    for _ in range(3):
        step()
    return (_status("VmHWM") - before) / 1024


def commands(data_dir: str) -> dict[str, list[float]]:
    """Seconds of ten steps of the project's loop, by rounds."""
    cases = {
        name: entrypoint(CPU, data_dir, *COMMAND, *overrides, dataset="mnist", batch=128)
        for name, overrides in BY_COMMAND.items()
    }
    return interleaved(cases, CPU, rounds=9, clock=time.thread_time)


def _step(case: str, width: int, batch: int) -> Callable[[], None]:
    kind, _, percent = case.partition(", ")
    sparsity = float(percent.rstrip("%") or 0) / 100
    linear = _sparse_linear(sparsity) if kind == "SparseLab" else nn.Linear
    model = nn.Sequential(linear(784, width), nn.ReLU(), linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    if kind in ("CSR", "masked"):
        topology = Topology(model, sparsity, "uniform", exclude="4.weight")
        optimizer: torch.optim.Optimizer = SparseSGD(model.parameters(), topology, **SGD, precondition=SparseOpt())
        if kind == "CSR":
            use_csr(model, topology)
    else:
        optimizer = torch.optim.SGD(model.parameters(), **SGD, fused=True)
    x, labels = torch.randn(batch, 784), torch.randint(10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if case == "dense bf16" else nullcontext():
            logits = model(x)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _sparse_linear(sparsity: float) -> Callable[[int, int], nn.Module]:
    from sparselab import SparseLinear

    return lambda inputs, outputs: SparseLinear(inputs, outputs, sparsity=sparsity)


def _sparselab() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sparselab")
    except PackageNotFoundError:
        return "not installed, so left out"


def _status(key: str) -> int:
    """KiB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1])


def _apart(*measure: object):
    """In a process of its own, with one thread for every library."""
    command = [sys.executable, "-m", "benchmarks.sparse", "--measure", *map(str, measure)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _by_command(data_dir: str) -> str:
    if not Path(data_dir, "MNIST", "raw").is_dir():
        return "Not measured: there was no MNIST/raw/ in the data directory."
    return _table({"ten steps": _relative(_apart("commands", data_dir))})


def _relative(times: dict[str, list[float]]) -> dict[str, str]:
    """Dense fp32 in milliseconds, the others over it."""
    over = {
        case: median(one / base for one, base in zip(rounds, times[DENSE], strict=True))
        for case, rounds in times.items()
    }
    return {case: f"{1000 * median(times[case]):.3g} ms" if case == DENSE else f"{over[case]:.2f}" for case in times}


def _table(columns: dict[str, dict[str, str]]) -> str:
    rows = next(iter(columns.values()))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(
        [*lines, *(f"| {row} | {' | '.join(column[row] for column in columns.values())} |" for row in rows)]
    )


if __name__ == "__main__":
    main()
