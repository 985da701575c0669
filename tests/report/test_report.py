"""From made-up records with known means, holes and failures to the numbers that are shown."""

import dataclasses
import json
from math import nan

import pandas as pd
import pytest

from sparse_train.errors import ConfigError
from sparse_train.record.files import write_json, write_json_lines
from sparse_train.report import index, paper, sweeps
from sparse_train.report import page as report_page
from sparse_train.report.__main__ import main
from sparse_train.report.draw import draw
from sparse_train.report.evidence import claims, comparisons, registration, verdicts
from sparse_train.report.evidence.beside import beside
from sparse_train.report.evidence.comparisons import listings
from sparse_train.report.figures import KINDS, style
from sparse_train.report.figures.kinds import Material
from sparse_train.report.launch import overview
from sparse_train.report.launch.rerun import spread_over_seeds
from sparse_train.report.page import content
from sparse_train.report.results import Records, Results
from sparse_train.report.views import labels, lists, statistics
from sparse_train.report.views.columns import COLUMNS, HOLE, Column
from support.records import leave_record


@pytest.fixture(scope="module")
def quickstart():
    return sweeps.load("quickstart")


def test_what_a_run_says_by_group_is_collected_for_those_that_ask(quickstart, tmp_path):
    cell = quickstart.cells[0]
    leave_record(tmp_path, "quickstart", cell)
    path = tmp_path / cell.id / "record.json"
    record = json.loads(path.read_text())
    record["final"] |= {"step_ratio/affine": 0.5, "step_ratio/fc": None, "dead_neurons/fc": 3}
    record["best"] = record["final"]
    write_json(path, record)
    write_json_lines(path.with_name("history.jsonl"), [{}, {}, record["final"]])
    asking = dataclasses.replace(quickstart, artifact={**quickstart.artifact, "values": ["dead_neurons/fc"]})
    for sweep, expected in ((quickstart, set()), (asking, {"dead_neurons/fc"})):
        row = Results(tmp_path, records=Records([tmp_path])).runs(sweep).iloc[0]
        assert row["status"] == "complete"
        assert {key for key in row.index if "/" in key} == expected


# --- sweeps ---


def test_a_cell_has_the_id_it_has_alone(quickstart, compose_config):
    from sparse_train.config import run_id

    wanted = {"dst": "rigl", "optimizer": "sparseopt", "sparsity": "0.97", "seed": "1"}
    [cell] = [cell for cell in quickstart.cells if cell.factors == wanted]
    assert cell.id == run_id(compose_config("model.width=0.5", "optimizer=sparseopt", "sparsity=0.97", "seed=1"))


# --- records ---


def test_records_that_cannot_be_used_are_named_and_counted(quickstart, tmp_path):
    for cell, spoil in zip(quickstart.cells, ("{", "[]", '{"id": "x"}', None), strict=False):
        leave_record(tmp_path, "quickstart", cell, **({"format": 0} if spoil is None else {}))
        if spoil is not None:
            (tmp_path / cell.id / "record.json").write_text(spoil)
    records = Records([tmp_path])
    assert records.found == {}
    assert len(records.problems) == 4
    for cell, reason in zip(
        quickstart.cells, ("cannot be read", "is not a record", "is not a", "format 0"), strict=False
    ):
        assert any(cell.id in problem and reason in problem for problem in records.problems)
    assert (
        Results(tmp_path, records=records).runs(quickstart)["status"].tolist() == ["unreadable"] * 4 + ["missing"] * 20
    )


def test_one_id_with_two_configurations_is_refused(quickstart, tmp_path):
    first, second = quickstart.cells[:2]
    leave_record(tmp_path, "quickstart", first)
    path = tmp_path / first.id / "record.json"
    content = json.loads(path.read_text())
    content["config"]["epochs"] += 1
    path.write_text(json.dumps(content))
    leave_record(tmp_path, "quickstart", second)
    with pytest.raises(ConfigError, match=rf"record=.*{first.id}: its configuration is that of run"):
        Results(tmp_path, records=Records([tmp_path])).runs(quickstart)


def test_of_several_places_the_complete_record_counts(quickstart, tmp_path):
    cell = quickstart.cells[0]
    leave_record(tmp_path / "a", "quickstart", cell, status="failed")
    leave_record(tmp_path / "b", "quickstart", cell)
    for order in (["a", "b"], ["b", "a"]):
        assert Records([tmp_path / place for place in order]).status(cell) == "complete"


