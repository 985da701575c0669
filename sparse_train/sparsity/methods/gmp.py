"""Gradual magnitude pruning (Zhu & Gupta 2017, arXiv 1710.01878, Section 3)."""

from sparse_train.sparsity.parts.budget import Moment, Plan
from sparse_train.sparsity.parts.schedule import cubic


class GMP:
    """A budget: each layer keeps `n + (N - n) (1 - t / T)^3` of its N weights, rounded; n at the last update, step T.

    In sparsities this is the paper's s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Delta t))^3 with s_i = 0 and t_0 = 0.
    Its layers all have one s_f; here each has that of the topology's distribution (`uniform` for the paper's). No
    weight comes back, while the paper's may, whose pruned weights keep their values.
    """

    keeps_counts, gradual, grows = False, True, False
    left = staticmethod(cubic)

    def __call__(self, at: Moment) -> Plan:
        left = {name: round(self.left(count, at.targets[name], at.progress)) for name, count in at.first.items()}
        return {name: (max(count - left[name], 0), 0) for name, count in at.counts.items()}
