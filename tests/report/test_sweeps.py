"""Every sweep file composes, says what it runs, and is drawn from records with the numbers that they hold."""

import re
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from sparse_train.config import check, run_id
from sparse_train.errors import ConfigError
from sparse_train.report import draw as drawing
from sparse_train.report import schema, sweeps
from sparse_train.report.draw import draw
from sparse_train.report.results import Records
from sparse_train.report.views import tables
from support.records import leave_record

TABLES = {"table1": 36, "table2": 144, "table3": 144, "table6": 12, "table7": 12, "table8": 144, "table9": 144}
NUMBERED = {*(f"table{i}" for i in range(1, 10)), *(f"fig{i}" for i in range(1, 27))}


@pytest.fixture(scope="module")
def loaded():
    """Every sweep at the paper's scale."""
    return {name: sweeps.load(name) for name in sweeps.names()}


def test_every_table_and_figure_of_the_paper_has_its_sweep(loaded):
    assert set(loaded) >= NUMBERED
    assert {name: len(loaded[name].cells) for name in TABLES} == TABLES


def header(name: str) -> list[str]:
    """The comment lines at the head of a sweep file."""
    lines = (sweeps.SWEEPS / f"{name}.yaml").read_text().splitlines()
    return [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]


def test_headers_say_place_command_and_number_of_runs(loaded):
    for name, sweep in loaded.items():
        first, *lines = header(name)
        said = dict(re.match(r"(\S+)\s+(.*)", line).groups() for line in lines if re.match(r"\S+\s", line))
        if name in NUMBERED:
            kind = "Table" if name.startswith("table") else "Figure"
            assert first.startswith(f"{kind} {re.sub('[a-z]', '', name)}, "), name
        assert said["command"].startswith(f"make reproduce-{name}") or name == "quickstart"
        assert int(re.match(r"\d+", said["runs"])[0]) == len(sweep.cells), name
        assert "GPU-hours" in said or name == "quickstart"
        assert (
            (f"SCALE={sweep.artifact['at']}" in said["command"])
            if "at" in sweep.artifact
            else "SCALE" not in said["command"]
        )
        assert " ".join(sweep.artifact["about"].split()).removeprefix("Ours: ")[1:80] in " ".join([first, *lines])


def test_every_cell_is_a_configuration_that_trains(loaded):
    """One cell of every grid, by the check that a run begins with."""
    for name, sweep in loaded.items():
        for grid in sweep.grids:
            check(sweeps.configuration(name, grid[-1].factors))


def test_figures_share_their_tables_runs(loaded):
    ids = {name: {cell.id for cell in sweep.cells} for name, sweep in loaded.items()}
    tables = {
        "table1": (3, 4, 13, 14, 15, 16),
        "table2": (11, 17),
        "table3": (12, 18),
        "table6": (21, 23, 24),
        "table7": (22,),
        "table8": (19, 25),
        "table9": (20, 26),
    }
    for table, figures in tables.items():
        for figure in figures:
            assert ids[f"fig{figure}"] <= ids[table], figure
    assert len(ids["fig5"] - ids["table1"]) == 9, "growth by corrected gradients"
    assert len(ids["fig10"] - ids["table2"]) == 27


def test_references_add_dense_and_static_runs():
    plain, more = sweeps.load("fig3"), sweeps.load("fig3", references=True)
    added = {cell.factors["dst"] for cell in more.cells[len(plain.cells) :]}
    assert added == {"dense", "static"}


def _settings(sweep) -> set:
    return {tuple((key, value) for key, value in cell.factors.items() if key != "seed") for cell in sweep.cells}


@pytest.mark.parametrize("scale", ["cpu", "smoke"])
def test_smaller_scales_have_runs_of_their_own(loaded, scale):
    for name in ("table1", "fig10", "fig2"):
        small = sweeps.load(name, scale)
        assert 0 < len(_settings(small)) <= len(_settings(loaded[name])), "of seeds there may be more"
        assert not {cell.id for cell in small.cells} & {cell.id for cell in loaded[name].cells}


