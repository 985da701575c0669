"""Which weights exist."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sparse_train.errors import require, require_one_of
from sparse_train.randomness import generator
from sparse_train.sparsity.density import DISTRIBUTIONS, counts
from sparse_train.sparsity.exploration import Exploration
from sparse_train.sparsity.masks import random_mask
from sparse_train.sparsity.normalized import normalizations


class Topology:
    """One boolean mask for every sparse weight of a model, the weights being stored already masked.

    The model's forward pass is left alone, so `torch.compile`, DDP and foreign models need nothing special, and after
    `backward()` a weight's `.grad` is the *dense* gradient. `SparseSGD` keeps masked weights at 0.

    Every parameter with two or more dimensions is sparse (first convolution, shortcuts and classifier too; also a
    frozen one), but for the excluded ones. The initial mask of each layer is uniformly random with an exact count.

    Args:
        model: its parameters are masked in place. The topology keeps references to them and follows them to another
            device, dtype or memory format. It does not know of copies: make it after `copy.deepcopy(model)`, and call
            `apply` after `model.load_state_dict`.
        sparsity: the share of zeros among all weights of the sparse tensors, in [0, 1); met to the weight.
        distribution: "erk" or "uniform" (`sparsity.density`).
        seed: of the initial masks.
        exclude: names or patterns (`fnmatch`) of parameters to keep dense and out of the count.

    Attributes:
        masks: parameter name -> BoolTensor of the parameter's shape, True where the weight exists. Read it; to
            change a mask call `replace`.
        weights: parameter name -> the parameter itself. Names are those of the bare model: the prefixes of
            `torch.compile` and DDP are left out.
        counts: parameter name -> active weights; no update changes them.
        normalized: names of the sparse weights whose layer is followed by a normalization layer.
        exploration: what has been active so far (`itop_rate`).
        version: grows by one whenever a mask is replaced, for those who cache what follows from the masks.

    Raises:
        ConfigError: for a sparsity that cannot be met, an unknown distribution, a pattern that matches nothing, or a
            model without a sparse tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: float,
        distribution: str = "erk",
        seed: int = 0,
        exclude: Sequence[str] = (),
    ):
        require_one_of("distribution", distribution, DISTRIBUTIONS)
        self.weights = _sparse_parameters(model, exclude)
        shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        self.counts = counts(shapes, DISTRIBUTIONS[distribution](shapes, sparsity), sparsity)
        self.masks = {
            name: _like(random_mask(shapes[name], self.counts[name], generator(seed, "mask", name)), weight)
            for name, weight in self.weights.items()
        }
        self.normalized = [name for name in normalizations(model) if name in self.masks]
        self.exploration = Exploration(self.masks)
        self.version = 0
        self.apply()

    def replace(self, name: str, mask: Tensor, count: int | None = None) -> None:
        """Make `mask` the mask of one weight, zero what it switches off, and count it as visited.

        Args:
            mask: of the weight's shape.
            count: its active weights, if known: spares waiting for the device.
        """
        if mask.shape != self.weights[name].shape:
            raise ValueError(f"{name}: a mask of shape {tuple(mask.shape)} for {tuple(self.weights[name].shape)}")
        self.masks[name] = _like(mask, self.weights[name])
        self.counts[name] = int(mask.sum()) if count is None else count
        self.exploration.visit(name, self.masks[name])
        self.version += 1
        self._apply([name])

    def apply(self) -> None:
        """Set every masked weight to 0."""
        self.follow()
        self._apply(self.masks)

    def follow(self) -> None:
        """Bring the masks to where the weights are now, should the model have moved."""
        for name, weight in self.weights.items():
            mask = self.masks[name]
            if mask.device != weight.device or mask.stride() != weight.stride():
                self.masks[name] = _like(mask, weight)
                self.exploration.visited[name] = _like(self.exploration.visited[name], weight)
                self.version += 1

    @torch.no_grad()
    def _apply(self, names: Iterable[str]) -> None:
        for name in names:
            self.weights[name].mul_(self.masks[name])

    def densities(self) -> dict[str, float]:
        """The realised density of each sparse tensor, counted in its mask."""
        return {name: int(mask.sum()) / mask.numel() for name, mask in self.masks.items()}

    def sparsity(self) -> float:
        """The realised share of zeros among all weights of the sparse tensors, counted in the masks."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(mask.sum()) for mask in self.masks.values()) / total

    def itop_rate(self) -> float:
        """R_m in [0, 1], see `Exploration`."""
        return self.exploration.rate()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"masks": dict(self.masks), "visited": dict(self.exploration.visited)}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over masks and visited weights; the weights themselves come with the model's own state."""
        if {n: m.shape for n, m in state["masks"].items()} != {n: m.shape for n, m in self.masks.items()}:
            raise ValueError("the saved masks belong to a model with other sparse tensors")
        for name, weight in self.weights.items():
            self.masks[name] = _like(state["masks"][name], weight)
            self.counts[name] = int(self.masks[name].sum())
            self.exploration.visited[name] = _like(state["visited"][name], weight)
        self.version += 1
        self.apply()


def _sparse_parameters(model: nn.Module, exclude: Sequence[str]) -> dict[str, nn.Parameter]:
    candidates = {_bare(name): p for name, p in model.named_parameters() if p.ndim > 1}
    for pattern in exclude:
        matched = any(fnmatchcase(name, pattern) for name in candidates)
        require(matched, "exclude", pattern, f"matches no weight of the model; there are {', '.join(candidates)}")
    sparse = {n: p for n, p in candidates.items() if not any(fnmatchcase(n, pattern) for pattern in exclude)}
    require(bool(sparse), "exclude", list(exclude), "leaves no sparse layer; the model needs a weight with ndim > 1")
    return sparse


def _bare(name: str) -> str:
    """The parameter's name without what `torch.compile` and DDP put before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _like(mask: Tensor, weight: Tensor) -> Tensor:
    """The mask on the weight's device and in its memory layout, so that products of the two run at full speed."""
    return torch.empty_like(weight, dtype=torch.bool).copy_(mask)