def test_a_search_says_what_it_selects_on(tmp_path):
    tune = sweeps.load("tune-cifar100")
    asked = {"optimizer": "sgd", "drop_fraction": "0.3", "update_every": "100"}
    cells = [cell for cell in tune.cells if asked.items() <= cell.factors.items()]
    for accuracy, cell in zip((71.0, 72.0, 73.0), cells, strict=True):  # on the test set; the other way round held out
        leave_record(tmp_path / "runs", "tune-cifar100", cell, accuracy=accuracy)
        path = tmp_path / "runs" / cell.id / "record.json"
        content = json.loads(path.read_text())
        content["final"]["val_acc"] = 131 - accuracy
        content["best"] = content["final"]
        write_json(path, content)
        write_json_lines(path.with_name("history.jsonl"), [{}, {}, content["final"]])
    page = draw(tune, Records([tmp_path / "runs"]), tmp_path / "results")
    assert page.splitlines()[0].endswith("selected on held-out training images")
    assert lists.caption("test_acc").endswith("selected on the TEST SET, whose accuracies then flatter it")
    [baseline] = [line for line in page.splitlines() if line.startswith("| Baseline")]
    cells = " | ".join(cell.strip() for cell in baseline.strip("| ").split("|"))
    assert cells == "Baseline | 0.05 | 0.3 | 100 | 60.00 | 71.00 | 3 of 27"


def test_a_search_chooses_among_settings_with_all_their_seeds():
    """Also over a single factor."""
    found = {"0.1": (50.0, 52.0, 51.0), "0.2": (51.5, nan, nan), "0.05": (49.0, 50.0, 51.0)}
    rows = [{"optimizer": "sgd", "lr": lr, "test_acc": acc} for lr, accs in found.items() for acc in accs]
    _, line = lists.best(pd.DataFrame(rows), "optimizer", ["lr"], "test_acc")
    assert line == ["Baseline", "0.1", "51.00", "2 of 3"]


# --- drawing ---


def test_drawing_shows_means_spreads_and_holes(quickstart, tmp_path):
    accuracies = {
        ("sgd", "0.9"): (50.0, 60.0, 70.0),
        ("sparseopt", "0.9"): (80.0, 81.0, None),
        ("sparseopt", "0.97"): (90.0, None, None),
    }
    for cell in quickstart.cells:
        setting = (cell.factors["optimizer"], cell.factors["sparsity"])
        given = accuracies.get(setting, (None,) * 3)[int(cell.factors["seed"])]
        if given is not None:
            leave_record(tmp_path / "runs", "quickstart", cell, accuracy=given)
        elif setting in (("sparseopt", "0.97"), ("sparseopt", "0.99")):
            leave_record(tmp_path / "runs", "quickstart", cell, status="failed")
    page = draw(quickstart, Records([tmp_path / "runs"]), tmp_path / "results")
    assert "60.00 ± 10.00 (n=3)" in page
    assert "**80.50 ± 0.71** (n=2 of 3)" in page
    assert "**90.00** (n=1 of 3)" in page
    table, _, compared = page.partition("| Comparison ")
    assert table.count(f"| {HOLE}") == 2, "of a cell, and of its difference; rows and columns without a run fold"
    assert compared.count(f"| {HOLE}") == 5, "no comparison has its runs"
    assert "5 of 8 cells are not run yet." in page
    assert "6 of 24 runs complete, 13 missing, 5 failed." in page
    csv = pd.read_csv(tmp_path / "results" / "records" / "runs.csv")
    assert sorted(csv["test_acc"]) == [50.0, 60.0, 70.0, 80.0, 81.0, 90.0], "a run without a result has no row"
    rows = pd.read_csv(tmp_path / "results" / "records" / "train.rows.csv")
    assert len(rows) == 18
    for ending in ("png", "pdf", "md", "tex", "csv"):
        assert (tmp_path / "results" / f"quickstart.{ending}").stat().st_size > 100


@pytest.mark.parametrize(
    ("section", "content", "near"),
    [
        ("summary", {"values": ["tset_acc"]}, "test_acc"),
        ("table", {"more": ["mediam test_acc"]}, "median test_acc"),
    ],
)
def test_a_metric_that_no_run_has_is_refused(quickstart, tmp_path, section, content, near):
    wrong = dataclasses.replace(quickstart, artifact={**quickstart.artifact, section: content})
    leave_record(tmp_path / "runs", "quickstart", quickstart.cells[0], accuracy=50.0)
    message = f"^sweeps/quickstart.yaml: {section}=.*: no run has this metric; did you mean {near}"
    with pytest.raises(ConfigError, match=message):
        draw(wrong, Records([tmp_path / "runs"]), tmp_path / "results")


