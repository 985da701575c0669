"""W&B: what it gets, decoded from its own files; what becomes of a run when it fails."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sparse_train.errors import ConfigError
from sparse_train.record.integrity import EXPORTS
from sparse_train.record.record import Record
from sparse_train.report.tracking import dashboard
from sparse_train.tracking import wandb_run
from sparse_train.tracking.sinks import Wandb
from support import runs, wandb_files
from support.runs import QUICK, command, free_port, run_here, training
from support.wandb_server import KEY, end_service, serving
from support.warm import Program

pytestmark = pytest.mark.usefixtures("wandb_home")
RUN = ("logger=wandb", "epochs=6", "renorm=unit", "optimizer=sparseopt_ham")
FACTS = {"name": "digits 0.9 seed 3", "config": {"sparsity": 0.9, "seed": 3, "scale": "paper"}}


def files(run_dir: Path) -> list[Path]:
    """In the order in which they were begun."""
    return sorted(run_dir.glob("wandb/*run-*/*.wandb"), key=lambda path: path.parent.name.removeprefix("offline-"))


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> Path:
    """A real run."""
    runs_dir = tmp_path_factory.mktemp("runs")
    code, out, err = command(*QUICK, *RUN, "logger.mode=offline", "logger.tags=[mine]", f"runs_dir={runs_dir}")
    assert code == 0, err
    assert warned(err) == []
    return Path(out.splitlines()[-1])


def test_an_offline_run_holds_every_row_and_the_whole_configuration(offline):
    [file] = files(offline)
    record, rows, epochs = runs.record(offline), wandb_files.rows(file), runs.rows(offline)
    epochs = [wandb_run.shown(epoch) for epoch in epochs]
    assert [{key: row[key] for key in epoch} for row, epoch in zip(rows, epochs, strict=True)] == epochs
    assert [row["itop_percent"] for row in rows] == [100 * row["itop_rate"] for row in runs.rows(offline)]
    assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    said = wandb_files.run(file)
    assert {key: said["config"][key] for key in record["config"]} == record["config"]
    assert {group: said["config"][f"{group}_option"] for group in record["choices"]} == record["choices"]
    assert said["config"]["git"] == record["git"]
    assert said["id"] == record["id"]
    assert said["name"] == f"{record['name']}, 6 epochs"
    assert said["notes"] == "Reproduces SparseOpt, https://arxiv.org/abs/2605.27541"
    assert said["tags"] == ["digits", "resnet20", "rigl", "sparseopt_ham", "unit", "sparsity 0.9", "mine"]
    summary = wandb_files.summary(file)
    assert summary["status"] == "complete"
    for place, said in (("", record["final"]), ("best/", record["best"])):
        expected = {**said, "itop_percent": 100 * said["itop_rate"]}
        del expected["itop_rate"]
        assert {key: summary[place + key] for key in expected} == expected
    assert wandb_files.exit_code(file) == 0
    assert_histograms(rows, record)


def test_wandbs_own_variables_count(tmp_path, monkeypatch):
    said = {"WANDB_PROJECT": "theirs", "WANDB_RUN_GROUP": "trial", "WANDB_NAME": "first", "WANDB_MODE": "offline"}
    for variable, value in {**said, "WANDB_DIR": str(tmp_path / "elsewhere")}.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "elsewhere").mkdir()
    record = Record(tmp_path / "runs", "id")
    Wandb(record, FACTS).finish(record_of(record))
    end_service()  # which writes the file
    [file] = files(tmp_path / "elsewhere")
    run = wandb_files.run(file)
    assert (run["project"], run["group"], run["name"]) == ("theirs", "trial", "first")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Wandb(record, FACTS).log({"epoch": 1})
    assert len(files(tmp_path / "elsewhere")) == 1
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ConfigError, match="mode=onlin: must be one of online, offline, disabled"):
        Wandb(record, FACTS)


def record_of(record):
    record.content = {"status": "complete"}
    return record


def test_dashboards_name_only_what_runs_hold(offline):
    [file] = files(offline)
    held = {
        "line": {key for row in wandb_files.rows(file) for key, value in row.items() if value is not None},
        "bar": {key for key, value in wandb_files.summary(file).items() if value is not None},
        "config": wandb_files.run(file)["config"].keys(),
    }
    held["scatter"] = held["bar"]
    panels = [panel for _, panels in dashboard.sections() for panel in panels]
    panels += [panel for members in dashboard.reports() for sweep in members for panel in dashboard.panels_of(sweep)]
    assert len(panels) > 80
    for panel in panels:
        assert panel.y in held[panel.kind], panel
        assert panel.x in {"line": {"epoch"}, "bar": {None}, "scatter": held["config"]}[panel.kind]
        assert {*panel.series, *dashboard.FULL_SCALE} <= held["config"], panel


def assert_histograms(rows: list[dict], record: dict) -> None:
    """At epochs with mask updates (every third of 7 steps, to three quarters of 42), one for each layer."""
    updated = {step // 7 + 1 for step in range(1, 42) if step % 3 == 0 and step < 0.75 * 42}
    for layer, density in record["layers"].items():
        with_it = {row["_step"]: row for row in rows if f"density/{layer}._type" in row}
        assert set(with_it) == updated | {1}
        for row in with_it.values():
            neurons, edges = np.array(row[f"density/{layer}.values"]), np.array(row[f"density/{layer}.bins"])
            assert (neurons @ (edges[1:] + edges[:-1]) / 2) / neurons.sum() == pytest.approx(density, abs=1 / 64)


def test_after_a_sigkill_the_files_of_a_run_hold_every_row_once_per_step(tmp_path):
    arguments = (*QUICK, *RUN, "logger.mode=offline", "epochs=40", f"runs_dir={tmp_path}")
    with Program(training(*arguments)) as program:
        while program.process.is_alive() and len(epochs(tmp_path)) < 10:
            time.sleep(0.01)
    assert program.process.exitcode == -signal.SIGKILL
    code, out, err = command(*arguments)
    assert code == 0, err
    assert "resuming after epoch" in err
    run_dir = Path(out.splitlines()[-1])
    first, second = files(run_dir)
    assert wandb_files.exit_code(first) is None
    assert {wandb_files.run(file)["id"] for file in (first, second)} == {run_dir.name}
    steps = {}
    for file in (first, second):
        rows = wandb_files.rows(file)
        assert len({row["_step"] for row in rows}) == len(rows), "no step twice in one file"
        for row in rows:
            steps.setdefault(row["_step"], []).append(row)
    expected = {row["epoch"]: wandb_run.shown(row) for row in runs.rows(run_dir)}
    assert steps.keys() == expected.keys()
    for step, found in steps.items():
        for row in found:
            for key in expected[step].keys() - {"seconds", "images_per_second"}:
                assert row[key] == expected[step][key]
        assert {key: found[-1][key] for key in expected[step]} == expected[step]


def epochs(runs_dir: Path) -> list[str]:
    return [line for path in runs_dir.glob("*/history.jsonl") for line in path.read_text().splitlines()]


# --- failing ---


def warned(err: str) -> list[str]:
    """All that was said, but the run's card, its epochs and its last block."""
    first, last = r"loading |digits resnet20 |  ResNet20: |  \d+ epochs of |epoch ", "  (best|last|time|files|next) "
    usual = re.compile(f"{first}|complete: |{last}|W&B: http")
    return [line for line in err.splitlines() if not usual.match(line)]


