"""The results directory under attack: full disks, two collectors, damaged files, and texts that other programs obey."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading

import pandas as pd
import pytest

from sparse_train.report import files, results, sweeps
from sparse_train.report.__main__ import main
from sparse_train.report.draw import draw
from sparse_train.report.launch import watch
from sparse_train.report.results import Records, Results
from sparse_train.report.tracking import uploads
from sparse_train.report.views import tables
from support.records import leave_record

SWEEP = sweeps.load("table6")  # a table of twelve runs
PLOTTED = sweeps.load("fig23")  # with a figure and histories


def leave(runs, cells, sweep=SWEEP, **changes):
    for cell in cells:
        leave_record(runs, sweep.name, cell, **changes)
    return Records([runs])


def complete(results_dir, sweep=SWEEP):
    return Results(results_dir).complete(sweep)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


# --- nothing is lost ---


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Results drawn once, and other records than those they were drawn from: place, command, files to their bytes."""
    place = tmp_path / "results"
    words = ("draw", PLOTTED.name, "--runs-dir", tmp_path / "runs", "--results-dir", place)
    leave(tmp_path / "runs", PLOTTED.cells, PLOTTED, accuracy=50.0)
    assert command(monkeypatch, *words) == 0
    leave(tmp_path / "runs", PLOTTED.cells, PLOTTED, accuracy=60.0)
    return place, words, contents(place)


