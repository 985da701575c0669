"""A real SLURM: arrays, several tasks, preemption, cancelling. Skipped where it cannot be started."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from support import runs, warm
from support.runs import QUICK, ROOT, TINY, history, only, record, same_state, trained

CLUSTER = Path(__file__).with_name("cluster.sh")
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
NODE = ("hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1", "threads=1")


@pytest.fixture(scope="module")
def slurm():
    """The environment for SLURM's commands; everything submitted in it ends with it."""
    absent = [program for program in NEEDED if shutil.which(program) is None]
    if absent or os.geteuid() != 0:
        why = f"there is no {', '.join(absent)} (apt-get install slurm-wlm munge)" if absent else "it needs root"
        pytest.skip(f"no SLURM: {why}")
    place = Path(tempfile.mkdtemp(prefix="slurm-"))  # not pytest's: munge's user must get in
    environment = {**os.environ, "SLURM_CONF": str(place / "slurm.conf")}
    subprocess.run([CLUSTER, "start", place], check=True)
    yield environment
    subprocess.run(["scancel", "--me"], env=environment, check=False)
    subprocess.run([CLUSTER, "stop", place], check=True)
    shutil.rmtree(place, ignore_errors=True)


def multirun(slurm: dict, *arguments: str) -> subprocess.Popen:
    """Hydra's own: it waits for its jobs."""
    command = [sys.executable, "-m", "sparse_train", "--multirun", "hydra/launcher=slurm", *NODE, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=slurm, **pipes)


def report(slurm: dict, place: Path, command: str, *options: str) -> subprocess.CompletedProcess:
    return warm.run(runs.report(place, command, "table6", *options), **slurm)


def until(condition, seconds: float = 300):
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
    return found


