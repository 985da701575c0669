"""Every accuracy figure, drawn and on the page, from records of which no two hold the same number."""

import shutil
from io import BytesIO
from string import ascii_lowercase

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sparse_train.report import draw as drawing
from sparse_train.report import sweeps
from sparse_train.report.evidence.statements import stated
from sparse_train.report.figures import KINDS, accuracy, front, style
from sparse_train.report.figures.accuracy import over_seeds
from sparse_train.report.figures.kinds import Material
from sparse_train.report.page.views import view
from sparse_train.report.results import Records, Results
from sparse_train.report.views import labels
from sparse_train.report.views.labels import label
from sparse_train.source import ROOT
from support.records import leave_record

FIGURES = [name for name in sweeps.names() if (sweeps.artifact(name).get("figure") or {}).get("kind") in accuracy.KINDS]
RESULTS = ROOT / "results"
PAPERS = "white"  # inside the markers
LOOK = style.Look("", style.BLUE, "", "-")
RISES = {"test_acc": 10.0, "train_acc": 1.0}  # from one of the three epochs to the next


def metrics(place: int) -> dict[str, float]:
    """Of the last epoch of a sweep's cell: numbers that no other cell has, and no other metric."""
    return {"test_acc": 30 + place / 10, "train_acc": 60 + place / 10, "itop_rate": 0.1 + place / 1000}


def expected(sweep) -> dict:
    """(panel, line) -> x -> the mean over seeds, from the cells alone; the first cell has no record."""
    kind, value, points = sweep.artifact["figure"]["kind"], sweep.artifact["figure"]["value"], {}
    for place, cell in [*enumerate(sweep.cells)][1:]:
        factors, y = cell.factors, metrics(place)[value]
        panels, line = [f"Sparsity {float(factors['sparsity']):.0%}"], factors["optimizer"]
        line = label("optimizer", line, labels.methods_of(sweep))
        if kind == "itop":
            growths = {"rigl": ["original", "corrected"], "rigl_corrected": ["corrected"]}[factors["dst"]]
            growths = growths[:1] if factors["optimizer"] == "sparseopt" and factors["dst"] == "rigl" else growths
            panels = [f"{factors['epochs']} epochs, growth by {growth} gradients" for growth in growths]
            known = {100 * float(factors["sparsity"]): 100 * y}
        elif kind == "final":
            known = {float(factors["epochs"]): y}
        else:
            line += f", {factors['epochs']} epochs" if "epochs" in factors else ""
            known = {epoch: y - RISES[value] * (3 - epoch) for epoch in (1, 2, 3)}
        for panel in panels:
            for x, y in known.items():
                points.setdefault((panel, line), {}).setdefault(round(x, 6), []).append(y)
    return {key: {x: pytest.approx(np.mean(ys)) for x, ys in line.items()} for key, line in points.items()}