def test_a_run_counts_in_every_table_that_asks_for_it(tmp_path):
    """why-clip asks for runs of why-renorm. The same id is the same run, by the factors that each sweep names."""
    renorm, clip = (sweeps.load(name, "cpu") for name in ("why-renorm", "why-clip"))
    shared = {cell.id for cell in clip.cells} & {cell.id for cell in renorm.cells}
    assert len(shared) == 10
    for cell in renorm.cells:
        leave_record(tmp_path / "runs", "why-renorm", cell, accuracy=17.0)
    draw(renorm, Records([tmp_path / "runs"]), tmp_path / "results")
    draw(clip, Records([]), tmp_path / "results")
    rows = Results(tmp_path / "results", "cpu").runs(clip)
    complete = rows[rows["status"] == "complete"]
    assert set(complete["id"]) == shared
    assert set(complete["test_acc"]) == {17.0}
    told = {cell.id: cell.factors for cell in clip.cells}
    for row in complete.to_dict("records"):
        assert {f: str(row[f]) for f in told[row["id"]]} == {f: str(v) for f, v in told[row["id"]].items()}
    assert "optimizer.renorm.over" not in complete
    assert len(pd.read_csv(tmp_path / "results" / "cpu" / "records" / "runs.csv")) == len(renorm.cells), "one row a run"
    status = overview.status(clip, Records([]), tmp_path / "none", tmp_path / "results")
    assert "10/45 complete (10 only in committed records)" in status


def test_committed_rows_count_where_the_runs_are_not(quickstart, tmp_path):
    """After a clone: drawn from the committed CSV; a run made here replaces its committed row."""
    for cell in quickstart.cells:
        leave_record(tmp_path / "theirs", "quickstart", cell, accuracy=50.0)
    first = draw(quickstart, Records([tmp_path / "theirs"]), tmp_path / "results")
    kept = [tmp_path / "results" / name for name in ("quickstart.png", "records/runs.csv")]
    before = [path.read_bytes() for path in kept]
    assert draw(quickstart, Records([tmp_path / "nothing"]), tmp_path / "results") == first
    assert [path.read_bytes() for path in kept] == before
    leave_record(tmp_path / "mine", "quickstart", quickstart.cells[0], accuracy=80.0)
    again = draw(quickstart, Records([tmp_path / "mine"]), tmp_path / "results")
    assert "24 of 24 runs complete" in again
    assert "**60.00 ± 17.32** (n=3)" in again


def test_committed_rows_have_the_factors_that_the_sweep_now_has(quickstart, tmp_path):
    """A sweep file may gain a factor whose default the committed runs had: the same ids."""
    for cell in quickstart.cells:
        leave_record(tmp_path / "theirs", "quickstart", cell, accuracy=50.0)
    draw(quickstart, Records([tmp_path / "theirs"]), tmp_path / "results")
    grids = [[dataclasses.replace(c, factors={**c.factors, "momentum": "0.9"}) for c in g] for g in quickstart.grids]
    runs = Results(tmp_path / "results").runs(dataclasses.replace(quickstart, grids=grids))
    assert set(runs["momentum"]) == {"0.9"}


def test_a_directory_that_cannot_be_written_is_named(quickstart, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"results_dir=.*cannot be written"):
        draw(quickstart, Records([]), tmp_path / "file")


def test_effects_are_paired_over_seeds(tmp_path):
    """Seeds differ by ten points, the settings by exactly one and two: the interval is that of the difference."""
    sweep = sweeps.load("why-static")
    gains = {("sgd", "0.0005"): 0, ("sparseopt", "0.0005"): 1, ("sgd", "0"): -3, ("sparseopt", "0"): -1}
    for cell in sweep.cells:
        gain = gains[cell.factors["optimizer"], cell.factors["weight_decay"]]
        if "optimizer.precondition.scale_decay" not in cell.factors:
            leave_record(tmp_path / "runs", "why-static", cell, accuracy=50.0 + 10 * int(cell.factors["seed"]) + gain)
    page = draw(sweep, Records([tmp_path / "runs"]), tmp_path)
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    shown = {(row[0], row[1]): row[2:] for row in rows[2:]}
    assert shown["Baseline", "weight decay 0.0005"][3] == "70.00 ± 15.81"
    assert shown["Baseline", "weight decay 0.0005"][0] == "reference"
    assert shown["SparseOpt", "weight decay 0.0005"][:3] == ["+1.00 [+1.00, +1.00]", "+1.00 [+1.00, +1.00]", "5 of 5"]
    assert shown["SparseOpt", "weight decay 0"][:3] == ["-1.00 [-1.00, -1.00]", "+2.00 [+2.00, +2.00]", "5 of 5"]
    scaled = "weight decay 0.0005, decay scaled too"
    assert shown["SparseOpt", scaled][3] == HOLE


