"""Which weights of a layer a mask update drops and grows."""

from typing import NamedTuple, Protocol

from torch import Tensor

from sparse_train.sparsity.masks import drop, grow


class Layer(NamedTuple):
    """A layer at a mask update.

    Attributes:
        mask: as it is.
        score: by which weights are dropped, the lowest first.
        growth: by which positions are grown, the highest first; None where nothing is.
        drop, grow: how many, by the budget.
        target: how many weights the sparsity asks for in this layer.
        last: whether its neurons are the model's outputs (`Topology.outputs`).
    """

    mask: Tensor
    score: Tensor
    growth: Tensor | None
    drop: int
    grow: int
    target: int
    last: bool


class Selection(Protocol):
    """What `Updater` needs of a selection.

    Attributes:
        keeps_counts: whether as many weights are dropped and grown as the budget says.
        begins: the `initial` masks that it needs; None for any.
    """

    keeps_counts: bool
    begins: str | None

    def __call__(self, layer: Layer) -> Tensor: ...


class ByLayer:
    """Of all weights of the layer together. The ones dropped just now may be grown again."""

    keeps_counts, begins = True, None

    def __call__(self, layer: Layer) -> Tensor:
        kept = drop(layer.mask, layer.score, layer.drop)
        return kept if layer.growth is None else grow(kept, layer.growth, layer.grow)
