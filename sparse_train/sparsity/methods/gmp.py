"""Gradual magnitude pruning (Zhu & Gupta 2017, arXiv 1710.01878, Section 3)."""

from collections.abc import Mapping

from sparse_train.sparsity.method import Layer, Method


def cubic(first: float, last: float, progress: float) -> float:
    """last + (first - last) (1 - progress)^3: fast at first, `last` at progress 1."""
    return last + (first - last) * (1 - progress) ** 3


class GMP(Method):
    """Each layer keeps `n + (N - n) (1 - t / T)^3` of its N weights, rounded; n at the last update, step T.

    In sparsities this is the paper's s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Delta t))^3 with s_i = 0 and t_0 = 0.
    Its layers all have one s_f; here each has that of the topology's distribution (`uniform` for the paper's). No
    weight comes back, while the paper's may, whose pruned weights keep their values.
    """

    initial, keeps_counts = "dense", False
    left = staticmethod(cubic)

    def counts(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        left = {name: round(self.left(layer.first, layer.target, layer.progress)) for name, layer in layers.items()}
        return {name: (max(layer.count - left[name], 0), 0) for name, layer in layers.items()}
