"""A training step as one CUDA graph, which a GPU replays with one launch (`execution=graph`)."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparse_train.errors import require
from sparse_train.optim.sgd import SparseSGD
from sparse_train.train.meter import Meter

Work = Callable[[], None]


def recorded(work: Work) -> Work:
    """Record the kernels of `work` without running them; returns what replays them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may pin batches meanwhile
        work()
    return graph.replay


class StepGraph:
    """Records an ordinary step once and replays it for the next batches.

    Launches bound the speed of a small network: a step of ResNet20 has 230 to 350. A graph repeats its kernels
    with the same addresses and numbers, and no Python runs. So the batch and the number of the step are copied into
    tensors of its own, the learning rate is a tensor (`Run.set_lr`), and whatever else a step writes, it writes in
    place. A step that makes the optimizer's factors anew, such as one after a mask update, runs eagerly. It writes them
    to the same memory, so the graph stays valid. Where addresses change (`SparseSGD.addresses`), it is recorded anew.

    Args:
        record: takes `work` and returns a function that repeats it.
    """

    def __init__(self, record: Callable[[Work], Work] = recorded):
        self.record = record
        self.inputs: tuple[Tensor, ...] = ()
        self.made_for: tuple = ()
        self.replay: Work | None = None

    def step(self, work: Callable[..., None], optimizer: SparseSGD, meter: Meter, *batch: Tensor, number: int) -> None:
        """Do `work(*batch, number)`, a whole step of `optimizer` that adds to `meter`; the number is a tensor there."""
        if not self.inputs:
            self.inputs = (*map(torch.empty_like, batch), batch[0].new_empty((), dtype=torch.int64))
        for own, given in zip(self.inputs[:-1], batch, strict=True):
            require(own.shape == given.shape, "execution", "graph", f"needs batches of one size, {tuple(own.shape)}")
            own.copy_(given)
        self.inputs[-1].fill_(number)
        if not optimizer.addresses:
            work(*self.inputs)
            return
        if (made_for := (optimizer.addresses, meter)) != self.made_for:
            self.replay = None  # frees its memory first
            self.replay, self.made_for = self.record(lambda: work(*self.inputs)), made_for
        self.replay()
