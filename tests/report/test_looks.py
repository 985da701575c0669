"""Lines of a figure are told apart, in words and to the eye, whatever varies between them."""

from types import SimpleNamespace

import pandas as pd
import pytest

from sparse_train.report import sweeps
from sparse_train.report.figures import KINDS, style
from sparse_train.report.figures.accuracy import Looks
from sparse_train.report.figures.kinds import Material
from sparse_train.report.page.content import panels_of

FOUR = [{"dst": dst, "optimizer": "sgd"} for dst in ("rigl", "set", "static", "dense")]
BOTH = [{"dst": dst, "optimizer": optimizer} for dst in ("rigl", "static") for optimizer in ("sgd", "sparseopt")]
RATES = [{"dst": "rigl", "optimizer": "sgd", "lr": lr} for lr in ("0.1", "0.5", None)]
OWN = [{"dst": "rigl", "optimizer": optimizer} for optimizer in ("sgd", "mine", "another")]
MANY = [{"dst": f"dst{i}", "optimizer": "sgd"} for i in range(14)]
CASES = {
    "methods and optimizers": (
        BOTH,
        ["RigL, Baseline", "RigL, SparseOpt", "Static mask, Baseline", "Static mask, SparseOpt"],
    ),
    "learning rates": (RATES, ["learning rate 0.1", "learning rate 0.5", "Baseline"]),
    "foreign optimizers": (OWN, ["Baseline", "mine", "another"]),
    "many": (MANY, [f"dst{i}" for i in range(14)]),
}


def made(settings, epochs=("100",)):
    """Runs and histories of these settings over two sparsities, schedules and seeds."""
    cells = [
        {"sparsity": s, "epochs": e, "seed": seed, **one}
        for one in settings
        for s in ("0.9", "0.95")
        for e in epochs
        for seed in ("0", "1")
    ]
    runs = [
        {**cell, "id": str(i), "status": "complete", "test_acc": 50.0 + i, "trained_epochs": int(cell["epochs"])}
        for i, cell in enumerate(cells)
    ]
    rows = [
        {**cell, "id": str(i), "epoch": e, "test_acc": 10.0 * e + i} for i, cell in enumerate(cells) for e in (1, 2)
    ]
    sweep = SimpleNamespace(
        name="x", scale="paper", artifact={"figure": {"value": "test_acc"}}, cells=[], factors=[*cells[0]]
    )
    return Material(sweep, pd.DataFrame(runs), pd.DataFrame(rows))


def lines_of(axes):
    return [line for line in axes.lines if not line.get_label().startswith("_") and len(line.get_xdata())]


@pytest.mark.parametrize("kind", ["curves", "final"])
@pytest.mark.parametrize("case", CASES)
def test_no_two_lines_look_or_are_called_alike_in_a_figure_and_on_the_page(kind, case):
    settings, words = CASES[case]
    on = made(settings)
    for panel in KINDS[kind].draw(on).axes:
        lines = lines_of(panel)
        assert [line.get_label() for line in lines] == words
        looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
        assert len(looks) == len(settings)
    ending = ", 100 epochs" if kind == "curves" else ""
    for panel in panels_of(kind, on):
        assert [series["name"] for series in panel["series"]] == [word + ending for word in words]
        looks = {(series["colour"], series.get("marker"), series["dash"]) for series in panel["series"]}
        assert len(looks) == len(settings)


def test_schedules_keep_their_dashes_beside_methods():
    on = made(FOUR, epochs=("100", "200"))
    panel = KINDS["curves"].draw(on).axes[0]
    drawn = {
        (line.get_color(), line.get_marker(), line.get_linestyle()) for line in panel.lines if len(line.get_xdata())
    }
    assert len(drawn) == 8


@pytest.mark.parametrize("name", ["fig3", "fig11"])
def test_where_optimizers_alone_vary_each_has_its_look_of_every_figure(name):
    sweep = sweeps.load(name)
    runs = pd.DataFrame([cell.factors for cell in sweep.cells])
    looks = Looks(runs, sweep.factors)
    for (_, optimizer), look, _ in looks.lines(runs):
        assert look == style.look(optimizer)
    words = {look.words for _, look, _ in looks.lines(runs)}
    assert words <= {"Baseline", "SparseOpt", "Baseline w/ HAM", "SparseOpt w/ HAM"}
