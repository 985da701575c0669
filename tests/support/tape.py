"""CUDA graphs without a GPU: operations are recorded with their tensors and numbers, and repeated as they are."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that need the host, which a CUDA graph refuses to record: a number is read, or made from Python's.
WAITS = ("aten::_local_scalar_dense", "aten::lift_fresh", "aten::nonzero", "aten::equal", "aten::is_nonzero")


class Tape(TorchDispatchMode):
    """What work does to tensors. As with CUDA graphs recording leaves all as it was, and no Python runs in a replay."""

    def __init__(self):
        super().__init__()
        self.operations, self.own, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func._schema.name not in WAITS, f"{func} waits for the host"
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        for each in given:
            storage = each.untyped_storage()
            # Not only where the schema tells of a change: batch normalization's does not tell of its statistics.
            if storage.data_ptr() not in self.own | set(self.before):
                self.before[storage.data_ptr()] = (storage, storage.clone())
        result = func(*args, **kwargs)
        known = {each.untyped_storage().data_ptr() for each in given}
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        self.own |= {each.untyped_storage().data_ptr() for each in made} - known
        self.operations.append((func, args, kwargs, made))
        return result

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, made in self.operations:
            again = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
            for old, new in zip(made, again, strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.detach().copy_(new)


def taped(work):
    """As `sparse_train.train.graph.recorded`."""
    random, tape = torch.get_rng_state(), Tape()
    with tape:
        work()
    for storage, content in tape.before.values():
        storage.copy_(content)
    torch.set_rng_state(random)
    return tape.replay
