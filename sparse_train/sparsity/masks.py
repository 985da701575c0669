"""Pure functions from scores to masks. All ranks that see the same scores make the same mask."""

import numpy as np
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
    return _with(mask, extreme(candidates, count, largest=False), False)


def grow(mask: Tensor, score: Tensor, count: int) -> Tensor:
    """`mask` and the `count` inactive positions of largest score.

    Args:
        mask, score: of one shape; score is finite.
        count: at most the number of inactive positions.
    """
    candidates = torch.where(mask, -torch.inf, score).reshape(-1)
    return _with(mask, extreme(candidates, count, largest=True), True)


def extreme(scores: Tensor, count: int, largest: bool) -> Tensor:
    """Positions of the `count` largest or smallest of a vector of scores, in any order: those of `torch.topk`.

    On the CPU numpy's vectorized partition finds them several times faster. It breaks ties in another way, so where
    the last score taken is also that of a position left out, `topk` decides.
    """
    if 0 < count < len(scores) and scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        values, cut = scores.numpy(), len(scores) - count if largest else count - 1
        order = np.argpartition(values, cut)
        last = values[order[cut]]
        if np.count_nonzero(values >= last if largest else values <= last) == count:
            return torch.from_numpy(order[cut:] if largest else order[: cut + 1])
    return scores.topk(count, largest=largest, sorted=False).indices


def checksum(mask: Tensor) -> Tensor:
    """One int64 that tells masks of the same shape apart, computed where the mask is.

    The sum, modulo 2^64, of a scattered number for each active position: splitmix64's finalizer (Steele et al. 2014).
    """
    x = torch.arange(1, mask.numel() + 1, device=mask.device) * -7046029254386353131
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return (mask.reshape(-1) * (x ^ (x >> 31))).sum()


def _with(mask: Tensor, positions: Tensor, value: bool) -> Tensor:
    return mask.reshape(-1).index_fill(0, positions, value).view(mask.shape)