def test_a_grid_that_names_an_unknown_option_is_refused(tmp_path, monkeypatch):
    text = (sweeps.SWEEPS / "quickstart.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(text.replace("dst: rigl", "dst: snip"))
    (tmp_path / "_scales.yaml").write_text("{}")
    monkeypatch.setattr(sweeps, "SWEEPS", tmp_path)
    with pytest.raises(ConfigError, match=r"^artifact=sweeps/wrong.yaml: .*dst/snip"):
        sweeps.load("wrong")


# --- from made-up records to what is shown ---


def accuracy(cell) -> float:
    """Known for every cell; seeds lie 1 apart, so a mean over three is that of the middle one."""
    method = ["sgd", "sparseopt", "ham", "sparseopt_ham"].index(cell.factors["optimizer"])
    return 50 + 2 * method + float(cell.factors.get("epochs", 0)) / 100 + int(cell.factors.get("seed", 1)) - 1


@pytest.mark.parametrize("name", ["table1", "table6", "table9"])
def test_a_table_shows_known_numbers_beside_the_papers(name, loaded, tmp_path):
    """A hole for the first cell, a failure for the second; all else known."""
    sweep = loaded[name]
    hole, failed = sweep.cells[0], sweep.cells[1]
    for cell in sweep.cells[1:]:
        status = "failed" if cell is failed else "complete"
        leave_record(tmp_path / "runs", name, cell, status=status, accuracy=accuracy(cell))
    page = draw(sweep, Records([tmp_path / "runs"]), tmp_path)
    assert f"{len(sweep.cells) - 2} of {len(sweep.cells)} runs complete, 1 missing, 1 failed." in page
    table = pd.read_csv(tmp_path / f"{name}.csv", dtype={"sparsity": str, "epochs": str})
    expected = pd.DataFrame(
        [{**cell.factors, "acc": accuracy(cell)} for cell in sweep.cells if cell not in (hole, failed)]
    )
    keys = [key for key in ("dst", "sparsity", "optimizer", "epochs") if key in table and key in expected]
    means = expected.groupby(keys)["acc"].mean()
    published = pd.read_csv(sweeps.ROOT / "results" / "paper" / f"{name}.csv", dtype={"sparsity": str, "epochs": str})
    gains = table["optimizer"].isin(tables.GAINS)
    assert gains.any()
    assert set(table.loc[gains, "mean"].round(6)) == {2.0}, "SparseOpt's gain, whatever the seed"
    assert "+2.00" in page
    assert len(table[~gains]) == len(published)
    for _, row in table[~gains].iterrows():
        mean = means.get(tuple(row[key] for key in keys), np.nan)
        assert row["mean"] == pytest.approx(mean, nan_ok=True)
        theirs = published[(published[keys] == row[keys]).all(axis=1)]
        assert row["paper_mean"] == theirs["mean"].item()
        if not np.isnan(mean):
            assert f"{mean - theirs['mean'].item():+.2f}" in page
    latex = (tmp_path / f"{name}.tex").read_text()
    assert latex.count(r"\midrule") >= 1
    assert r"\textbf" in latex


def test_the_methods_figure_draws_paired_gains_with_intervals_and_their_table_has_flops(loaded, tmp_path, monkeypatch):
    """Gains of 1, 2 and 3 points over three seeds have the interval 2 - 2.48 to 2 + 2.48, though seeds differ by 10."""
    sweep = loaded["methods"]
    for cell in sweep.cells:
        if cell.factors["dst"] in ("rigl", "srigl") and cell.factors["sparsity"] == "0.97":
            flops, seed = {"training_ratio": 0.0536, "inference_ratio": 0.05}, int(cell.factors["seed"])
            reached = 50 + 10 * seed + (1 + seed) * (cell.factors["optimizer"] == "sparseopt")
            leave_record(tmp_path / "runs", "methods", cell, accuracy=reached, flops=flops)
    drawn = []
    kind = drawing.KINDS["methods"]
    kept = replace(kind, draw=lambda on: drawn.append(kind.draw(on)) or drawn[-1])
    monkeypatch.setitem(drawing.KINDS, "methods", kept)
    page = draw(sweep, Records([tmp_path / "runs"]), tmp_path)
    row = next(line for line in page.splitlines() if "SRigL, 97%" in line and "SparseOpt" in line)
    assert "| 5.36 ± 0.00" in row
    none, empty, means, gains = drawn[0].axes
    assert [text.get_text() for text in none.get_yticklabels()][2:4] == ["RigL, invariant coordinates", "SRigL"]
    assert not empty.containers
    points = {tuple(line.get_xydata()[0].round(2)) for line in means.lines if line.get_marker() != "."}
    assert points == {(60, -0.15), (62, 0.15), (60, 2.85), (62, 3.15)}
    bars = {tuple(one[0].get_xydata()[0].round(2)): one[2][0].get_segments()[0][:, 0] for one in gains.containers}
    assert set(bars) == {(2, 0), (2, 3)}
    np.testing.assert_allclose(bars[2, 3], (2 - 2.484, 2 + 2.484), atol=1e-3)
    assert [text.get_text() for text in gains.texts] == ["n=3", "n=3"]


def test_a_reduced_scale_is_labelled_and_never_beside_the_paper(tmp_path):
    sweep = sweeps.load("table2", "smoke")
    for cell in sweep.cells:
        leave_record(tmp_path / "runs", "table2", cell, accuracy=50.0)
    page = draw(sweep, Records([tmp_path / "runs"]), tmp_path)
    assert "REHEARSAL smoke" in page.splitlines()[0]
    assert "; paper " not in page
    assert not (tmp_path / "table2.md").exists()
    assert "REHEARSAL" in (tmp_path / "smoke" / "table2.tex").read_text()


PRINTED = {
    "table4": {
        "batch_size": "256",
        "lr": "0.1",
        "momentum": "0.9",
        "weight_decay": "0.0005",
        "optimizer.mirror.alpha": "80",
    },
    "table5": {"batch_size": "128", "lr": "0.1", "momentum": "0.9", "weight_decay": "0.0001"},
}
PRINTED_IN_BOTH = {
    "topology.distribution": "erk",
    "dst.drop_fraction": "0.3",
    "dst.every": "100",
}


@pytest.mark.parametrize("name", PRINTED)
def test_hyperparameters_rendered_from_the_configuration_are_the_papers(name, loaded, tmp_path):
    page = draw(loaded[name], Records([]), tmp_path)
    shown = {key: value for value, key in re.findall(r"\| (\S+) +\| `(\S+)` +\|", page)}
    for key, value in (PRINTED[name] | PRINTED_IN_BOTH).items():
        assert shown[key] == value, key


@pytest.mark.parametrize("name", ["table2", "table6", "table7", "fig21"])
def test_where_gradients_are_renormalized_sparseopt_is_d_alone(name):
    """Appendix F's formula has no s_avg; a baseline's run does not depend on it."""
    for cell in sweeps.load(name).cells:
        cfg = sweeps.configuration(name, cell.options)
        if "sparseopt" in cell.factors["optimizer"]:
            assert cfg.optimizer.precondition.average == ("layer" if name == "table2" else "none")
        else:
            assert run_id(cfg) == run_id(OmegaConf.merge(cfg, {"s_avg": "global"}))


GRID = [{"optimizer": o, "dst": d, "seed": "0"} for o in ("sgd", "sparseopt") for d in ("rigl", "set")]
RIGL, SET = ({"optimizer": "sgd", "dst": dst} for dst in ("rigl", "set"))
PAIR = {"says": "SET, minus RigL", "a": SET, "b": RIGL}
STUDY = {
    "title": "A study",
    "table": {"rows": ["dst"], "columns": "optimizer", "value": "test_acc"},
    "reference": RIGL,
    "values": ["test_acc"],
    "comparisons": [{"says": "SET, minus RigL", "a": SET, "b": RIGL, "at_least": 0.5}],
}


def test_settings_that_are_one_run_are_refused():
    """SGD's id does not know s_avg."""
    cells = [("one", {"optimizer": "sgd", "s_avg": "layer"}), ("two", {"optimizer": "sparseopt", "s_avg": "layer"})]
    schema.check_distinct("sweeps/mine.yaml", [*cells, cells[0]])
    with pytest.raises(ConfigError, match=r"^sweeps/mine\.yaml=s_avg: changes nothing of some runs"):
        schema.check_distinct("sweeps/mine.yaml", [*cells, ("one", {"optimizer": "sgd", "s_avg": "none"})])


def test_a_directory_of_ones_own_is_called_as_it_is_typed(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "OWN", [])
    monkeypatch.chdir(tmp_path)
    conf = tmp_path / "mylab" / "conf"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").touch()
    sweeps.take(Path("mylab/conf"))
    assert "mine" in sweeps.names()
    assert (sweeps.file_of("mine"), sweeps.file_of("table1")) == ("mylab/conf/mine.yaml", "sweeps/table1.yaml")
    assert " mine --config-dir mylab/conf " in sweeps.command("mine", "cpu")


def test_a_sweep_file_of_ones_own_has_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "OWN", [])
    (tmp_path / "table1.yaml").touch()
    with pytest.raises(
        ConfigError, match=r"^--config-dir=.*: must have no sweep file with the name of one of ours: table1.yaml"
    ):
        sweeps.take(tmp_path)
    assert sweeps.OWN == []
    sweeps.take(sweeps.SWEEPS)


