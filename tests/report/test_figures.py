"""Accuracy figures, drawn and on the page, from records of which no two hold the same number."""

import shutil
from io import BytesIO
from string import ascii_lowercase

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from matplotlib.figure import Figure

from sparse_train.report import draw as drawing
from sparse_train.report import sweeps
from sparse_train.report.evidence.comparisons import Study
from sparse_train.report.evidence.statements import scoreboard
from sparse_train.report.figures import KINDS, forest, front, style
from sparse_train.report.figures.accuracy import over_seeds
from sparse_train.report.figures.kinds import Material
from sparse_train.report.page.content import view
from sparse_train.report.results import Records, Results, scales_of
from sparse_train.report.views import labels
from sparse_train.report.views.labels import label
from sparse_train.source import ROOT
from support.records import leave_record

CHARTS = [name for name, kind in KINDS.items() if kind.panels]
FIGURES = ("fig3", "fig5", "fig13", "fig21", "quickstart")  # of each kind, with and without s_avg, lengths and seeds
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
def test_an_accuracy_figure_draws_each_line_from_its_own_records(name, tmp_path, monkeypatch):
    assert {sweeps.artifact(one)["figure"]["kind"] for one in FIGURES} == set(CHARTS)
    sweep = sweeps.load(name)
    for place, cell in [*enumerate(sweep.cells)][1:]:
        leave_record(tmp_path / "runs", name, cell, metrics=metrics(place))
    drawn, kept = {}, sweeps.remembered
    monkeypatch.setattr(sweeps, "remembered", lambda key, make: make() if key[0] == "picture" else kept(key, make))
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
    material = Material(sweep, results.runs(sweep), results.rows(sweep))

    def drawn() -> bytes:
        picture = BytesIO()
        with style.context():
            KINDS["bn_gradient"].draw(material).savefig(picture, format="png", metadata={"Software": None})
        return picture.getvalue()

    plain = drawn()
    theirs = {"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 50, "lines.marker": "x", "text.usetex": True}
    with matplotlib.rc_context(theirs):
        assert drawn() == plain


@pytest.mark.parametrize("name", ["fig8", "layer-norm", "neuron-steps", "equilibrium"])
def test_a_measurement_is_drawn_from_what_is_committed(name):
    results, sweep = Results(RESULTS), sweeps.load(name)
    kind = KINDS[sweep.artifact["figure"]["kind"]]
    drawn = kind.draw(Material(sweep, results.runs(sweep), results.rows(sweep))).axes
    assert all(axes.has_data() for axes in drawn)


def test_an_angle_is_drawn_as_it_is():
    results, sweep = Results(RESULTS), sweeps.load("fig1")
    arrows = KINDS["gradient_skew"].draw(Material(sweep, results.runs(sweep), results.rows(sweep))).axes[2]
    assert arrows.get_aspect() == 1
    written = {text.get_text(): text.xy for text in arrows.texts}
    assert len(written) == 5
    for words, (x, y) in written.items():
        degrees = float(words.removesuffix("°")) if words.endswith("°") else 0.0
        assert np.degrees(np.arctan2(y, x)) == pytest.approx(degrees, abs=0.51)


def test_noise_does_not_fill_a_panel_of_itop_rates_and_a_schedule_without_runs_has_none():
    cells = [
        (dst, optimizer, epochs)
        for dst in ("rigl", "rigl_corrected")
        for optimizer in ("sgd", "sparseopt")
        for epochs in ("100", "200")
    ]
    runs = pd.DataFrame(cells, columns=["dst", "optimizer", "epochs"]).assign(sparsity="0.9")
    runs["itop_rate"] = [0.2 + place / 1e6 if epochs == "200" else None for place, (*_, epochs) in enumerate(cells)]
    sweep = sweeps.Sweep("x", "cpu", {"figure": {"value": "itop_rate"}}, [])
    figure = KINDS["itop"].draw(Material(sweep, runs, pd.DataFrame()))
    style.finish(figure)
    low, high = figure.axes[0].get_ylim()
    assert high - low == pytest.approx(2)
    assert low < 20 < high
    assert [axes.get_title()[4:14] for axes in figure.axes] == ["200 epochs"] * 2


def test_the_front_picture_has_both_optimizers_of_the_test_and_their_difference_in_every_network():
    stated = scoreboard(RESULTS)
    shown = front.effects(stated)
    [claim] = [one for one in stated if one["claim"] == front.CLAIM and one["headline"]]
    assert sorted(one.found.mean for one in shown) == sorted(one["effect"][0] for one in claim["ours"])
    runs, rows = front.measured(Results(RESULTS))
    assert set(runs["sparsity"]) == {"0.97"}
    assert set(runs["renorm"]) == {"none"}
    with style.context():
        curves, effects = front.drawn(runs, rows, shown).axes
    assert {line.get_color() for line in curves.lines} == {style.BLUE, style.ORANGE}
    for optimizer, group in runs.groupby("optimizer"):
        colour = style.look(optimizer).colour
        ours, papers = [line.get_ydata() for line in curves.lines if line.get_color() == colour]
        kept = rows[rows["id"].isin(group["id"])].groupby("epoch")["test_acc"].mean()
        assert ours.tolist() == pytest.approx(kept.tolist())
        assert papers[0] == {"sgd": 52.53, "sparseopt": 53.95}[optimizer]
        assert {f"{group['test_acc'].mean():.2f}", f"{papers[0]:.2f}"} <= {text.get_text() for text in curves.texts}
    assert points_of(effects, "o") == [one.found.mean for one in shown]
    assert set(points_of(effects, "D")) == {1.42}
    assert max(abs(one.found.mean) for one in shown) < front.REACH, "nothing lies beyond the axis"
    heads = [text.get_text() for text in effects.get_yticklabels() if text.get_weight() == "bold"]
    assert [head.startswith("Reduced") for head in heads] == [False] + [True] * (len(heads) - 1)


def points_of(axes, marker):
    return [line.get_xdata()[0] for line in axes.lines if line.get_marker() == marker]


def test_the_front_picture_is_drawn_for_light_and_dark_pages_from_records_alone(tmp_path):
    shown = scoreboard(RESULTS)
    front.write(tmp_path, shown)
    assert [*tmp_path.iterdir()] == [], "nothing is drawn of records that are not there"
    shutil.copytree(RESULTS / "records", tmp_path / "records")
    front.write(tmp_path, shown)
    for theme in ("light", "dark"):
        assert style.THEMES[theme]["grid.color"] in (tmp_path / f"overview-{theme}.svg").read_text()


def test_a_study_is_drawn_as_a_forest_of_its_paired_differences():
    sweep, results = sweeps.load("why-clip", "cpu"), Results(RESULTS, "cpu")
    runs = results.runs(sweep)
    on, study = Material(sweep, runs, pd.DataFrame()), Study(sweep, runs)
    rows = forest.of_study(study)
    for one in sweep.artifact["comparisons"]:
        [row] = [row for row in rows if row.words == one["says"]]
        found = study.difference(one)
        assert (row.found.mean, row.found.n) == (pytest.approx(found.mean()), len(found))
    sizes = [round(abs(row.found.mean), 9) for row in rows]
    assert len(set(sizes)) == len(sizes), "no difference twice, nor with its sides changed"
    with style.context():
        axes = KINDS["effects"].draw(on).axes[0]
    reach = axes.get_xlim()[1]
    assert points_of(axes, "o") == [row.found.mean for row in rows]
    bars = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 1]
    assert [[*bar] for bar in bars] == [
        pytest.approx([max(row.found.low, -reach), min(row.found.high, reach)]) for row in rows
    ]
    assert [text.get_text().split(",")[0] for text in axes.texts] == [
        f"{row.found.mean:+.2f} [{row.found.low:+.2f}" for row in rows
    ]
    assert [patch.get_width() for patch in axes.patches] == pytest.approx([2.0, 2.0, 2.0, 2.0, reach - 0.5]), (
        "what was expected"
    )


