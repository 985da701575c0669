"""What a sweep's methods are called: SparseOpt without s_avg is D alone, whichever table asks for it."""

from omegaconf import OmegaConf

from sparse_train.report import sweeps
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views.labels import label

AVERAGE = "optimizer.precondition.average"
D_ALONE = "D alone"
ABOUT = f"{D_ALONE}: gradients times sqrt(1 - s_i), without s_avg, as Appendix F has it."


def notes(sweep: Sweep) -> list[str]:
    """What stands below the title of its page: the artifact's own note, and what D alone is."""
    return [*([sweep.artifact["note"]] if "note" in sweep.artifact else []), *([ABOUT] if words(sweep) else [])]


def words(sweep: Sweep) -> dict[str, str]:
    """Optimizer -> its word, for those whose configuration in this sweep makes them something else than their label.

    Empty where s_avg varies within the sweep: there each setting names it.
    """
    if {"s_avg", AVERAGE} & set(sweep.factors):
        return {}
    asked = dict.fromkeys(cell.factors["optimizer"] for cell in sweep.cells if "optimizer" in cell.factors)

    def without_average() -> list[str]:
        composed = {one: sweeps.configuration(sweep.name, {"optimizer": one}) for one in asked}
        return [one for one, cfg in composed.items() if OmegaConf.select(cfg, AVERAGE) == "none"]

    without = sweeps.remembered(["D alone", sweep.name, *asked], without_average)
    return {one: label("optimizer", one).replace("SparseOpt", D_ALONE) for one in without}
