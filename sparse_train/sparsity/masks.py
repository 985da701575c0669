"""Pure functions from scores to masks. All ranks that see the same scores make the same mask."""

import torch
from torch import Tensor


def random_mask(shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
    """A boolean mask with exactly `count` ones, each set of positions equally likely."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[torch.randperm(mask.numel(), generator=generator)[:count]] = True
    return mask


def drop(mask: Tensor, score: Tensor, count: int) -> Tensor:
    """`mask` without the `count` active positions of smallest score.

    Args:
        mask, score: of one shape; score is finite.
        count: at most the number of active positions.
    """
    candidates = torch.where(mask, score, torch.inf).reshape(-1)
    return _with(mask, candidates.topk(count, largest=False, sorted=False).indices, False)


def grow(mask: Tensor, score: Tensor, count: int) -> Tensor:
    """`mask` and the `count` inactive positions of largest score.

    Args:
        mask, score: of one shape; score is finite.
        count: at most the number of inactive positions.
    """
    candidates = torch.where(mask, -torch.inf, score).reshape(-1)
    return _with(mask, candidates.topk(count, sorted=False).indices, True)


def _with(mask: Tensor, positions: Tensor, value: bool) -> Tensor:
    return mask.reshape(-1).index_fill(0, positions, value).view(mask.shape)