def contents(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_a_disk_without_room_leaves_every_file_whole(drawn, monkeypatch, capsys):
    """The kernel breaks a write off in the middle of a file, here by a limit on a file's size."""
    place, words, before = drawn
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = sorted({len(data) for data in before.values() if data})
    for size in (sizes[2], sizes[-1]):
        capsys.readouterr()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
        try:
            code = command(monkeypatch, *words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, capsys.readouterr().err.count("\n")) == (1, 1)
        after = contents(place)
        assert set(after) == set(before), "nothing is left behind"
        assert all(after[path] == before[path] for path in before if len(before[path]) >= size)
        assert complete(place, PLOTTED) == {cell.id for cell in PLOTTED.cells}


@pytest.mark.parametrize("failing", [1, 2, 4, 6], ids=["records", "history", "picture", "page"])
def test_a_file_that_finds_the_disk_full_is_whole_or_as_before(drawn, monkeypatch, capsys, failing):
    place, words, before = drawn
    flush, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    capsys.readouterr()
    monkeypatch.setattr(os, "fsync", full)
    assert command(monkeypatch, *words) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: results_dir=.*cannot be written \(.*No space left on device\).*\n", said), said
    assert set(contents(place)) == set(before)
    assert complete(place, PLOTTED) == {cell.id for cell in PLOTTED.cells}


def test_two_collectors_at_once_lose_nothing(tmp_path, monkeypatch):
    """The first has read what is there when the second comes with other runs."""
    half = len(SWEEP.cells) // 2
    first = leave(tmp_path / "first", SWEEP.cells[:half])
    second = leave(tmp_path / "second", SWEEP.cells[half:])
    read, done, write = threading.Event(), threading.Event(), pd.DataFrame.to_csv

    def slow(table, *args, **options):
        if threading.current_thread() is thread and not read.is_set():
            read.set()
            done.wait(1.5)
        return write(table, *args, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", slow)
    thread = threading.Thread(target=draw, args=(SWEEP, first, tmp_path / "results"))
    thread.start()
    assert read.wait(30)
    draw(SWEEP, second, tmp_path / "results")
    done.set()
    thread.join()
    assert complete(tmp_path / "results") == {cell.id for cell in SWEEP.cells}


def test_committed_runs_stay_unless_they_are_replaced(tmp_path, monkeypatch, capsys):
    """Dense and static references are asked for by REFERENCES=1 alone; other runs by an earlier form of the sweep."""
    place, words = tmp_path / "results", ("draw", PLOTTED.name, "--results-dir", tmp_path / "results", "--runs-dir")
    more = sweeps.load(PLOTTED.name, references=True)
    draw(more, leave(tmp_path / "runs", more.cells, more), place)
    table, history = (place / "records" / f"{name}.csv" for name in ("runs", "train.rows"))
    before, lines = pd.read_csv(table), pd.read_csv(history)
    before.loc[len(before)] = before.iloc[0].to_dict() | {"id": "0" * 12, "test_acc": 12.345678901234567}
    before.to_csv(table, index=False)
    assert len(before) == len(more.cells) + 1 > len(PLOTTED.cells) + 1
    shutil.rmtree(tmp_path / "runs" / PLOTTED.cells[0].id)

    assert command(monkeypatch, *words, tmp_path / "runs") == 0
    assert f"{len(PLOTTED.cells)} of {len(PLOTTED.cells)} runs complete." in capsys.readouterr().out
    assert set(pd.read_csv(table)["id"]) == set(before["id"])
    assert Results(place).committed["0" * 12]["test_acc"] == 12.345678901234567
    assert len(pd.read_csv(history)) == len(lines)

    assert command(monkeypatch, *words, tmp_path / "runs", "--replace") == 0
    assert set(pd.read_csv(table)["id"]) == set(before["id"]) - {PLOTTED.cells[0].id}, "others' runs are not touched"
    assert set(pd.read_csv(history)["id"]) == set(lines["id"]) - {PLOTTED.cells[0].id}


# --- damaged files ---


def damage(run_dir, kind):
    record, history = run_dir / "record.json", run_dir / "history.jsonl"
    if kind in WRONG:
        record.write_text(json.dumps(json.loads(record.read_text()) | WRONG[kind]))
    elif kind.startswith("pipe"):
        path = history if "history" in kind else record
        path.unlink()
        os.mkfifo(path)
    elif kind == "nested":
        record.write_text("[" * 100_000)
    elif kind == "bytes":
        record.write_bytes(b"\xff\xfe")
    elif kind == "history cut":
        history.write_text(history.read_text()[:-20])


WRONG = {
    "id": {"id": ["a"]},
    "status": {"status": {}},
    "word": {"final": {"test_acc": "high", "images_per_second": 1.0}},
    "best": {"best": {}},
    "hardware": {"hardware": "cpu"},
    "interpolation": {"config": {"scale": "paper", "task": "${nothing}"}},
}
HISTORIES = ("pipe for history", "history cut")


@pytest.mark.parametrize("kind", [*WRONG, "pipe", "nested", "bytes", *HISTORIES])
def test_a_damaged_run_is_named_and_the_others_are_collected(tmp_path, capsys, kind):
    leave(tmp_path, PLOTTED.cells, PLOTTED)
    damage(tmp_path / PLOTTED.cells[3].id, kind)
    records = Records([tmp_path])
    for problem in records.problems:
        results.passed_over(*problem.split(": ", 1))
    held = Results(tmp_path / "results", records=records)
    held.keep(PLOTTED, ("epoch", "test_acc"))
    runs, rows = held.runs(PLOTTED), held.rows(PLOTTED)
    file = "history.jsonl" if kind in HISTORIES else "record.json"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"passed over: {tmp_path / PLOTTED.cells[3].id / file}: ")
    expected = ["complete"] * len(PLOTTED.cells)
    expected[3] = "damaged" if kind in HISTORIES else "unreadable"
    assert runs["status"].tolist() == expected
    assert set(rows["id"]) == {cell.id for cell in PLOTTED.cells} - {PLOTTED.cells[3].id}
    assert watch.progress(PLOTTED, records)["status"].tolist() == expected


def test_a_pipe_in_the_place_of_a_lock_is_no_holder(tmp_path):
    leave(tmp_path, SWEEP.cells[:1], status="running")
    os.mkfifo(tmp_path / SWEEP.cells[0].id / "lock")
    assert Records([tmp_path]).status(SWEEP.cells[0]) == "interrupted"


@pytest.mark.parametrize("text", ["", 'id,test_acc\n"x', "a,b\n1,2\n"])
def test_a_damaged_table_is_named_and_left_as_it_is(tmp_path, monkeypatch, capsys, text):
    place = tmp_path / "results"
    leave(tmp_path / "runs", SWEEP.cells)
    table = place / "records" / "runs.csv"
    table.parent.mkdir(parents=True)
    table.write_text(text)
    words = ("draw", SWEEP.name, "--runs-dir", tmp_path / "runs", "--results-dir", place)
    assert command(monkeypatch, *words) == 1
    assert re.fullmatch(
        r"error: records=.*runs\.csv: .*: move it away, or restore it with git\n", capsys.readouterr().err
    )
    assert table.read_text() == text


def test_an_upload_passes_over_a_record_that_cannot_be_read(tmp_path, capsys):
    for name, text in (("a", "{"), ("b", "[]")):
        begun = tmp_path / name / "wandb" / "offline-run-1"
        begun.mkdir(parents=True)
        (begun / "run.wandb").write_bytes(b"")
        (tmp_path / name / "record.json").write_text(text)
    assert uploads.sync(tmp_path) == (f"{tmp_path}: nothing to upload", True)
    assert capsys.readouterr().err.count("passed over: ") == 2


# --- words that other programs obey ---

HOSTILE = "\\input{x} 5$ #1 a^b c~d e&f 100% g_h {i}"
LATEX = r"\textbackslash{}input\{x\} 5\$ \#1 a\textasciicircum{}b c\textasciitilde{}d e\&f 100\% g\_h \{i\}"


def test_latex_prints_every_character_as_it_stands():
    runs = pd.DataFrame([{"x_1": HOSTILE, "epochs": HOSTILE, "test_acc": 1.0}])
    sweep = sweeps.Sweep("x", "paper", {"table": {"rows": ["x_1"], "columns": "epochs", "value": "test_acc"}}, [])
    text = tables.latex(tables.Table(sweep, runs), f"{HOSTILE}\n\nnext")
    assert text.count(LATEX) == 3, "row, column and caption"
    assert r"x\_1 & " in text
    assert "\n\n" not in text


def test_a_table_of_latex_compiles_and_fits_a_line(tmp_path):
    texts = [path.read_text() for path in sorted(sweeps.RESULTS.rglob("*.tex"))]
    assert texts
    assert not any(r"\caption{Table" in text for text in texts), "LaTeX numbers them"
    if (program := shutil.which("pdflatex")) is None:
        pytest.skip("no pdflatex is installed")
    body = "\\clearpage\n".join(texts)
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}"
    (tmp_path / "all.tex").write_text(rf"{head}\begin{{document}}{body}\end{{document}}")
    made = subprocess.run(
        [program, "-interaction=nonstopmode", "all.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Overfull" not in made.stdout


def test_a_cell_of_markdown_ends_where_it_should():
    head, _, row = tables.aligned([["a", "b"], ["x | y", "line\nbreak"]]).splitlines()
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", head)) == 3
    assert row == r"| x \| y | line break |"


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "-2+3"])
def test_no_text_of_a_table_is_a_formula(tmp_path, text):
    """A spreadsheet sees an apostrophe; we read what was written, also the second time."""
    table, cells = tmp_path / "records" / "runs.csv", SWEEP.cells
    leave(tmp_path / "runs", cells[:2], git=text, hardware={"device": text}, accuracy=-0.5)
    for records in (Records([tmp_path / "runs"]), Records([])):
        draw(SWEEP, records, tmp_path)
        raw = pd.read_csv(table, keep_default_na=False)
        assert raw.loc[:1, ["git", "device"]].to_numpy().tolist() == [[f"'{text}"] * 2] * 2
        read = Results(tmp_path).runs(SWEEP)
        assert read.loc[:1, ["git", "device"]].to_numpy().tolist() == [[text] * 2] * 2
        assert read["test_acc"].dropna().tolist() == [-0.5, -0.5], "a number stays one"
    assert files.guarded(pd.DataFrame({"text": ["\r=1"]}))["text"].tolist() == [" =1"], "no reader splits it into lines"
    assert [one[0] for one in files.guarded(pd.DataFrame({"text": ["+1+cmd", "@SUM(1)", "\t=1"]}))["text"]] == ["'"] * 3
    rows = pd.DataFrame({"text": ["-1e-5", "+3", "-inf", "plain"], "number": [-1.0, 2.0, 3.0, 4.0]})
    pd.testing.assert_frame_equal(files.guarded(rows), rows)


# --- names that are none ---

BY_NAME = ("reproduce", "draw", "status", "cancel", "rerun", "plan", "watch", "page", "wandb-backfill")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *(((command, "x;touch pwned"), "artifact=x;touch pwned: no such artifact") for command in BY_NAME),
        (("status", "tabel2"), "artifact=tabel2: no such artifact; did you mean table2? (all, "),
        (("claims", "--scale", "../escape"), "scale=../escape: must be one of paper"),
        (("reproduce", "table6", "--launch", "data_dir='a b"), "launch=data_dir='a b: has a quote that is not closed"),
    ],
)
def test_a_name_that_is_none_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    places = ("--results-dir", tmp_path / "in" / "results", "--runs-dir", tmp_path / "in" / "runs")
    assert command(monkeypatch, *words, *places) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {said}")
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
