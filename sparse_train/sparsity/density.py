"""How many weights each layer keeps: ERK, uniform, and exact counts.

Densities are real numbers; `counts` turns them into whole weights whose sum is exactly the number asked for.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import inf, prod

from sparse_train.errors import require, require_one_of

Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Every layer has the density 1 - sparsity.

    >>> uniform({"conv": (16, 3, 3, 3), "fc": (10, 16)}, sparsity=0.75)
    {'conv': 0.25, 'fc': 0.25}
    """
    _check_sparsity(sparsity)
    return dict.fromkeys(shapes, 1.0 - sparsity)


def erk(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Erdős-Rényi-Kernel densities (Mocanu et al. 2018; Evci et al. 2020, Section 3, with kernel dimensions).

        density_l = eps * sum(shape_l) / prod(shape_l)

    with the one eps for which `sum_l density_l * prod(shape_l) = (1 - sparsity) * sum_l prod(shape_l)`. A layer whose
    density would exceed 1 is kept dense and eps is solved again for the others, until none exceeds 1: the total is
    what was asked for, which clamping would not give.

    >>> densities = erk({"hidden": (64, 64), "fc": (10, 64)}, sparsity=0.75)
    >>> {name: round(density, 3) for name, density in densities.items()}
    {'hidden': 0.183, 'fc': 0.678}

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
    count = {name: whole(value) for name, value in exact.items()}
    missing = round((1.0 - sparsity) * sum(size.values())) - sum(count.values())
    by_remainder = sorted(shapes, key=lambda name: count[name] - exact[name])
    for name in [name for name in by_remainder if count[name] < size[name]][: max(missing, 0)]:
        count[name] += 1
    empty = [name for name in shapes if count[name] == 0]
    require(not empty, "sparsity", sparsity, f"leaves no weight in {', '.join(empty)}; lower it or exclude that layer")
    return count


def whole(value: float) -> int:
    """The floor, of a product that may be off by rounding: 0.29 * 100 is 29, not 28.999999999999996."""
    return int(value * (1 + 1e-9))


def apportioned(total: int, shares: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """`total` in whole numbers in proportion to `shares`, nowhere above `room`: what has no room goes to the others.

    Floors first, then one each by largest remainder (Hamilton's method). If there are no shares, all count alike.

    Args:
        total: at most all the room there is.
        shares: not negative.
    """
    given = dict.fromkeys(shares, 0)
    while left := total - sum(given.values()):
        free = [name for name in shares if given[name] < room[name]]
        if not 0 < sum(shares[name] for name in free) < inf:
            shares = dict.fromkeys(shares, 1.0)
        of = sum(shares[name] for name in free)
        exact = {name: left * shares[name] / of for name in free}
        more = {name: min(int(exact[name]), room[name] - given[name]) for name in free}
        if all(more[name] == int(exact[name]) for name in free):
            rest = left - sum(more.values())
            others = [name for name in free if given[name] + more[name] < room[name]]
            for name in sorted(others, key=lambda name: more[name] - exact[name])[:rest]:
                more[name] += 1
        given |= {name: given[name] + by for name, by in more.items()}
    return given


DISTRIBUTIONS = {"erk": erk, "uniform": uniform}


def allotted(shapes: Shapes, distribution: str | Mapping[str, float], sparsity: float | None) -> dict[str, int]:
    """Whole active weights per layer, by the name of a distribution or by densities of one's own.

    Args:
        distribution: "erk" or "uniform"; or name or pattern (`fnmatch`) -> density in (0, 1], of which a layer takes
            the first that matches.
        sparsity: None where densities are given, as it follows from them.

    Raises:
        ConfigError: for a layer without a density, a pattern without a layer, a density out of range, or both ways.
    """
    if not isinstance(distribution, Mapping):
        require_one_of("distribution", distribution, DISTRIBUTIONS)
        require(sparsity is not None, "sparsity", sparsity, "must be a number, unless distribution has densities")
        return counts(shapes, DISTRIBUTIONS[distribution](shapes, sparsity), sparsity)
    require(
        sparsity is None, "sparsity", sparsity, "must be null where distribution has densities: it follows from them"
    )
    chosen = {name: next((p for p in distribution if fnmatchcase(name, p)), None) for name in shapes}
    for pattern, density in distribution.items():
        require(0 < density <= 1, f"distribution.{pattern}", density, "must be a density, above 0 and at most 1")
        used = any(fnmatchcase(name, pattern) for name in shapes)
        require(used, "distribution", pattern, f"matches no sparse weight; there are {', '.join(shapes)}")
        right = "matches only weights that an earlier pattern takes; name special layers before general ones"
        require(pattern in chosen.values(), "distribution", pattern, right)
    found = {name: distribution.get(pattern) for name, pattern in chosen.items()}
    without = [name for name, density in found.items() if density is None]
    require(not without, "distribution", dict(distribution), f"gives no density to {', '.join(without)}; '*' is all")
    size = {name: prod(shape) for name, shape in shapes.items()}
    return counts(shapes, found, 1 - sum(found[name] * size[name] for name in shapes) / sum(size.values()))


def _check_sparsity(sparsity: float) -> None:
    require(0.0 <= sparsity < 1.0, "sparsity", sparsity, "must be in [0, 1): the share of weights that are zero")