def test_one_seed_has_no_interval_and_what_has_no_pair_has_no_row():
    sweep, results = sweeps.load("calibration"), Results(RESULTS)
    rows = forest.of_study(Study(sweep, results.runs(sweep)))
    assert {row.found.n for row in rows} == {1}
    axes = Figure().subplots()
    forest.draw(axes, rows, 40)
    assert not any(line.get_label().startswith("95%") for line in axes.lines)
    assert all("[" not in text.get_text() for text in axes.texts)


def test_a_page_shows_a_picture_for_light_and_for_dark(tmp_path):
    shutil.copytree(RESULTS / "records", tmp_path / "records")
    page = drawing.draw(sweeps.load("fig2"), Records([]), tmp_path)
    light, dark = (PIL.Image.open(tmp_path / f"fig2{ending}.png").getpixel((0, 0)) for ending in ("", "-dark"))
    assert (light[:3], dark[:3]) == ((255, 255, 255), (13, 17, 23))
    assert 'srcset="fig2-dark.png"' in page
    assert 'src="fig2.png"' in page


def test_a_study_keeps_the_metrics_that_it_names_and_draws_those_of_its_figure(tmp_path):
    """Also those that its kind does not need, where a run has them; shares in percent."""
    sweep = sweeps.load("why-dead-where", "size16")
    for cell in sweep.cells:
        shares = None if cell is sweep.cells[0] else {"neurons/growth_share": 0.25, "neurons/norm_ratio": 3.0}
        leave_record(tmp_path / "runs", sweep.name, cell, metrics=shares)
    kind = KINDS[sweep.artifact["figure"]["kind"]]
    Results(tmp_path, "size16", Records([tmp_path / "runs"])).keep(sweep, kind.needs)
    committed = Results(tmp_path, "size16")
    runs, rows = committed.runs(sweep), committed.rows(sweep)
    with style.context():
        shares, *_ = kind.draw(Material(sweep, runs, rows)).axes
    assert len(shares.lines) == len(sweep.cells) - 1
    assert {y for line in shares.lines for y in line.get_ydata()} == {25.0}
    assert set(rows["neurons/norm_ratio"].dropna()) == {3.0}, "of its table"


@pytest.mark.parametrize(
    "name", [name for name in sweeps.names() if sweeps.artifact(name).get("figure", {}).get("kind") in CHARTS]
)
def test_every_chart_is_drawn_of_what_is_committed(name):
    """Runs are shared: a figure meets epochs that another artifact kept, perhaps without this one's metric."""
    for scale in scales_of(name, RESULTS):
        assert view(name, scale, RESULTS)