def read(figure) -> dict:
    """The same as a reader has it: methods by the legend's colours, schedules by its dashes; the paper's are hollow."""
    entries = [entry for axes in figure.axes for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    named = {name: getattr(handle, "lines", [handle])[0] for handle, name in entries if not name.startswith("paper, ")}
    [legend] = figure.legends
    lines = zip(legend.get_texts(), legend.legend_handles, strict=True)
    named |= {text.get_text(): line for text, line in lines if text.get_text().endswith(" epochs")}
    dashes = {line.get_linestyle(): f", {name}" for name, line in named.items() if name.endswith(" epochs")}
    colours = {line.get_color(): name for name, line in named.items() if not name.endswith(" epochs")}
    found = {}
    for place, axes in enumerate(figure.axes):
        for line in axes.lines:
            if len(line.get_xdata()) and line.get_markerfacecolor() != PAPERS:
                title, letter = axes.get_title(), f"({ascii_lowercase[place]}) " if len(figure.axes) > 1 else ""
                assert title.startswith(letter)
                title = title.removeprefix(letter).replace("\n", " ")
                name = colours[line.get_color()] + (dashes[line.get_linestyle()] if dashes else "")
                assert (title, name) not in found, "each line once"
                (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
                assert all(left <= x <= right and low <= y <= high for x, y in line.get_xydata()), "within the axes"
                found[title, name] = {round(float(x), 6): y for x, y in zip(*line.get_data(), strict=True)}
    return found


def charted(name, results_dir) -> dict:
    """The same of the page's numbers."""
    [charts] = [block for block in view(name, "paper", results_dir)["blocks"] if block["kind"] == "charts"]
    lines = [(panel, series) for panel in charts["panels"] for series in panel["series"] if "paper" not in series]
    return {(panel["title"], s["name"]): dict(zip(s["x"], s["y"], strict=True)) for panel, s in lines}


@pytest.mark.parametrize("name", FIGURES)
def test_every_accuracy_figure_draws_each_line_from_its_own_records(name, tmp_path, monkeypatch):
    sweep = sweeps.load(name)
    for place, cell in [*enumerate(sweep.cells)][1:]:
        leave_record(tmp_path / "runs", name, cell, metrics=metrics(place))
    drawn = {}
    monkeypatch.setattr(drawing, "write_figure", lambda path, figure: drawn.update({path.suffix: figure}))
    drawing.draw(sweep, Records([tmp_path / "runs"]), tmp_path)
    assert set(drawn) == {".png", ".pdf"}
    wanted = expected(sweep)
    assert read(drawn[".pdf"]) == wanted
    assert charted(name, tmp_path) == wanted


def test_the_band_of_an_accuracy_stays_within_0_and_100():
    rows = pd.DataFrame({"epoch": [1, 1, 2, 2], "test_acc": [1.0, 9.0, 99.0, 91.0]})
    axes = Figure().subplots()
    style.band(axes, over_seeds(rows, "epoch", "test_acc"), "test_acc", LOOK)
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == (0, 100)
    style.band(axes, over_seeds(rows, "epoch", "test_acc"), "ratio", LOOK)
    edges = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((5 - 32**0.5, 95 + 32**0.5))


def test_a_readers_matplotlibrc_does_not_shape_a_figure():
    results, sweep = Results(RESULTS), sweeps.load("fig2")
    material = Material(results.runs(sweep), results.rows(sweep), {})

    def drawn() -> bytes:
        picture = BytesIO()
        with style.context():
            KINDS["bn_gradient"].draw(material).savefig(picture, format="png", metadata={"Software": None})
        return picture.getvalue()

    plain = drawn()
    theirs = {"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 50, "lines.marker": "x", "text.usetex": True}
    with matplotlib.rc_context(theirs):
        assert drawn() == plain


def test_an_angle_is_drawn_as_it_is():
    results, sweep = Results(RESULTS), sweeps.load("fig1")
    arrows = KINDS["gradient_skew"].draw(Material(results.runs(sweep), results.rows(sweep), {})).axes[2]
    assert arrows.get_aspect() == 1
    written = {text.get_text(): text.xy for text in arrows.texts}
    assert len(written) == 5
    for words, (x, y) in written.items():
        degrees = float(words.removesuffix("°")) if words.endswith("°") else 0.0
        assert np.degrees(np.arctan2(y, x)) == pytest.approx(degrees, abs=0.51)


def test_a_schedule_of_one_epoch_is_a_point():
    axes = Figure().subplots()
    for epochs in ([1, 1], [1, 2]):
        points = over_seeds(pd.DataFrame({"epoch": epochs, "test_acc": [1.0, 9.0]}), "epoch", "test_acc")
        style.band(axes, points, "test_acc", LOOK)
    assert [line.get_marker() for line in axes.lines] == ["o", ""]


def test_noise_does_not_fill_a_panel_of_itop_rates_and_an_empty_one_says_so():
    cells = [
        (dst, optimizer, epochs)
        for dst in ("rigl", "rigl_corrected")
        for optimizer in ("sgd", "sparseopt")
        for epochs in ("100", "200")
    ]
    runs = pd.DataFrame(cells, columns=["dst", "optimizer", "epochs"]).assign(sparsity="0.9")
    runs["itop_rate"] = [0.2 + place / 1e6 if epochs == "200" else None for place, (*_, epochs) in enumerate(cells)]
    figure = KINDS["itop"].draw(Material(runs, pd.DataFrame(), {"value": "itop_rate"}, at_paper_scale=False))
    style.finish(figure)
    low, high = figure.axes[0].get_ylim()
    assert high - low == pytest.approx(2)
    assert low < 20 < high
    holes = [
        axes.get_title()[4:14] for axes in figure.axes if any("no complete" in one.get_text() for one in axes.texts)
    ]
    assert holes == ["100 epochs"] * 2


def test_the_front_picture_shows_every_statement_that_has_numbers_of_both(tmp_path):
    shown = [one for one in stated(RESULTS) if one.effect and len(one.published) == 1]
    assert shown
    rows = Results(RESULTS).rows(sweeps.load("fig2"))
    measured, effects = front.drawn(rows, shown).axes
    papers = [line for line in effects.lines if line.get_markerfacecolor() == "none"]
    ours = [bar.lines[0] for bar in effects.containers]
    assert [line.get_xydata().tolist() for line in papers] == [[[*one.published, i]] for i, one in enumerate(shown)]
    assert [line.get_xydata().tolist() for line in ours] == [[[one.effect[0], i]] for i, one in enumerate(shown)]
    ends = [bar.lines[2][0].get_segments()[0][:, 0].tolist() for bar in effects.containers if bar.has_xerr]
    assert ends == [pytest.approx(one.effect[1:]) for one in shown if len(one.effect) == 3]
    for text, one in zip(effects.get_yticklabels(), shown, strict=True):
        assert ("reduced scale" in text.get_text().replace("\n", " ")) == (one.scale != "paper")
    drawn = {line.get_label(): dict(zip(*line.get_data(), strict=True)) for line in measured.lines}
    mean = (
        rows[(rows["task.norm"] == "batch") & (rows["task.init"] == "kaiming_normal")]
        .groupby("sparsity")["ratio"]
        .mean()
    )
    assert drawn["with BN, Kaiming normal"] == pytest.approx(mean.to_dict())
    front.write(tmp_path, shown)
    assert [*tmp_path.iterdir()] == [], "nothing is drawn of records that are not there"
    shutil.copytree(RESULTS / "records", tmp_path / "records")
    front.write(tmp_path, shown)
    light, dark = ((tmp_path / f"overview-{theme}.svg").read_text() for theme in ("light", "dark"))
    assert "#1f2328" in light
    assert "#e6edf3" in dark
