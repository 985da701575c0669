"""How runs are started: side by side on this machine, with the same results; what went wrong is listed at the end."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from sparse_train.errors import ConfigError
from sparse_train.record.lock import Lock
from sparse_train.report import cost, sweeps
from sparse_train.report.launch import overview, reproduce
from sparse_train.report.launch.overview import plan
from sparse_train.report.launch.reproduce import Placement, require_same_runs
from sparse_train.report.results import TIMES, Records
from sparse_train.report.sweeps import workload
from support.records import leave_records
from support.runs import report, reported
from support.warm import Program


def table(place: Path) -> pd.DataFrame:
    runs = pd.read_csv(place / "results" / "smoke" / "records" / "runs.csv")
    return runs[[column for column in runs if column not in TIMES]]


def test_side_by_side_gives_the_same_whatever_fails_or_is_killed(tmp_path):
    """As one after another. A killed worker is replaced, and its run done again."""
    once, again = tmp_path / "once", tmp_path / "again"
    code, _, err = reported(once, "reproduce", "table6", "--launch", "threads=1")
    assert code == 0, err
    expected = table(once)
    assert len(expected) == 12

    broken, runs = sweeps.load("table6", "smoke").cells[5], again / "runs" / "smoke"
    runs.mkdir(parents=True)
    (runs / broken.id).write_text("in the way")
    with Program(report(again, "reproduce", "table6", "--launcher", "local", "--jobs", "2")) as program:
        while len(list(runs.glob("*/model.safetensors"))) < 2:
            assert program.process.is_alive()
            time.sleep(0.01)
        os.kill(worker(runs), signal.SIGKILL)
        done = program.finish()
    assert done.returncode == 1
    said = done.stderr
    [owed] = [line for line in said.splitlines() if line.startswith("without a result: ")]
    assert owed == "without a result: table6: 1 missing: refused, as said above, or not started"
    assert re.search(
        rf"^error: 1 of \d+ runs failed:\n  .*: runs_dir={runs}: cannot be written \(File", said, re.MULTILINE
    )
    assert re.search(rf"^{broken.id}  run \d+ of \d+: ", said, re.MULTILINE), "every line says whose it is"
    complete = table(again)
    assert (complete["threads"] == 1).all()
    assert broken.id not in set(complete["id"]), "a run without a result has no row"
    others = [frame[frame["id"] != broken.id].reset_index(drop=True) for frame in (complete, expected)]
    pd.testing.assert_frame_equal(*others, check_dtype=False)


def worker(runs: Path) -> int:
    """The process of a run that has begun."""
    while True:
        for path in runs.glob("*/lock"):
            if (holder := Lock(path).holder()) is not None:
                return holder["pid"]
        time.sleep(0.01)


def test_what_failed_is_told_with_its_reason_then_how_many_are_missing(tmp_path, monkeypatch):
    sweep = sweeps.load("table6", "smoke")
    diverged, *rest = sweep.cells

    def trains(command):
        (tmp_path / diverged.id).mkdir()
        content = {"format": 1, "id": diverged.id, "status": "diverged", "reason": "the loss is not finite at step 9"}
        (tmp_path / diverged.id / "record.json").write_text(json.dumps(content))
        return 1

    monkeypatch.setattr("sparse_train.report.launch.reproduce.attend", trains)
    owed, _ = reproduce.reproduce(sweep, tmp_path, Records([tmp_path]), Placement(), [])
    options = " ".join(f"{key}={value}" for key, value in diverged.options.items())
    assert owed == [
        f"{tmp_path / diverged.id} diverged: the loss is not finite at step 9 ({options})",
        f"table6: {len(rest)} missing: refused, as said above, or not started",
    ]


def test_the_status_counts_committed_runs_and_says_which(tmp_path):
    sweep, here = sweeps.load("table6", "smoke"), Records([tmp_path / "runs"])
    leave_records(tmp_path, "table6", "smoke", accuracy=lambda cell: 50.0 if cell in sweep.cells[:5] else None)
    assert overview.status(sweep, here, tmp_path) == "table6: 0/12 complete, 12 missing"
    said = "table6: 5/12 complete (5 only in committed records), 7 missing"
    assert overview.status(sweep, here, tmp_path, tmp_path) == said
    for cell, status in zip(sweep.cells[4:7], ("complete", "complete", "failed"), strict=True):
        here.found[cell.id] = (tmp_path, {"status": status})
    said = "table6: 6/12 complete (4 only in committed records), 1 failed, 5 missing"
    assert overview.status(sweep, here, tmp_path, tmp_path) == said


@pytest.mark.parametrize(
    ("launcher", "option", "said"),
    [("serial", "JOBS=2", {"jobs": 2}), ("slurm", "GPUS=0,1", {"gpus": (0, 1)}), ("slurm", "PACK=4", {"pack": 4})],
)
def test_runs_side_by_side_need_the_launcher_for_it(launcher, option, said):
    told = Placement("local", gpus=(0, 1), pack=2).overrides()
    assert told == ["hydra/launcher=local", "hydra.launcher.n_jobs=4", "threads=1", "gpus=[0,1]"]
    with pytest.raises(ConfigError, match=f"^{option}: with LAUNCHER={launcher} .*LAUNCHER=local"):
        Placement(launcher, **said)


@pytest.mark.parametrize("word", ["batch_size=7", "+seed=7", "dst=set"])
def test_an_override_that_makes_other_runs_is_refused_before_one_is_trained(tmp_path, word):
    """They would be trained under ids that the sweep does not look for. Rounding and places are free."""
    sweep = sweeps.load("table6", "smoke")
    require_same_runs(
        sweep, sweep.cells, ["compile=true", "data_dir='/my data'", "threads=2", "hydra.launcher.n_jobs=2"]
    )
    key, value = word.lstrip("+").split("=")
    with pytest.raises(ConfigError, match=f"^{key}={value}: "):
        reproduce.reproduce(sweep, tmp_path, Records([tmp_path]), Placement(), ["threads=2", word])
    assert not [*tmp_path.iterdir()]


# --- planning ---


def test_a_plan_at_the_stated_speed():
    table1 = sweeps.load("table1").cells
    hours = {epochs: epochs * (1_281_167 + 50_000 / 3) / 2_500 / 3600 for epochs in (90, 180, 270)}
    planned = cost.of(table1, gpus=8)
    assert planned.gpu_hours == pytest.approx(12 * sum(hours.values()))
    assert planned.wall_clock / 3600 == pytest.approx(planned.gpu_hours / 8), "24 and 12 halves fit"
    assert f"the longest run {hours[270]:.0f}" in str(planned)


def test_a_plan_counts_the_cpus_that_load_photographs(tmp_path):
    """A GPU is not faster than what its CPUs decode; small images stay on the GPU."""
    (tmp_path / "loader.csv").write_text("photographs,loader,ms\nlarge,before,9\nlarge,now,2.5\nsmall,now,1.25\n")
    loader = cost.loader(tmp_path)
    assert loader == {"large": 400, "small": 800}
    assert cost.loader(tmp_path / "nowhere") == {}
    speeds = {cpus: cost.Speeds(loader=loader, cpus=cpus) for cpus in (None, 3, 7)}
    table1, table2 = (sweeps.load(name).cells for name in ("table1", "table2"))
    hours = {cpus: cost.of(table1, found).gpu_hours for cpus, found in speeds.items()}
    assert hours == {None: hours[7], 3: pytest.approx(hours[7] * 2_500 / 1_200), 7: cost.of(table1).gpu_hours}
    assert cost.of(table2, speeds[3]).gpu_hours == cost.of(table2).gpu_hours
    assert str(speeds[None]).endswith("; CPUs that must load imagenet for each GPU: 6.2 large, 3.1 small")
    assert str(speeds[3]).endswith("; here 3 load it large")


def test_the_longest_runs_come_first():
    assert cost.Cost(0, [1.0, 1.0, 1.0, 3.0], 2).wall_clock == 3.0
    assert cost.Cost(0, [2.0, 2.0, 2.0], 2).wall_clock == 4.0
    assert cost.Cost(0, [], 2).wall_clock == 0.0


def leave_speed(records, number, cell, name, device, seconds, epochs=10):
    """A complete record of a cell: so many seconds for so many epochs on that device."""
    config = OmegaConf.to_container(sweeps.configuration(name, cell.options), resolve=True)
    final = {"epoch": epochs, "images_per_second": 1.0}
    about = {"config": config, "hardware": {"device": device, "cpu": "some CPU"}}
    records.found[str(number)] = (Path(), {"status": "complete", "seconds": seconds, "final": final, **about})


def test_measured_speeds_go_before_stated_ones():
    """The median, of the GPU that most runs had."""
    records, table2 = Records([]), sweeps.load("table2")
    for number, seconds in enumerate((100.0, 300.0, 200.0)):
        leave_speed(records, number, table2.cells[number], "table2", "some GPU", seconds)
    leave_speed(records, "slow", table2.cells[5], "table2", "another GPU", 1e6)
    speeds = cost.measured(records)
    assert str(speeds).endswith("; measured: 3 runs on some GPU")
    hours = 20.0 * sum(cell.epochs for cell in table2.cells) / 3600
    assert cost.of(table2.cells, speeds).gpu_hours == pytest.approx(hours)
    assert plan(table2, records, speeds, 1).endswith(" (cifar100 measured)")
    table1 = sweeps.load("table1")
    assert cost.of(table1.cells, speeds).gpu_hours == cost.of(table1.cells).gpu_hours, "of another data set"
    assert plan(table1, records, speeds, 1).endswith(" (imagenet stated)")
    both = speeds.source([*table1.cells, *table2.cells, *sweeps.load("quickstart").cells])
    assert both == "imagenet stated, cifar100 measured, digits without a speed"


def test_runs_on_a_cpu_do_not_enter_gpu_hours():
    """100 seconds per epoch at the paper's protocol on one core are not what a GPU takes."""
    records, table2 = Records([]), sweeps.load("table2")
    for number, cell in enumerate(sweeps.load("table2").cells[:2]):
        leave_speed(records, number, cell, "table2", "cpu", 1e4, cell.epochs)
    speeds = cost.measured(records)
    assert speeds == cost.STATED_ONLY
    assert cost.of(table2.cells, speeds).gpu_hours == cost.of(table2.cells).gpu_hours
    line = plan(table2, records, speeds, 1)
    assert "about 23 GPU-hours" in line
    assert line.endswith(" (cifar100 stated)")


@pytest.mark.parametrize("other", ["dataset.image_size=16", "model=mlp", "batch_size=64"])
def test_another_image_size_or_model_is_another_speed(other):
    cell = sweeps.load("table2").cells[0]
    key, _, value = other.partition("=")
    options = cell.options | {key: value} | ({"dataset.pad": "2"} if "image" in other else {})
    here = sweeps.configuration("table2", cell.options)
    there = sweeps.configuration("table2", options)
    assert workload(here) == cell.workload == workload(OmegaConf.to_container(here, resolve=True))
    assert workload(there) != cell.workload
    seeds = {one.workload for one in sweeps.load("table2").cells}
    assert seeds == {cell.workload}, "sparsity, method, seed and length change nothing"
