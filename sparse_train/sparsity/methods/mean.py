"""Any method that grows by gradients, with those of several batches."""

from collections.abc import Mapping

from torch import Tensor

from sparse_train.errors import require
from sparse_train.sparsity.method import Layer, Method, Wrapper


class Mean(Wrapper):
    """The mean gradient over the last `batches` steps before an update, its own included: as of one large batch.

    Steps before the last update do not count, since the masks were others: `batches` above `every` changes nothing.

    Args:
        method: whose scores see that mean, such as `RigL()`.
        batches: at least 1.
    """

    def __init__(self, method: Method, batches: int):
        super().__init__(method)
        require(batches >= 1, "batches", batches, "must be at least 1: gradients to average before a mask update")
        require(not method.observed, "method", type(method).__name__, "has an average of its own; give another method")
        self.observed, self.sums, self.steps = batches, {}, 0

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        self.steps += 1
        for name, grad in gradients.items():
            self.sums[name] = self.sums[name].to(grad) + grad if name in self.sums else grad.clone()

    def seen(self, layer: Layer) -> Layer:
        mean = self.sums[layer.name] / self.steps if layer.name in self.sums else None
        return self.method.seen(layer.averaged(mean))

    def counts(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        self.sums, self.steps = {}, 0  # all layers have been seen: the next mean begins
        return self.method.counts(layers)

    def state_dict(self) -> dict:
        return {"sums": self.sums, "steps": self.steps, "method": self.method.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.sums, self.steps = dict(state["sums"]), state["steps"]
        self.method.load_state_dict(state["method"])
