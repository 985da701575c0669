"""Learning rates by step: linear warm-up, then cosine decay (Appendix E.2)."""

from math import cos, inf, pi

from sparse_train.errors import require


class WarmupCosine:
    """The schedules of Appendix E.2, evaluated at every step.

    For step t, T_w warm-up steps and T steps in all:

        t <  T_w:  eta_t = init + (peak - init) * t / T_w
        t >= T_w:  eta_t = end + (peak - end) / 2 * (1 + cos(pi * (t - T_w) / (T - T_w)))

    A run shorter than its warm-up simply ramps up.

    Args:
        base_lr: the learning rate of the tables.
        batch_size: the global one.
        steps_per_epoch, epochs: the length of the run.
        warmup_epochs: T_w in epochs; may be a fraction.
        init, end: the first and the final learning rate.
        reference_batch: if given, peak = base_lr * batch_size / reference_batch (E.2.1, 256); else peak = base_lr.
    """

    def __init__(
        self,
        base_lr: float,
        batch_size: int,
        steps_per_epoch: int,
        epochs: int,
        warmup_epochs: float,
        init: float,
        end: float,
        reference_batch: int | None = None,
    ):
        require(0 <= warmup_epochs < inf, "warmup_epochs", warmup_epochs, "must be at least 0")
        for key, rate in (("init", init), ("end", end)):
            require(0 <= rate < inf, key, rate, "must be at least 0: a learning rate")
        known = reference_batch is None or reference_batch >= 1
        require(known, "reference_batch", reference_batch, "must be at least 1, or null")
        self.peak = base_lr if reference_batch is None else base_lr * batch_size / reference_batch
        self.init, self.end = init, end
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)
        self.total_steps = epochs * steps_per_epoch

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.init + (self.peak - self.init) * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return self.end + (self.peak - self.end) / 2 * (1 + cos(pi * progress))
