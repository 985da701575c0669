"""A page for each DST method: formula, picture of its masks while a small network trains, command, results.

The pages go to docs/methods, which git ignores. The pictures are of an MLP that each method trains on scikit-learn's
digits for a second; the results are those of the committed records.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from sklearn.datasets import load_digits
from torch import Tensor, nn

import sparse_train
from sparse_train import Method, SparseSGD, Topology, Updater
from sparse_train.report import sweeps
from sparse_train.report.results import Results, complete

METHODS = {  # the option of `dst=`, and the class
    "rigl": "RigL",
    "set": "SET",
    "mest": "MEST",
    "snfs": "SNFS",
    "dsr": "DSR",
    "srigl": "SRigL",
    "granet": "GraNet",
    "gmp": "GMP",
    "rigl_blind": "RigLBlind",
}
STEPS, EVERY, SPARSITY = 400, 20, 0.9
SHOWN = (0, 100, 200, 400)  # steps whose masks are drawn
WEIGHT = "0.weight"  # 32 neurons that read 64 pixels
INKS = {"light": ("#1c2024", "#e8eaed"), "dark": ("#d8dde3", "#2b3036")}  # of text, and of places without a weight
KEPT, GROWN = "#4a7bb7", "#e07b39"

PAGE = """\
# {title}

{source}

```{{image}} {option}-light.svg
:class: only-light
:alt: Masks of one layer at four steps, and its number of weights over the steps
```

```{{image}} {option}-dark.svg
:class: only-dark
:alt: Masks of one layer at four steps, and its number of weights over the steps
```

The masks of one layer at 90% sparsity: 32 neurons (rows) that read the 64 pixels of scikit-learn's digits. Blue places
have had a weight from the start, orange ones got it later. Right: places with a weight (blue), and places that have had
one at some time (orange), in percent.

## Formula

```{{eval-rst}}
.. autoclass:: sparse_train.{title}
```

## Command

```sh
python -m sparse_train dataset=cifar100 dst={option} sparsity=0.97 optimizer=sgd
```

In a loop of your own: `Updater(topology, optimizer, {title}(), total_steps=10_000)`{initial}
([your own loop](../your-own-loop.md)).

## Measured

{measured}
"""

INDEX = """\
# Methods

Each method has a page with its formula, a picture of its masks, its command and its measured results.
[One table](../../results/cpu/methods.md) compares them; [your own](../your-own-method.md) is a class of a few lines.

| method | what it does | test accuracy at 97% sparsity, SGD |
|---|---|---|
{rows}

```{{toctree}}
:hidden:

{pages}
```
"""


def write(directory: Path) -> None:
    """Write all pages and pictures into a directory."""
    directory.mkdir(exist_ok=True)
    sweep = sweeps.load("methods", "cpu")
    runs = complete(Results(sweeps.RESULTS, "cpu").runs(sweep))
    rows = []
    for option, title in METHODS.items():
        method = getattr(sparse_train, title)
        own = runs[runs["dst"] == option]
        draw(directory, option, *trained(method()))
        source = sys.modules[method.__module__].__doc__
        initial = f', with `Topology(..., initial="{method.initial}")`' if method.initial else ""
        page = PAGE.format(title=title, option=option, source=source, initial=initial, measured=measured(own))
        _put(directory / f"{option}.md", page)
        accuracy = own.loc[(own["sparsity"] == "0.97") & (own["optimizer"] == "sgd"), "test_acc"]
        first = method.__doc__.partition("\n")[0].replace("|", "\\|")
        rows.append(f"| [{title}]({option}.md) | {first} | {_number(accuracy)} |")
    _put(directory / "index.md", INDEX.format(rows="\n".join(rows), pages="\n".join(METHODS)))


def trained(method: Method) -> tuple[list[Tensor], list[float], list[float], Tensor]:
    """The first layer's masks at `SHOWN`, its density and ITOP rate in percent at each step, and its first mask."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    topology = Topology(model, SPARSITY, initial=method.initial or "random")
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9)
    Updater(topology, optimizer, method, total_steps=STEPS, every=EVERY).attach()
    first = topology.masks[WEIGHT].clone()
    masks, densities, visited = [first], [], []
    for step in range(1, STEPS + 1):
        batch = torch.randint(len(labels), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        masks += [topology.masks[WEIGHT].clone()] if step in SHOWN else []
        densities.append(100 * topology.masks[WEIGHT].float().mean().item())
        visited.append(100 * topology.visited[WEIGHT].float().mean().item())
    return masks, densities, visited, first


def draw(directory: Path, option: str, masks: list[Tensor], densities: list, visited: list, first: Tensor) -> None:
    """One picture for each of the page's two themes."""
    for theme, (ink, empty) in INKS.items():
        words = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink)
        with plt.rc_context({**words, "font.size": 9, "svg.hashsalt": option, "svg.fonttype": "none"}):
            figure, axes = plt.subplots(1, 5, figsize=(9, 1.7), width_ratios=[2, 2, 2, 2, 1.6], layout="constrained")
            for axis, mask, step in zip(axes, masks, SHOWN, strict=False):
                cells = mask.int() + (mask & ~first).int()
                axis.imshow(cells, cmap=ListedColormap([empty, KEPT, GROWN]), vmin=0, vmax=2, interpolation="nearest")
                axis.set(title=f"step {step}", xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
            axes[4].plot(visited, color=GROWN)
            axes[4].plot(densities, color=KEPT)
            axes[4].set(title="% of places", ylim=(0, 104), xlabel="step")
            axes[4].patch.set_visible(False)
            axes[4].spines[["top", "right"]].set_visible(False)
            figure.savefig(directory / f"{option}-{theme}.svg", transparent=True, metadata={"Date": None})
            plt.close(figure)


def measured(runs: pd.DataFrame) -> str:
    """The results of one method as a table, from the committed rows of its runs."""
    if runs.empty:
        return "Not measured yet."
    lines = ["| sparsity | optimizer | test accuracy | FLOPs of training |", "|---|---|---|---|"]
    for (sparsity, optimizer), some in runs.groupby(["sparsity", "optimizer"], sort=False):
        share = some["flops/training"].mean()
        flops = "not recorded" if share != share else f"{100 * share:.1f}% of a dense run's"
        name = {"sgd": "SGD", "sparseopt": "SparseOpt"}[optimizer]
        lines.append(f"| {float(sparsity):.0%} | {name} | {_number(some['test_acc'])} | {flops} |")
    where = "ResNet20 on CIFAR-100 at 16x16 pixels after 10 epochs: mean, standard deviation and number of seeds n"
    return "\n".join([*lines, "", f"{where} ([all methods](../../results/cpu/methods.md))."])


def _number(accuracy: pd.Series) -> str:
    if accuracy.empty:
        return "not measured"
    spread = f" ± {accuracy.std():.2f}" if len(accuracy) > 1 else ""
    return f"{accuracy.mean():.2f}%{spread} (n = {len(accuracy)})"


def _put(path: Path, text: str) -> None:
    """Write what has changed alone, so that Sphinx does not read it again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
