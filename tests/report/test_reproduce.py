"""One artifact of each kind, from nothing to what is shown, at the smallest scale; broken off and taken up again."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from sparse_train.report import sweeps
from sparse_train.report.results import TIMES
from support.runs import ROOT, report, reported

TRAINED = ("table6", "fig21", "fig23")  # a table; accuracy over training lengths, and over epochs: the same runs
MEASURED = ("fig1", "fig2", "fig6", "dead-neuron", "sign-flips", "equivalence", "mask-updates")


def reproduce(place: Path, *artifacts: str) -> None:
    code, _, err = reported(place, "reproduce", *artifacts)
    assert code == 0, err


def tables(place: Path) -> dict[str, pd.DataFrame]:
    """Every CSV of the results, times aside."""
    found, results = {}, place / "results" / "smoke"
    for path in sorted(results.rglob("*.csv")):
        table = pd.read_csv(path)
        found[str(path.relative_to(results))] = table[[column for column in table if column not in TIMES]]
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    place = tmp_path_factory.mktemp("unbroken")
    reproduce(place, *TRAINED, *MEASURED, "table4")
    return place


def test_one_of_each_kind_is_drawn_from_nothing(unbroken):
    results = unbroken / "results" / "smoke"
    for name in (*TRAINED, *MEASURED):
        expected = len(sweeps.load(name, "smoke").cells)
        assert f"{expected} of {expected} runs complete." in (results / f"{name}.md").read_text(), name
        if name != "table6":
            assert (results / f"{name}.png").stat().st_size > 10_000
    gallery = (results / "README.md").read_text()
    assert "REHEARSAL smoke" in gallery.splitlines()[0]
    assert all(f'src="{name}.png"' in gallery for name in TRAINED[1:])
    assert all((results / f"{name}-dark.png").exists() for name in TRAINED[1:])
    assert "`make reproduce-table6 SCALE=smoke`" in (unbroken / "results" / "README.md").read_text()


def test_a_second_time_nothing_trains(unbroken):
    place = unbroken
    before = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("*")}
    tables_before = tables(place)
    reproduce(place, *TRAINED)
    assert {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("*")} == before
    for name, table in tables(place).items():
        pd.testing.assert_frame_equal(table, tables_before[name])


def test_a_committed_run_comes_out_the_same_again(unbroken, tmp_path):
    """And one whose committed accuracy was another is found out."""
    shutil.copytree(unbroken / "results", tmp_path / "results")
    code, out, err = reported(tmp_path, "rerun", "table6")
    assert re.fullmatch(r"table6 \w{12}: the same to the bit\n", out), err
    assert code == 0

    path = tmp_path / "results" / "smoke" / "records" / "runs.csv"
    rows = pd.read_csv(path)
    rows.loc[1, "test_acc"] += 0.01
    rows.to_csv(path, index=False)
    code, out, _ = reported(tmp_path, "rerun", "table6", "--run", rows.loc[1, "id"])
    assert re.search(r": test_acc [\d.]+ committed, [\d.]+ now\n", out)
    assert code == 1
    _, _, err = reported(tmp_path, "rerun", "table6", "--run", "nothing")
    assert "error: run=nothing: must be the id of a complete run" in err


def test_killed_and_started_again_it_gives_the_same_tables(unbroken, tmp_path):
    """By the commands themselves, in processes of their own."""
    again = {"args": report(tmp_path, "reproduce", "table6"), "cwd": ROOT, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(**again, stderr=subprocess.DEVNULL, process_group=0) as process:
        while process.poll() is None and len(list(tmp_path.glob("runs/smoke/*/checkpoint.pt"))) < 4:
            time.sleep(0.02)
        subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=True)
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/smoke/*/record.json")]
    assert 0 < statuses.count("complete") < 12
    done = subprocess.run(**again, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again, once = tables(tmp_path), tables(unbroken)
    assert set(again) == {"table6.csv", "records/runs.csv"}
    for name, table in again.items():
        others = once[name][once[name]["id"].isin(table["id"])].reset_index(drop=True) if "id" in table else once[name]
        pd.testing.assert_frame_equal(table, others[[*table]], check_dtype=False)
