"""The sums of an epoch, kept on the device and read once."""

import torch
from torch import Tensor, nn

from sparse_train.process.distributed import Ranks
from sparse_train.sparsity.masks import stored

SUMS = ("loss", "correct", "samples")
NORM_EVERY = 10  # norms in the history are means over every tenth step of the epoch


def normed(step_in_epoch: int) -> bool:
    """Whether the history's norms look at this step."""
    return step_in_epoch % NORM_EVERY == 0


class Meter:
    """Loss, accuracy and gradient norm over an epoch, and whether any of it stopped being a number.

    Nothing here waits for the device but the methods that return Python numbers. Those, and `state_dict`, are over all
    ranks, and every rank must call them. Sums are written in place, as a step that is a CUDA graph needs it.
    """

    def __init__(self, device: torch.device, ranks: Ranks | None = None):
        self.ranks = ranks or Ranks()
        self.loss, self.correct, self.norm = (torch.zeros((), device=device, dtype=torch.float64) for _ in range(3))
        self.samples = torch.zeros((), device=device, dtype=torch.int64)
        self.bad_step = torch.zeros((), device=device, dtype=torch.int64)
        self.bad: Tensor | None = None  # which of the parameters' gradients were not finite in `bad_step`
        self.reset()

    def reset(self) -> None:
        """Begin an epoch, in the same memory."""
        for total in (self.loss, self.correct, self.norm, self.samples):
            total.zero_()
        self.bad_step.fill_(-1)  # the first step whose loss or gradient is not finite
        self.norms = 0
        self.notes: dict[str, tuple[Tensor, int]] = {}  # sums of what else was seen, the same on every rank; how often

    def add(self, loss: Tensor, correct: Tensor, samples: int) -> None:
        self.loss += loss.detach() * samples
        self.correct += correct
        self.samples += samples

    def look(self, loss: Tensor, model: nn.Module, step: int | Tensor, normed: bool) -> None:
        """Look at all gradients of a step, before anything changes them. A parameter without one counts as 0.

        Args:
            normed: add the norm of all gradients, which must be dense ones, to the epoch's.
        """
        params = list(model.parameters())
        grads = [p.grad for p in params if p.grad is not None]
        found = torch._foreach_norm([*map(stored, grads)])
        zero, found = found[0].new_zeros(()), iter(found)
        norms = torch.stack([zero if p.grad is None else next(found) for p in params])
        norm = torch.linalg.vector_norm(norms)
        if normed:
            self.norm += norm
            self.norms += 1
        if self.bad is None:
            self.bad = torch.zeros_like(norms, dtype=torch.bool)
        first = (self.bad_step < 0) & ~(torch.isfinite(norm) & torch.isfinite(loss.detach()))
        self.bad_step.copy_(torch.where(first, step, self.bad_step))
        self.bad.copy_(torch.where(first, ~torch.isfinite(norms), self.bad))

    def note(self, what: str, values: Tensor) -> None:
        """Add to the sums of `what`."""
        total, count = self.notes.get(what, (0, 0))
        self.notes[what] = (total + values, count + 1)

    def noted(self, what: str) -> tuple[list, int]:
        """The sums of `what`, and how often something was added to them."""
        total, count = self.notes.get(what, (None, 0))
        return ([], 0) if total is None else (total.tolist(), count)

    def broken(self, model: nn.Module) -> str | None:
        """Where the run stopped having numbers, in words; None if it has not."""
        step = int(self.ranks.max(self.bad_step))
        if step < 0:
            return None
        names = [name for name, _ in model.named_parameters()]
        layers = [name for name, bad in zip(names, self.bad.tolist(), strict=True) if bad]
        if len(layers) > 1:
            others = f"{len(layers) - 1} others" if len(layers) > 2 else "1 other"
            return f"the gradients of {layers[0]} and {others} are not finite at step {step}"
        return f"{f'the gradient of {layers[0]}' if layers else 'the loss'} is not finite at step {step}"

    def mean_loss(self) -> float:
        return (self.ranks.sum(self.loss) / self.ranks.sum(self.samples)).item()

    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.ranks.sum(self.correct).item() / self.ranks.sum(self.samples).item()

    def mean_norm(self) -> float | None:
        return self.norm.item() / self.norms if self.norms else None

    def images(self) -> int:
        return int(self.ranks.sum(self.samples))

    def state_dict(self) -> dict:
        """The gradient is the same on every rank; the other sums are taken together."""
        sums = {key: self.ranks.sum(getattr(self, key)) for key in SUMS}
        return {**sums, "norm": self.norm, "norms": self.norms, "notes": dict(self.notes)}

    def load_state_dict(self, state: dict) -> None:
        """Rank 0 takes over all sums, and the others continue from 0."""
        for key, value in state.items():
            setattr(self, key, value if key not in SUMS or self.ranks.main else torch.zeros_like(value))
