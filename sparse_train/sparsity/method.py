"""What a DST method is: one object, whose functions say which masks it begins with, what goes and what comes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sparse_train.errors import ConfigError, require
from sparse_train.randomness import generator
from sparse_train.sparsity import masks
from sparse_train.sparsity.density import whole
from sparse_train.sparsity.topology import Topology


@dataclass(frozen=True, eq=False)
class Layer:
    """One sparse weight at a mask update, as its method sees it.

    Attributes:
        name: of the parameter. The tensors below have a neuron in each row (`Topology.rows`).
        weight: its values, 0 off the mask.
        gradient: of the loss with respect to it, dense: also where no weight is. 0 if the step's loss does not use it.
        mask: where weights are.
        count, first, target: how many weights it has, began with, and is to have by the sparsity asked for.
        fraction: f_t, the share of weights to replace; 0 if the method needs a gradient and the loss does not use it.
        progress: of pruning: 0 up to the first update that may come, 1 from the run's last one on, linear between.
        output: whether its neurons are the model's outputs (`Topology.outputs`).
        method, seed, step: where scores and randomness come from.
    """

    name: str
    weight: Tensor
    gradient: Tensor
    mask: Tensor
    count: int
    first: int
    target: int
    fraction: float
    progress: float
    output: bool
    method: "Method"
    seed: int
    step: int

    @property
    def generator(self) -> torch.Generator:
        """For random scores, on the CPU and anew each time, so the same on all ranks, and again after a restart."""
        return generator(self.seed, "growth", self.name, self.step)

    @cached_property
    def drop_score(self) -> Tensor:
        """`Method.drop_score` of this layer, computed once.

        Raises:
            ConfigError: for another shape than the weight's, which would rank other weights without an error.
        """
        return self._scored("drop_score", self.method.drop_score(self))

    @cached_property
    def growth_score(self) -> Tensor | None:
        """`Method.growth_score` of this layer, likewise."""
        score = self.method.growth_score(self)
        return None if score is None else self._scored("growth_score", score)

    def averaged(self, gradient: Tensor | None) -> "Layer":
        """The same layer with an average of gradients as its gradient.

        Raises:
            RuntimeError: there is none, since `Updater.observe` was not called.
        """
        if gradient is None:
            raise RuntimeError(
                f"{self.name} has no average of gradients at step {self.step}: call observe in every step"
            )
        return replace(self, gradient=gradient)

    def _scored(self, name: str, score: Tensor) -> Tensor:
        if isinstance(score, Tensor) and score.shape == self.weight.shape:
            return score.nan_to_num(
                nan=torch.nan
            )  # inf becomes the largest number: masks.grow and drop rank these alike
        given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        right = f"{name} must score each weight of {self.name}, a tensor of {tuple(self.weight.shape)}, not {given}"
        raise ConfigError("method", owner(getattr(self.method, name)), right)


class Method:
    """Drop the weights of smallest magnitude, grow as many: what a method has of its own it overrides.

    A layer drops and grows `counts` weights, those that `select` chooses: the active ones with the lowest `drop_score`
    go, and the positions with the highest `growth_score` come, among all that are then inactive. So a weight may go and
    come in the same update. All functions see `Layer`s; only layers that are trained are among them.

    Attributes:
        initial: the masks that it begins with (`Topology(initial=...)`); None: any but dense ones. With "dense" it
            prunes while the network trains, and `left` says how fast.
        keeps_counts: whether every layer keeps its number of weights.
        needs_gradient: whether growth looks at the dense gradient, which costs FLOPs.
        observed: how many steps up to an update, its own included, `observe` sees: 0, none; `math.inf`, all.
    """

    initial: str | None = None
    keeps_counts: bool = True
    needs_gradient: bool = False
    observed: float = 0

    def begin(self, topology: Topology, optimizer: torch.optim.Optimizer) -> None:
        """Called once, before the first update.

        Raises:
            ConfigError: for a topology or an optimizer that the method cannot work with.
        """

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        """See the gradients of a step, by the names of the weights. They are the network's own: copy what is kept."""

    def seen(self, layer: Layer) -> Layer:
        """The layer that all functions below see: with an average in place of its gradient (`Layer.averaged`), say."""
        return layer

    def counts(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        """Name -> how many weights it drops, and how many it grows. A layer that is left out keeps its mask.

        Default: `floor(f_t n)` of a layer's n weights, and as many (Evci et al. 2020, Algorithm 1).
        """
        changed = {name: whole(layer.fraction * layer.count) for name, layer in layers.items()}
        return {name: (count, count) for name, count in changed.items()}

    def drop_score(self, layer: Layer) -> Tensor:
        """A score for each weight, which may be infinite: the lowest go. Default: |w|."""
        return layer.weight.abs()

    def growth_score(self, layer: Layer) -> Tensor | None:
        """A score for each position, which may be infinite: the highest come. Default: None, nothing grows."""
        return None

    def select(self, layer: Layer, drop: int, grow: int) -> Tensor:
        """The new mask of a layer that is to drop and grow so many weights."""
        kept = masks.drop(layer.mask, layer.drop_score, drop)
        return kept if layer.growth_score is None else masks.grow(kept, layer.growth_score, grow)

    def replaced(self, layer: Layer, mask: Tensor) -> None:
        """The layer has just got this mask, by an update that all layers take part in."""

    def left(self, first: int, target: int, progress: float) -> float:
        """How many of a layer's first weights a method that prunes leaves it at this progress, to count FLOPs."""
        return first

    def state_dict(self) -> dict:
        """What a resumed run needs beside masks and weights. The optimizer's state has it."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave."""


class Wrapper(Method):
    """Another method in all that a subclass does not override."""

    def __init__(self, method: Method):
        self.method = require_method(method)
        for name, default in vars(Method).items():
            if not name.startswith("_") and getattr(type(self), name) is default:
                setattr(self, name, getattr(method, name))


def require_method(method: Method) -> Method:
    """The method itself.

    Raises:
        ConfigError: it is none, but a class, say; or lacks a function that another of its functions needs.
    """
    name, prunes = type(method).__name__, getattr(method, "initial", None) == "dense"
    require(isinstance(method, Method), "method", method, "must be a sparsity.method.Method, such as RigL() or SET()")
    saves = overrides(method, "state_dict") == overrides(method, "load_state_dict")
    require(saves, "method", name, "must have both state_dict and load_state_dict, or neither")
    sees = overrides(method, "observe") == bool(method.observed)
    require(sees, "method", name, "must have observe, and say by `observed` how many steps it sees, or neither")
    right = "must have left(first, target, progress), since it begins with dense masks"
    require(not prunes or overrides(method, "left"), "method", name, right)
    return method


def overrides(method: Method, name: str) -> bool:
    """Whether this function of the method, or of the one that it wraps, is its own."""
    return getattr(getattr(method, name), "__func__", None) is not getattr(Method, name)


def owner(function: object) -> str:
    """The class of the method whose function it is: of a wrapped one, where its wrapper leaves the function to it."""
    return type(getattr(function, "__self__", function)).__name__