def squeue(slurm: dict, form: str) -> list[str]:
    listed = subprocess.run(
        ["squeue", "-h", "--array", "-o", form], env=slurm, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def test_an_array_of_runs(slurm, tmp_path):
    """With lines of its own before each run, and options of sbatch that are no keys; it ends with a table."""
    setup = ["hydra.launcher.setup=['export PREPARED=yes','env | grep PREPARED']"]
    words = [*setup, "hydra.launcher.additional_parameters={nice:10,comment:ours}", f"runs_dir={tmp_path / 'runs'}"]
    process = multirun(slurm, *TINY, "seed=0,1", *words)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert re.search(r"^test accuracy in percent\nsetting +n +mean +sd\nall runs +2 ", said, re.MULTILINE)
    [script] = tmp_path.glob("runs/.multirun/*/.submitit/*submission*.sh")
    assert {"#SBATCH --nice=10", "export PREPARED=yes"} <= set(script.read_text().splitlines())
    logs = [path.read_text() for path in tmp_path.glob("runs/.multirun/*/.submitit/*/*_log.out")]
    assert [log.partition("\n")[0] for log in logs] == 2 * ["PREPARED=yes"]
    records = [record(path.parent) for path in tmp_path.glob("runs/*/record.json")]
    assert sorted(one["config"]["seed"] for one in records) == [0, 1]
    alone = trained(*TINY, "seed=1", f"runs_dir={tmp_path / 'alone'}")
    assert same_state(tmp_path / "runs" / alone.name, alone)
    assert history(tmp_path / "runs" / alone.name) == history(alone)


def test_a_preempted_run_of_two_tasks_requeues_itself_and_goes_on(slurm, tmp_path):
    process = multirun(slurm, *QUICK, "epochs=30", "hydra.launcher.tasks_per_node=2", f"runs_dir={tmp_path}")
    until(lambda: list(tmp_path.glob("*/history.jsonl")))
    [job] = squeue(slurm, "%A")
    subprocess.run(["scancel", "--signal=USR2", job], env=slurm, check=True)
    shown = ["scontrol", "show", "job", job]
    restarts = lambda: subprocess.run(shown, env=slurm, capture_output=True, text=True, check=True).stdout  # noqa: E731
    until(lambda: "Restarts=1" in restarts())
    run_dir = only(tmp_path)
    assert record(run_dir)["status"] == "running"
    assert 0 < len(history(run_dir)) < 30
    until(lambda: record(run_dir)["status"] == "complete")
    process.communicate(timeout=180)
    said = "".join(path.read_text() for path in tmp_path.glob(".multirun/*/.submitit/*/*_log.out"))
    assert "checkpoint saved on SIGUSR2" in said
    assert "resuming after epoch" in said
    assert record(run_dir)["processes"] == 2
    assert [row["epoch"] for row in history(run_dir)] == list(range(1, 31))


def test_a_run_on_two_nodes(slurm, tmp_path):
    nodes = ("hydra.launcher.nodes=2", "hydra.launcher.partition=pair")
    process = multirun(slurm, *TINY, *nodes, f"runs_dir={tmp_path}")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert (record(only(tmp_path))["processes"], len(history(only(tmp_path)))) == (2, 2)


def test_one_job_holds_several_runs_and_returns_to_the_queue_until_they_are_done(slurm, tmp_path):
    """`docs/packed.sbatch`, at the signal that SLURM sends before the time is up."""
    sweep = ["--multirun", "hydra/launcher=local", "hydra.launcher.n_jobs=2", "seed=0,1", f"runs_dir={tmp_path}"]
    job = [sys.executable, "-m", "sparse_train", *QUICK, "epochs=30", *sweep]
    sbatch = ["sbatch", "--parsable", f"--output={tmp_path / 'log'}", ROOT / "docs" / "packed.sbatch", *job]
    submitted = subprocess.run(sbatch, cwd=ROOT, env=slurm, capture_output=True, text=True, check=True).stdout.strip()
    until(lambda: len(list(tmp_path.glob("*/history.jsonl"))) == 2)
    subprocess.run(["scancel", "--batch", "--signal=USR1", submitted], env=slurm, check=True)
    until(lambda: [record(path.parent)["status"] for path in tmp_path.glob("*/record.json")] == 2 * ["complete"])
    said = (tmp_path / "log").read_text()
    assert said.count("checkpoint saved on SIGTERM") == said.count("resuming after epoch") == 2, said


def test_an_artifact_is_submitted_counted_and_cancelled(slurm, tmp_path):
    start = ("--launcher", "slurm", "--launch", " ".join(NODE))
    began = time.monotonic()
    submitted = report(slurm, tmp_path, "reproduce", *start)
    assert submitted.returncode == 0, submitted.stderr
    assert time.monotonic() - began < 120, "it does not wait for the jobs"
    assert re.search(r"table6: \d+/12 complete, .*in the queue: ", submitted.stdout)

    again = report(slurm, tmp_path, "reproduce", *start)
    assert again.returncode == 1
    assert "jobs are in the queue already; `make cancel-table6` ends them" in again.stderr
    assert len(set(squeue(slurm, "%F"))) == 1, "one array"

    until(lambda: re.search(r"[1-9]\d*/12 complete.*running", report(slurm, tmp_path, "status").stdout))
    cancelled = report(slurm, tmp_path, "cancel").stdout
    assert re.fullmatch(r"table6: \d+ jobs cancelled\n", cancelled)
    until(lambda: not squeue(slurm, "%F"))
    counted = report(slurm, tmp_path, "status").stdout
    assert "running" not in counted
    assert "queue" not in counted
    assert sum(int(count) for count in re.findall(r"(\d+) (?:interrupted|missing)", counted)) > 0
    assert report(slurm, tmp_path, "cancel").stdout == "table6: 0 jobs cancelled\n"


def test_what_slurm_does_not_take_is_one_line(slurm, tmp_path):
    refused = report(
        slurm, tmp_path, "reproduce", "--launcher", "slurm", "--launch", "hydra.launcher.partition=nowhere"
    )
    assert refused.returncode == 1
    assert "error: launcher=slurm: SLURM accepted no job" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert report(slurm, tmp_path, "status").stdout.startswith("table6: 0/12 complete, 12 missing\n")
