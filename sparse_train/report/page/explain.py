"""The numbers behind the explanation that readers can play with, from committed records alone."""

from pathlib import Path

from sparse_train.report.page.records import committed
from sparse_train.report.sweeps import PAPER

AMPLIFICATION, TRAINING = "fig2", "mask-updates"


def explanation(results_dir: Path) -> dict | None:
    """What Figure 2 and the study of mask updates measured; None without records of both.

    Returns:
        `measured`: [sparsity, gradient over its dense twin's], under batch normalization, the mean over initializations
        and seeds. `exponents`: step -> [sparsity, exponent of 1 - s_i in the amplification], the median over layers and
        seeds; Eq. 10 says -0.5.
    """
    start, later = (committed(name, PAPER, results_dir).history() for name in (AMPLIFICATION, TRAINING))
    if "ratio" not in start or "exponent" not in later:
        return None
    ratios = (
        start[start["task.norm"] == "batch"].astype({"sparsity": float}).groupby("sparsity")["ratio"].mean().dropna()
    )
    layers = later[later["kind"] == "layer"].astype({"sparsity": float, "step": int})
    exponents = layers.groupby(["step", "sparsity"])["exponent"].median().dropna().round(3)
    if ratios.empty or exponents.empty:
        return None
    return {
        "measured": [[float(sparsity), round(float(ratio), 3)] for sparsity, ratio in ratios.items()],
        "exponents": {
            str(step): [[float(sparsity), float(value)] for (_, sparsity), value in group.items()]
            for step, group in exponents.groupby("step")
        },
    }
