"""How much of the weight space a run has visited."""

from torch import Tensor


class Exploration:
    """In-time over-parameterization (Liu et al. 2021): the ITOP rate R_m.

        R_m = |union of all masks so far, the initial one included| / |all weights of the sparse tensors|

    A layer that is kept dense counts as explored.
    """

    def __init__(self, masks: dict[str, Tensor]):
        self.visited = {name: mask.clone() for name, mask in masks.items()}

    def visit(self, name: str, mask: Tensor) -> None:
        self.visited[name] |= mask

    def rate(self) -> float:
        """R_m in [0, 1]."""
        total = sum(mask.numel() for mask in self.visited.values())
        return sum(int(mask.sum()) for mask in self.visited.values()) / total