def test_an_effect_says_how_many_pairs_are_behind_it(tmp_path):
    """SparseOpt has three runs, SGD two: what is compared is two pairs."""
    sweep = sweeps.load("why-static")
    for cell in sweep.cells:
        seeds = {"sgd": 2, "sparseopt": 3}[cell.factors["optimizer"]]
        if cell.factors["weight_decay"] == "0.0005" and len(cell.factors) == 8 and int(cell.factors["seed"]) < seeds:
            leave_record(tmp_path / "runs", "why-static", cell, accuracy=50.0 + (seeds == 3))
    _, _, _, ours, *_ = next(listings(sweep, Results(tmp_path, records=Records([tmp_path / "runs"])).runs(sweep)))
    assert ours[2:5] == ["+1.00 [+1.00, +1.00] (2 pairs)", "+1.00 [+1.00, +1.00] (2 pairs)", "3 of 5"]


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.5, 0.6, 0.5, 0.6, 0.5], "confirmed"),  # not 0, but smaller than what counts
        ([-2.0, -2.1, -2.0, -2.2, -2.1], "refuted"),
        ([2.0, -2.0, 1.0, -1.0, 0.0], "inconclusive"),
        ([2.0], "one seed, not judged"),
        ([], "not run"),
    ],
)
def test_a_prediction_is_judged_by_the_interval_of_the_paired_difference(tmp_path, differences, verdict):
    """SGD that imitates SparseOpt against SparseOpt; the seeds themselves differ by ten points."""
    sweep = sweeps.load("why-topology")
    for cell in sweep.cells:
        seed, imitates = int(cell.factors["seed"]), "dst.method.rescale" in cell.factors and "init" in cell.factors
        plain = cell.factors["optimizer"] == "sparseopt" and "dst.method.rank_as" not in cell.factors
        if (imitates or plain) and seed < len(differences):
            gain = differences[seed] if imitates else 0.0
            leave_record(tmp_path / "runs", "why-topology", cell, accuracy=20.0 + 10 * seed + gain)
    listed = list(listings(sweep, Results(tmp_path, records=Records([tmp_path / "runs"])).runs(sweep)))[1]
    row = dict(zip(listed[0], listed[1], strict=True))
    difference, _, said = row["difference in test accuracy (%)"].rpartition(": ")
    assert said == verdict
    assert row["n"] == f"{len(differences)} of 5"
    assert row["made"] == ("" if not differences else registration.UNKNOWN), "the records name no revision of ours"
    if differences:
        assert difference.startswith(f"{sum(differences) / len(differences):+.2f}")
    same = ("not run", "one seed, not judged", "+0.00 [+0.00, +0.00]: confirmed")[min(len(differences), 2)]
    assert row["difference in ITOP rate $R_m$ (%)"].endswith(same)
    assert {text for line in listed[2:] for text in line[1:-2]} == {"not run"}


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ([52.63, 52.53, 52.43], "+0.00 [-0.25, +0.25]: confirmed"),
        ([45.74], "-6.79: one seed, not judged"),
    ],
)
def test_a_prediction_can_name_a_cell_of_the_paper(tmp_path, accuracies, said):
    sweep = sweeps.load("protocol")
    for cell in sweep.cells:
        seed = int(cell.factors["seed"])
        if cell.factors["optimizer"] == "sgd" and "renorm" not in cell.factors and seed < len(accuracies):
            leave_record(tmp_path / "runs", "protocol", cell, accuracy=accuracies[seed])
    listed = list(listings(sweep, Results(tmp_path, records=Records([tmp_path / "runs"])).runs(sweep)))[1]
    assert listed[1][:3] == ["SGD, minus the paper's 52.53", said, f"{len(accuracies)} of 3"]


def test_a_prediction_counts_the_seeds_that_its_own_settings_have(tmp_path):
    """The study has three seeds, and this pair one: it is complete with one."""
    sweep = sweeps.load("gain")
    for cell in sweep.cells:
        if cell.factors["dst"] == "rigl_blind":
            leave_record(tmp_path / "runs", "gain", cell, accuracy=50.0)
    *_, made = listings(sweep, Results(tmp_path, records=Records([tmp_path / "runs"])).runs(sweep))
    counts = {row[0]: row[-2] for row in made[1:]}
    assert counts["SparseOpt minus SGD, both with growth blind to dead neurons"] == "1 of 1"
    assert counts["SparseOpt minus SGD"] == "0 of 3"


