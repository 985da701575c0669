"""What `make watch` shows of runs whose records, histories and locks are written by hand."""

import json
import sys
from collections import Counter

import pytest

from sparse_train.record.lock import Lock
from sparse_train.report import sweeps
from sparse_train.report.__main__ import main
from sparse_train.report.launch import watch
from sparse_train.report.results import Records

SWEEP = sweeps.load("quickstart")  # 24 cells of 50 epochs


def leave(runs, cell, status="running", epochs=0, seconds=2.0, alive=True, **more):
    run_dir = runs / cell.id
    run_dir.mkdir(parents=True, exist_ok=True)
    about = {
        "started": "2026-01-01",
        "threads": 1,
        "hardware": {"device": "cpu"},
        "versions": {"torch": "2"},
        "git": None,
    }
    rows = [{"epoch": epoch + 1, "seconds": seconds} for epoch in range(epochs)]
    result = {"config": {"scale": "paper"}, "final": rows[-1] if rows else {}, "seconds": seconds * epochs}
    record = {"format": 1, "id": cell.id, "status": status, "name": f"run {cell.id}", **about, **result, **more}
    (run_dir / "record.json").write_text(json.dumps(record))
    (run_dir / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if alive:
        Lock(run_dir / "lock").acquire()


@pytest.fixture
def runs(tmp_path):
    """Three complete, two running, one interrupted, one failed, one diverged, sixteen to come."""
    for cell in SWEEP.cells[:3]:
        leave(tmp_path, cell, "complete", 50, 2.0, alive=False)
    leave(tmp_path, SWEEP.cells[3], epochs=10, seconds=4.0)
    leave(tmp_path, SWEEP.cells[4], epochs=0)
    leave(tmp_path, SWEEP.cells[5], epochs=5, seconds=3.0, alive=False)
    leave(tmp_path, SWEEP.cells[6], "failed", 1, 2.0, alive=False, reason="OSError: no space")
    leave(tmp_path, SWEEP.cells[7], "diverged", 2, 2.0, alive=False, reason="the loss is not finite at step 9")
    return tmp_path


def command(monkeypatch, runs, *arguments):
    monkeypatch.setattr("sys.argv", ["report", "watch", *arguments, "--runs-dir", str(runs), "--once"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def test_a_sweep_at_a_glance(runs, monkeypatch, capsys):
    command(monkeypatch, runs, "quickstart")
    head, *lines = capsys.readouterr().out.splitlines()
    assert "quickstart: 3/24 complete, 1 diverged, 1 failed, 1 interrupted, 16 missing, 2 running; " in head
    assert "; 4.0 s per epoch; about" in head
    assert head.endswith("left with 2 at a time")
    first, second = SWEEP.cells[3].id, SWEEP.cells[4].id
    assert lines == [
        f"  running  epoch  10/50        4.0 s per epoch  3m left  run {first}",
        f"  running  epoch   0/50   run {second}",
        f"  failed   run {SWEEP.cells[6].id}: OSError: no space",
        f"  diverged run {SWEEP.cells[7].id}: the loss is not finite at step 9",
    ]


def test_the_time_left_is_the_work_over_those_who_do_it(runs):
    cells = watch.progress(SWEEP, Records([runs]))
    mean = (3 * 2.0 + 4.0 + 3.0 + 2.0 + 2.0) / 7
    work = 40 * 4.0 + 50 * mean + 45 * 3.0 + 16 * 50 * mean
    assert watch.time_left(cells) == pytest.approx(work / 2)
    assert watch.time_left(cells[:4]) == pytest.approx(160), "one run: what it needs itself"
    assert watch.time_left(cells[8:]) is None, "nothing to tell by"
    assert watch.time_left(cells[:3]) == 0


def test_without_an_artifact_it_is_what_is_training(runs, monkeypatch, capsys):
    command(monkeypatch, runs)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if line[0] != " "] == ["quickstart:"]
    for cell in SWEEP.cells[3:5]:
        (runs / cell.id / "lock").unlink()  # killed
    command(monkeypatch, runs)
    assert capsys.readouterr().out == "nothing is training\n"


def test_it_refreshes_until_all_is_done(runs, monkeypatch, capsys):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            for cell in SWEEP.cells:
                leave(runs, cell, "complete", 50, alive=False)

    watch.watch([SWEEP], runs, [], 7, once=False, sleep=sleep)
    said = capsys.readouterr().out
    assert waits == [7, 7]
    assert said.count("quickstart: ") == 3
    assert "24/24 complete" in said.splitlines()[-1]
    assert watch.CLEAR not in said, "not a terminal: one block after another"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    watch.watch([SWEEP], runs, [], 7, once=False, sleep=sleep)
    assert capsys.readouterr().out.startswith(watch.CLEAR)


@pytest.mark.parametrize("everything", [False, True], ids=["named", "all"])
def test_between_two_runs_it_goes_on(everything, tmp_path, capsys):
    """For a while nothing is training; then the next run begins, and so to the end."""
    other, (first, *rest) = sweeps.load("fig6"), SWEEP.cells
    leave(tmp_path, first)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            (tmp_path / first.id / "lock").unlink()
            leave(tmp_path, first, "complete", 50, alive=False)
        if len(waits) == 8:
            for cell in rest[1:]:
                leave(tmp_path, cell, "complete", 50, alive=False)
            leave(tmp_path, rest[0], "failed", alive=False)

    watch.watch([SWEEP, other] if everything else [SWEEP], tmp_path, [], 7, once=False, sleep=sleep)
    said = capsys.readouterr().out
    assert waits == [7] * 8
    assert said.count("quickstart: ") == 9
    assert "quickstart: 23/24 complete, 1 failed" in said.splitlines()[-2]
    assert "fig6" not in said


def test_it_ends_when_nobody_works_on_what_is_left(tmp_path, capsys):
    waits = []
    watch.watch([SWEEP, sweeps.load("fig6")], tmp_path, [], 20, once=False, sleep=waits.append)
    assert waits == [20] * 3
    assert capsys.readouterr().out.splitlines()[-1] == "nothing has trained for 60 s: the watch ends"


def test_jobs_in_the_queue_are_waited_for(tmp_path, monkeypatch):
    queues = iter([Counter(PENDING=2)] * 20 + [Counter()] * 20)
    monkeypatch.setattr(watch.queue, "states", lambda place: next(queues))
    waits = []
    watch.watch([SWEEP], tmp_path, [], 30, once=False, sleep=waits.append)
    assert len(waits) > 10


@pytest.mark.parametrize("every", ["0", "inf", "often"])
def test_looks_are_some_seconds_apart(runs, monkeypatch, capsys, every):
    monkeypatch.setattr("sys.argv", ["report", "watch", "--runs-dir", str(runs), f"--every={every}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--every: must be a number of seconds above 0" in capsys.readouterr().err


def test_a_measurement_has_no_epochs(tmp_path):
    sweep = sweeps.load("fig6")
    leave(tmp_path, sweep.cells[0], epochs=30)
    records = Records([tmp_path])
    cells = watch.progress(sweep, records)
    assert (cells["epochs"][0], cells["of"][0], cells["pace"].isna()[0]) == (0, 0, True)
    assert watch.time_left(cells) is None
    assert "running  epoch" not in watch.block("fig6", cells)