@pytest.mark.parametrize(
    ("section", "content", "said"),
    [
        ("comparison", [], "artifact=comparison: no such key; did you mean comparisons?"),
        ("predictions", {}, "artifact=predictions: no such key"),
        ("comparisons", [{**PAIR, "at_lest": 0.5}], "comparisons=at_lest: no such key; did you mean at_least?"),
        ("comparisons", [{**PAIR, "b": {"dst": "rigl"}}], "but matches 2: name more factors"),
        ("comparisons", [{"says": "SET", "a": SET}], "must have `says`, a setting `a`, and one of `b`, `paper`"),
        ("comparisons", [{**PAIR, "within": 1, "at_most": 0}], "must have a margin `within` or bounds, not both"),
        ("comparisons", [{**PAIR, "spread": {"std": 0.7, "n": 1, "of": "x"}}], "must have `std`, a standard deviation"),
        ("comparisons", [{**PAIR, "spread": 0.7}], "must have `std`, a standard deviation"),
        ("values", ["median test_acc"], "values=median test_acc: must be a list of metrics"),
        ("table", {"value": "median test_acc"}, "must be a metric alone; other columns stand in `more`"),
        ("reference", {"dst": "rigl"}, "must name an optimizer"),
        ("table", {"rows": ["sparsty"]}, "table=sparsty: must be a factor of the grid: dst, optimizer, seed"),
        ("table", {"rows": ["dst"], "columns": "seed"}, "table=optimizer: varies, and a cell is a mean"),
    ],
)
def test_a_study_that_cannot_be_drawn_is_refused_before_it_is_trained(section, content, said):
    schema.check("sweeps/mine.yaml", STUDY, GRID)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        schema.check("sweeps/mine.yaml", {**STUDY, section: content}, GRID)
    assert str(caught.value).startswith("sweeps/mine.yaml: ")