def test_one_seed_can_borrow_the_spread_of_other_pairs(tmp_path):
    sweep = sweeps.load("protocol")
    sweep.artifact["comparisons"][0]["spread"] = {"std": 1.0, "n": 5, "of": "5 pairs at 16x16"}

    def said():
        return list(listings(sweep, Results(tmp_path, records=Records([tmp_path / "runs"])).runs(sweep)))[1][1][1]

    cells = [c for c in sweep.cells if c.factors["optimizer"] == "sgd" and "renorm" not in c.factors]
    leave_record(tmp_path / "runs", "protocol", cells[0], accuracy=45.74)
    assert said() == "-6.79 [-9.57, -4.01] (SD 1.00 of 5 pairs at 16x16): one seed, not judged"  # t of 4 degrees: 2.776
    leave_record(tmp_path / "runs", "protocol", cells[1], accuracy=45.84)
    assert said() == "-6.74 [-7.38, -6.10]: refuted", "two seeds have a spread of their own"


@pytest.mark.parametrize(
    ("bound", "differences", "verdict"),
    [
        ({"at_least": 0.5}, [0.9, 1.0, 1.1], "confirmed"),
        ({"at_least": 1.5}, [0.9, 1.0, 1.1], "refuted"),
        ({"at_least": 0.9}, [0.9, 1.0, 1.1], "inconclusive"),
        ({"at_most": -0.5}, [-0.9, -1.0, -1.1], "confirmed"),
        ({"at_most": -0.5}, [0.1, 0.2, 0.3], "refuted"),
        ({"at_most": -0.5}, [-0.6], "one seed, not judged"),
    ],
)
def test_a_prediction_with_a_bound_is_judged_by_the_side_of_its_interval(bound, differences, verdict):
    found = statistics.mean(pd.Series(differences, dtype=float))
    assert verdicts.of_prediction(found, within=9.0, **bound) == verdict


PAIR = {"says": "a, minus b", "a": {"optimizer": "a"}, "b": {"optimizer": "b"}, "within": 1.0}


@pytest.mark.parametrize(
    ("first", "second", "made"),
    [
        ("new", "new", "registered"),
        ("new", "old", "registered, its second setting known"),
        ("old", "new", "post hoc"),
        ("new", None, ""),
    ],
)
def test_a_prediction_may_be_made_when_its_second_setting_is_known(monkeypatch, first, second, made):
    files = {"new": [registration.form(PAIR, "test_acc")], "old": []}
    monkeypatch.setattr(registration, "predicted", lambda _sweep, revision: files[revision])
    runs = [
        {"optimizer": side, "status": "complete" if git else "missing", "git": git, "seed": "0"}
        for side, git in (("a", first), ("b", second))
    ]
    cells = [sweeps.Cell(side, {"optimizer": side, "seed": "0"}, {}, "", 0) for side in "ab"]
    sweep = sweeps.Sweep("study", "paper", {"values": ["test_acc"]}, [cells])
    assert comparisons.Study(sweep, pd.DataFrame(runs)).made(PAIR) == made


def test_every_prediction_against_the_paper_names_a_cell_that_it_has_and_its_number():
    for name in sweeps.names():
        for pair in sweeps.load(name).artifact.get("comparisons", ()):
            if factors := {key: str(value) for key, value in pair.get("paper", {}).items()}:
                mean, _ = paper.value(factors.pop("table"), **factors)
                assert pair["says"].endswith(f"minus the paper's {mean:.2f}")


def test_a_study_draws_a_line_per_setting_with_the_mean_over_its_seeds(tmp_path):
    sweep = sweeps.load("why-renorm")
    for cell in sweep.cells:
        gain = 3.0 if cell.factors.get("lr") else 0.0
        leave_record(tmp_path / "runs", "why-renorm", cell, accuracy=50.0 + gain + int(cell.factors["seed"]))
    records = Records([tmp_path / "runs"])
    results = Results(tmp_path, records=records)
    results.keep(sweep, KINDS["settings"].needs)
    rows = results.rows(sweep)
    with style.context():
        accuracy, norm, share, _ = KINDS["settings"].draw(Material(sweep, results.runs(sweep), rows)).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in accuracy.lines}
    assert len(lines) == len(norm.lines) == len(share.lines) == 8
    assert lines["Baseline, norm of dense gradients"] == [32.0, 42.0, 52.0]
    assert lines["SparseOpt, norm of dense gradients, D alone, learning rate 0.5"] == [35.0, 45.0, 55.0]
    assert {y for line in share.lines for y in line.get_ydata()} == {0.25}
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in accuracy.lines}
    assert len(looks) == 8, "no two settings look alike"
    hues = {(line.get_label().split(",")[0], line.get_color()) for line in accuracy.lines}
    assert hues == {("Baseline", style.ORANGE), ("SparseOpt", style.BLUE)}


