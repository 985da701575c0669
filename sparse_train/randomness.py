"""Randomness is named: every random choice comes from a generator derived from (seed, purpose, counter).

Only dropout reads the ambient random state; each rank has its own. So all ranks draw the same masks and batches without
a broadcast, a resumed run repeats itself, and adding one random choice shifts no other.
"""

import hashlib

import torch


def derive(seed: int, purpose: str, *counter: int | str) -> int:
    """A 63-bit seed that depends on all of (seed, purpose, counter) and on nothing else."""
    name = repr((int(seed), purpose, *counter)).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1


def generator(seed: int, purpose: str, *counter: int | str) -> torch.Generator:
    """A CPU generator for one purpose, for example `generator(seed, "shuffle", epoch)`.

    Always on the CPU, so that a run draws the same masks and the same batches on any device.
    """
    return torch.Generator().manual_seed(derive(seed, purpose, *counter))