@pytest.mark.parametrize("what", ["nothing listens", "it answers 500"])
def test_training_ends_well_where(tmp_path, what):
    with serving(500) as server:
        url = server.url if what == "it answers 500" else f"http://127.0.0.1:{free_port()}"
        overrides = (*QUICK, *RUN, "logger.init_timeout=1", f"runs_dir={tmp_path}")
        code, out, err = command(*overrides, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert code == 0
    [line] = warned(err)
    assert re.match("warning: W&B: CommError: Timed out .*; continuing offline; `make wandb-sync`", line)
    run_dir = Path(out.splitlines()[-1])
    assert runs.record(run_dir)["status"] == "complete"
    assert len(runs.rows(run_dir)) == 6
    [file] = run_dir.glob("wandb/offline-run-*/*.wandb")
    assert [row["_step"] for row in wandb_files.rows(file)] == [1, 2, 3, 4, 5, 6]
    assert wandb_files.exit_code(file) == 0


@pytest.mark.parametrize(("key", "reason"), [(KEY, "error 401"), ("", "RuntimeError: no API key")])
def test_a_wrong_key_and_none(tmp_path, monkeypatch, capfd, key, reason):
    record = Record(str(tmp_path), "abc123")
    record.start([])
    record.append({"epoch": 1, "test_acc": 50.0, "seconds": 1.0})
    with serving(401) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", key)
        sink = Wandb(record, FACTS)
    sink.log(record.history[0])
    record.finish("complete")
    sink.finish(record)
    [line] = capfd.readouterr().err.splitlines()
    assert re.match(f"warning: W&B: .*{reason}.*; continuing offline; `make wandb-sync` uploads it later", line)
    end_service()
    [file] = record.dir.glob("wandb/offline-run-*/*.wandb")
    assert [row["test_acc"] for row in wandb_files.rows(file)] == [50.0]


def test_a_run_that_wandb_leaves_in_the_middle_goes_on(tmp_path, capfd):
    """Its process is killed; said once, not for every epoch, and not at the end."""
    record = Record(str(tmp_path), "abc123")
    record.start([])
    sink = Wandb(record, FACTS, mode="offline")
    record.append({"epoch": 1, "test_acc": 50.0, "seconds": 1.0})
    sink.log(record.history[0])
    core = subprocess.run(
        ["pgrep", "-f", f"wandb-core.*--pid {os.getpid()}"], capture_output=True, text=True, check=True
    )
    os.kill(int(core.stdout), signal.SIGKILL)
    for _ in range(3):
        sink.log(record.history[0] | {"epoch": 2})
    record.finish("complete")
    sink.finish(record)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("warning: W&B: ")
    assert said[0].endswith("continuing without it")


def test_without_the_package_one_line_says_so_and_disabled_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    record = Record(str(tmp_path), "abc123")
    Wandb(record, FACTS, mode="disabled").log({"epoch": 1})
    assert capsys.readouterr().err == ""
    sink = Wandb(record, FACTS)
    sink.log({"epoch": 1})
    sink.finish(record)
    assert re.fullmatch("warning: W&B: ModuleNotFoundError.*continuing without it\n", capsys.readouterr().err)


# --- a server that works ---


def test_a_run_sends_its_rows_and_says_where(tmp_path):
    """Started over, it replaces them."""
    arguments = (*QUICK, *RUN, f"runs_dir={tmp_path}", "resume=fresh")
    with serving() as server:
        for attempt in (1, 2):
            code, out, err = command(*arguments, **server.environment)
            assert code == 0, err
            assert warned(err) == []
            assert "\nW&B: http" in err
            run_dir = Path(out.splitlines()[-1])
            assert [row["_step"] for row in server.rows(run_dir.name)] == [1, 2, 3, 4, 5, 6]
            sent = [row["seconds"] for row in server.rows(run_dir.name)]
            assert sent == [row["seconds"] for row in runs.rows(run_dir)], "the rows of this attempt"
            assert files(run_dir)[0].with_name(f"{files(run_dir)[0].name}.synced").exists()
            assert server.uploads == attempt * [run_dir.name]


def test_a_run_trained_earlier_is_sent_once(tmp_path, monkeypatch, capsys):
    words = (*QUICK, f"runs_dir={tmp_path}")
    logged = ("logger=wandb", "logger.mode=offline")
    for more, expected in (((), 0), (logged, 1), (logged, 1), (("logger=wandb", "logger.mode=disabled"), 1)):
        code, out, err = run_here(monkeypatch, capsys, *words, *more)
        assert (code, warned(err)) == (0, [])
        end_service()
        run_dir = Path(out.strip())
        assert len(files(run_dir)) == expected
    [file] = files(run_dir)
    assert [row["test_acc"] for row in wandb_files.rows(file)] == [row["test_acc"] for row in runs.rows(run_dir)]
    assert wandb_files.summary(file)["status"] == "complete"
    assert wandb_files.run(file)["name"] == f"{runs.record(run_dir)['name']}, 2 epochs"


def test_weights_and_masks_are_an_artifact_if_asked(tmp_path):
    record = Record(str(tmp_path), "abc123")
    record.start([])
    for name in EXPORTS:
        (record.dir / name).write_text(name)
    sink = Wandb(record, FACTS, mode="offline", artifact=True)
    record.finish("complete")
    sink.finish(record)
    end_service()
    [file] = files(record.dir)
    assert wandb_files.artifacts(file) == {"model-abc123": {*EXPORTS, "record.json"}}


# --- the end of a run ---


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_the_end_is_told_after_the_record_has_its_last_word(tmp_path, monkeypatch, compose_config, status):
    from sparse_train.errors import DivergedError
    from sparse_train.train import loop, tasks

    def train(run, record, sinks, pace):
        record.start([])
        if status == "diverged":
            record.finish("diverged")
            raise DivergedError("the loss is not finite")
        raise RuntimeError("broken")

    monkeypatch.setattr(loop, "train", train)
    record = Record(str(tmp_path), "abc123")
    with pytest.raises(RuntimeError):
        tasks.train(compose_config("logger=wandb", "logger.mode=offline", *QUICK), record)
    end_service()
    [file] = files(record.dir)
    assert wandb_files.exit_code(file) == 1
    assert wandb_files.summary(file)["status"] == status
    assert not record.lock.path.exists()


@pytest.mark.parametrize(
    ("sweep", "scale", "group"), [("table1", "paper", "table1"), ("table1", "cpu", "table1 cpu"), (None, "cpu", None)]
)
def test_the_group_is_the_sweep_and_scales_do_not_mix(sweep, scale, group):
    assert wandb_run.default_group(sweep, scale) == group