def test_what_has_no_runs_is_drawn_empty(tmp_path):
    draw(sweeps.load("why-static", "cpu"), Records([]), tmp_path)
    assert (tmp_path / "cpu" / "why-static.png").stat().st_size > 5000


def test_the_last_learning_rate_never_passes_for_the_one_asked_for(tmp_path):
    """Some settings of this study sweep it, the others have their recipe's."""
    sweep = sweeps.load("why-readings")
    swept = next(cell for cell in sweep.cells if "lr" in cell.factors)
    for cell in (sweep.cells[0], swept):
        leave_record(tmp_path / "runs", "why-readings", cell)
    runs = Results(tmp_path, records=Records([tmp_path / "runs"])).runs(sweep).set_index("id")
    assert pd.isna(runs.loc[sweep.cells[0].id, "lr"])
    assert runs.loc[swept.id, "lr"] == swept.factors["lr"]
    [lines, *_] = listings(sweep, runs.reset_index())
    assert len(lines) == 1 + 28


def test_the_spread_over_seeds_is_that_of_one_setting():
    """Also where grids of a sweep have different keys."""
    static = sweeps.load("why-static", "cpu")
    settings = [{key: value for key, value in cell.factors.items() if key != "seed"} for cell in static.cells]
    assert len({len(setting) for setting in settings}) == 2
    distinct = [setting for place, setting in enumerate(settings) if setting not in settings[:place]]
    accuracies = [20.0 + distinct.index(setting) for setting in settings]
    rows = pd.DataFrame([{**cell.factors, "test_acc": acc} for cell, acc in zip(static.cells, accuracies, strict=True)])
    assert [spread_over_seeds(row, rows, static) for _, row in rows.iterrows()] == [0.0] * len(rows)


def test_the_index_keeps_what_is_written_above_it_and_labels_reduced_verdicts(tmp_path):
    sweep = sweeps.load("table2", "cpu")
    for cell in sweep.cells:
        if (cell.factors["dst"], cell.factors["sparsity"], cell.factors["epochs"]) == ("rigl", "0.97", "100"):
            gain = 3.0 if cell.factors["optimizer"] == "sparseopt" else 0.1 * int(cell.factors["seed"])
            leave_record(tmp_path / "runs", "table2", cell, accuracy=20.0 + gain)
    draw(sweep, Records([tmp_path / "runs"]), tmp_path / "results")
    path = tmp_path / "results" / "README.md"
    index.write(tmp_path / "results")
    assert path.read_text().count("| not judged ") == 4 * len(claims.stated()), "no link to a page that is not there"
    for scale in (sweeps.PAPER, "cpu"):
        claims.write(tmp_path / "results", scale)
    index.write(tmp_path / "results")
    first = path.read_text()
    [head, row] = [line for line in first.splitlines() if line.startswith(("| Claim", "| sparseopt-beats-baseline "))]
    *others, reduced = [text.strip() for text in head.split("|")[3:-1]]
    assert ("REDUCED SCALE cpu" in reduced, "REDUCED" in "".join(others)) == (True, False)
    assert "[no runs yet](claims.md" in row.split("|")[5]
    assert "[judged: 1 of 42 (holds in 1)](cpu/claims.md#sparseopt-beats-baseline)" in row.split("|")[6]
    path.write_text("# In our words\n\nNothing holds.\n\n" + first.removeprefix("# Results\n\n"))
    index.write(tmp_path / "results")
    assert path.read_text() == "# In our words\n\nNothing holds.\n\n" + first.removeprefix("# Results\n\n")


def test_a_scale_may_bring_more_seeds_to_a_sweep_that_has_several():
    assert {cell.factors["seed"] for cell in sweeps.load("table2", "cpu").cells} == set("01234")
    assert {cell.options["seed"] for cell in sweeps.load("table2", "cpu").cells} == set("01234")
    assert {cell.factors["seed"] for cell in sweeps.load("table2").cells} == set("012")
    assert {cell.factors["seed"] for cell in sweeps.load("table1", "cpu").cells} == {"0"}
    assert len(sweeps.load("why-renorm", "cpu").cells) == len(sweeps.load("why-renorm").cells)


