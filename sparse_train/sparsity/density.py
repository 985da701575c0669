"""How many weights each layer keeps: ERK, uniform, and exact counts.

Densities are real numbers; `counts` turns them into whole weights whose sum is exactly the number asked for.
"""

from collections.abc import Mapping
from math import prod

from sparse_train.errors import require

Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Every layer has the density 1 - sparsity."""
    _check_sparsity(sparsity)
    return dict.fromkeys(shapes, 1.0 - sparsity)


def erk(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Erdős-Rényi-Kernel densities (Mocanu et al. 2018; Evci et al. 2020, Section 3, with kernel dimensions).

        density_l = eps * sum(shape_l) / prod(shape_l)

    with the one eps for which `sum_l density_l * prod(shape_l) = (1 - sparsity) * sum_l prod(shape_l)`. A layer whose
    density would exceed 1 is kept dense and eps is solved again for the others, until none exceeds 1: the total is
    what was asked for, which clamping would not give.

    Args:
        shapes: name -> shape of every sparse tensor, (out, in, *kernel).
        sparsity: the share of all these weights that is zero, in [0, 1).

    Returns:
        name -> density in (0, 1].
    """
    _check_sparsity(sparsity)
    size = {name: prod(shape) for name, shape in shapes.items()}
    budget = (1.0 - sparsity) * sum(size.values())
    dense: set[str] = set()
    while len(dense) < len(shapes):
        free = [name for name in shapes if name not in dense]
        eps = (budget - sum(size[name] for name in dense)) / sum(sum(shapes[name]) for name in free)
        # A capped layer leaves budget for the others and so only raises eps: all that exceed 1 now still will.
        exceeding = {name for name in free if eps * sum(shapes[name]) > size[name]}
        if not exceeding:
            break
        dense |= exceeding
    return {name: 1.0 if name in dense else eps * sum(shape) / size[name] for name, shape in shapes.items()}


def counts(shapes: Shapes, densities: Mapping[str, float], sparsity: float) -> dict[str, int]:
    """Whole active weights per layer, in total exactly `round((1 - sparsity) * total)`.

    Each layer gets the floor of `density * size`; what is missing from the total goes, one weight each, to the layers
    with the largest remainders (Hamilton's method), so no layer is off by a whole weight.

    Raises:
        ConfigError: if a layer would keep no weight at all, which cuts the network in two.
    """
    size = {name: prod(shape) for name, shape in shapes.items()}
    exact = {name: min(densities[name] * size[name], size[name]) for name in shapes}
    # 1e-9 relative: a product that is a whole number but for rounding counts as that number.
    count = {name: int(value * (1 + 1e-9)) for name, value in exact.items()}
    missing = round((1.0 - sparsity) * sum(size.values())) - sum(count.values())
    by_remainder = sorted(shapes, key=lambda name: count[name] - exact[name])
    for name in [name for name in by_remainder if count[name] < size[name]][: max(missing, 0)]:
        count[name] += 1
    empty = [name for name in shapes if count[name] == 0]
    require(not empty, "sparsity", sparsity, f"leaves no weight in {', '.join(empty)}; lower it or exclude that layer")
    return count


DISTRIBUTIONS = {"erk": erk, "uniform": uniform}


def _check_sparsity(sparsity: float) -> None:
    require(0.0 <= sparsity < 1.0, "sparsity", sparsity, "must be in [0, 1): the share of weights that are zero")