def leave_quickstart(runs_dir, quickstart, shift=0.0):
    """Dense 90, 91, 92 over seeds; at 90% half a point less on average, at 99% 40 less; SparseOpt as SGD when dense."""
    cost = {"0": (0, 0, 0), "0.9": (1, -1, 1.5), "0.97": (5, 6, 7), "0.99": (39, 40, 41)}
    for cell in quickstart.cells:
        seed, sparsity = int(cell.factors["seed"]), cell.factors["sparsity"]
        gain = 1.0 if cell.factors["optimizer"] == "sparseopt" and sparsity != "0" else 0.0
        leave_record(runs_dir, "quickstart", cell, accuracy=90 + seed - cost[sparsity][seed] + gain + shift)


def rows_of(page, head):
    """The rows of the table on a page whose first column has this head."""
    lines = page[page.index(f"| {head} ") :].split("\n\n")[0].splitlines()[2:]
    return [*map(cells_of, lines)]


def cells_of(line):
    return [text.strip() for text in line.split("|")[1:-1]]


def test_comparisons_that_expect_nothing_have_their_interval_p_and_minimum_detectable_effect(quickstart, tmp_path):
    leave_quickstart(tmp_path / "runs", quickstart)
    page = draw(quickstart, Records([tmp_path / "runs"]), tmp_path / "results")
    assert rows_of(page, "Comparison") == [
        ["90% sparsity against dense", "-0.50 [-3.79, +2.79]", "0.5799", "4.32", "3"],
        ["97% sparsity against dense", "-6.00 [-8.48, -3.52]", "0.0091", "3.26", "3"],
        ["99% sparsity against dense", "-40.00 [-42.48, -37.52]", "0.0002", "3.26", "3"],
        ["SparseOpt against SGD at 97%", "+1.00 [+1.00, +1.00]", "<0.0001", "", "3"],
        ["SparseOpt against SGD when dense", "+0.00 [+0.00, +0.00]", "", "", "3"],
    ]
    empty = draw(quickstart, Records([]), tmp_path / "nothing")
    assert [row[1:] for row in rows_of(empty, "Comparison")] == [[HOLE, "", "", "0"]] * 5


def test_a_new_kind_of_column_is_one_entry_and_stands_in_every_format(quickstart, tmp_path, monkeypatch):
    kind = Column("range over seeds", {"range": lambda values: values.max() - values.min()}, "{:.1f} wide".format)
    monkeypatch.setitem(COLUMNS, "range", kind)
    leave_quickstart(tmp_path / "runs", quickstart)
    more = {
        "table": quickstart.artifact["table"] | {"more": ["range test_acc", "median itop_rate"]},
        "summary": {"over": ["optimizer", "sparsity"], "values": ["range test_acc", "test_acc"]},
        "reference": {"optimizer": "sgd", "sparsity": "0"},
        "values": ["test_acc", "range test_acc", "min test_acc"],
    }
    sweep = dataclasses.replace(quickstart, artifact=quickstart.artifact | more)
    monkeypatch.setattr(sweeps, "load", lambda *_, **__: sweep)
    monkeypatch.setattr(claims, "stated", list)
    page = draw(sweep, Records([tmp_path / "runs"]), tmp_path)
    assert "**91.00 ± 1.00** (n=3); range over seeds 2.0 wide; ITOP rate R_m (%), median 20.00 |" in page
    assert "over n runs, best mean in bold; then range over seeds; then ITOP rate R_m (%), median." in page
    _, summary, effects, _ = (
        [*map(cells_of, block.splitlines())] for block in page.split("\n\n") if block.startswith("| ")
    )
    assert summary[0][2:] == ["Test accuracy (%), range over seeds", "Test accuracy (%)", "n"]
    assert summary[2] == ["Baseline", "0%", "2.0 wide", "91", "3 of 3"]
    assert effects[0][-2:] == ["Test accuracy (%), range over seeds", "Test accuracy (%), lowest seed"]
    assert effects[2][-3:] == ["91.00 ± 1.00", "2.0 wide", "90.00"]
    csv = pd.read_csv(tmp_path / "quickstart.csv", dtype={"sparsity": str})
    assert csv.set_index(["optimizer", "sparsity"])["range test_acc"]["sgd", "0"] == 2.0
    assert r" & range over seeds & 2.0 wide & " in (tmp_path / "quickstart.tex").read_text()
    report_page.write(["quickstart"], tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert '<span class="paper">range over seeds 2.0 wide</span>' in html
    assert "below it range over seeds, ITOP rate" in html


def test_what_is_drawn_elsewhere_is_set_beside_what_is_committed(quickstart, tmp_path, monkeypatch, capsys):
    """And is not taken for it: neither the index nor the page of the committed results change."""
    committed, mine = tmp_path / "results", tmp_path / "results" / "mine"
    leave_quickstart(tmp_path / "theirs", quickstart)
    draw(quickstart, Records([tmp_path / "theirs"]), committed)
    index.write(committed)
    report_page.write(["quickstart"], committed)
    before = {path: path.read_bytes() for path in committed.rglob("*") if path.is_file()}
    leave_quickstart(tmp_path / "runs", quickstart, shift=2.0)
    monkeypatch.setattr(sweeps, "ROOT", tmp_path)
    monkeypatch.setattr(
        "sys.argv",
        ["report", "draw", "quickstart", "--runs-dir", str(tmp_path / "runs"), "--results-dir", str(mine)],
    )
    with pytest.raises(SystemExit):
        main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert rows[0] == ["Method", "Sparsity", "Here", "Committed", "Difference"]
    assert rows[2] == ["Baseline", "0%", "93.00 ± 1.00 (n=3)", "91.00 ± 1.00 (n=3)", "+2.00"]
    assert len(rows[:10]) == 2 + 8
    assert ["99% sparsity against dense", "-40.00 [-42.48, -37.52]"] in [row[:2] for row in rows]
    assert lines[-1] == f"picture: {mine / 'quickstart.png'}"
    index.write(committed)
    report_page.write(["quickstart"], committed)
    after = {path: path.read_bytes() for path in committed.rglob("*") if path.is_file() and mine not in path.parents}
    assert after == before
    assert beside(quickstart, committed, committed) == "", "in its own place there is nothing to compare with"
    assert beside(sweeps.load("table6"), mine, committed) == "", "nor where nothing is committed"


# --- words that follow from the configuration ---


def test_without_s_avg_it_is_called_d_alone():
    expected = {"sparseopt": "D alone", "sparseopt_ham": "D alone w/ HAM"}
    assert labels.methods_of(sweeps.load("table9")) == expected
    for name in ("fig11", "why-renorm"):  # with s_avg; whose settings name it
        assert labels.methods_of(sweeps.load(name)) == {}


def test_page_latex_and_legend_say_d_alone(tmp_path, monkeypatch):
    drawn, places = [], {name: tmp_path / name for name in ("table6", "fig21")}
    for name in places:
        for cell in sweeps.load(name).cells:
            leave_record(tmp_path / "runs", name, cell)
    monkeypatch.setattr("sparse_train.report.draw.write_figure", lambda path, figure: drawn.append(figure))
    pages = {name: draw(sweeps.load(name), Records([tmp_path / "runs"]), place) for name, place in places.items()}
    pages["tex"] = (places["table6"] / "table6.tex").read_text()
    shown = content.view("table6", "paper", places["table6"])["blocks"][0]["body"]
    charted = content.view("fig21", "paper", places["fig21"])["blocks"][0]
    texts = [*pages.values(), str(shown), str(charted), *(text.get_text() for text in drawn[0].legends[0].get_texts())]
    assert not [text for text in texts if "SparseOpt" in text]
    assert {"D alone", "paper, D alone"} <= set(texts)
    for text in texts[:5]:
        assert "D alone" in text
    assert labels.ABOUT_D_ALONE in pages["table6"]


def test_figures_of_students_say_where_one_seed_stands_beside_a_median():
    for name in ("fig7", "fig8", "fig9"):
        sweep = sweeps.load(name)
        results = Results(sweeps.RESULTS)
        figure = KINDS["students"].draw(Material(sweep, results.runs(sweep), results.rows(sweep)))
        for axes in figure.axes:
            assert ("median over seeds" in axes.get_ylabel()) == axes.get_ylabel().startswith("loss")
            assert ("one seed" in axes.get_ylabel()) != axes.get_ylabel().startswith("loss")
        assert "one seed" in labels.notes(sweep)[0]
        assert f"\n{labels.notes(sweep)[0]}\n" in (sweeps.ROOT / "results" / f"{name}.md").read_text()


def test_keys_values_and_metrics_have_words():
    names = [name for name in sweeps.names() if sweeps.artifact(name).get("summary")]
    summed = [sweeps.load(name) for name in names]
    over = [(key, cell) for one in summed for key in one.artifact["summary"]["over"] for cell in one.cells]
    keys = {(key, cell.factors.get(key, "")) for key, cell in over}
    studies = [name for name in sweeps.names() if name.startswith("why-")]
    shown = [part for name in studies for part in (sweeps.artifact(name), sweeps.artifact(name).get("figure", {}))]
    metrics = [key for part in shown for key in part.get("values", [])]
    assert len(summed) > 10
    assert [key for key in (*(key for key, _ in keys), *metrics) if labels.name(key) == key] == []
    assert [pair for pair in keys if "_" in labels.label(*pair)] == []
