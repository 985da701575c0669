"""Several runs by one command: all failures at the end, lines that say whose they are, and an end that saves."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from io import StringIO
from statistics import mean, stdev

import pytest
from safetensors.torch import load_file

from sparse_train.__main__ import next_command
from sparse_train.process.workers import KILLED, spread, worker
from sparse_train.record.export import load
from sparse_train.train.build import build
from sparse_train.train.multirun import Local, table
from sparse_train.train.tasks import SLOW_BF16, card
from support.runs import QUICK, ROOT, TINY, record, run_here, trained, training


def test_all_failures_are_told_at_the_end(tmp_path, monkeypatch, capsys):
    words = ("--multirun", "lr=-1,0.1", "momentum=0.9,2", f"runs_dir={tmp_path}", "update_every=0")
    code, out, err = run_here(monkeypatch, capsys, *words)
    assert code == 1
    assert out == ""
    end = err[err.index("error: 4 of 4 runs failed:") :].splitlines()
    assert end[1:5] == [
        "  lr=-1 momentum=0.9: lr=-1.0: must be at least 0, and finite",
        "  lr=-1 momentum=2: lr=-1.0: must be at least 0, and finite",
        "  lr=0.1 momentum=0.9: update_every=0: must be at least 1",
        "  lr=0.1 momentum=2: momentum=2.0: must be in [0, 1)",
    ]
    assert re.findall(r"^run (\d) of 4: \w{12} lr=", err, re.MULTILINE) == ["1", "2", "3", "4"]


def test_a_sweep_ends_with_a_table_of_settings_over_seeds(tmp_path, monkeypatch, capsys):
    words = ["--multirun", *TINY, "epochs=1", "dst=set,rigl", "seed=0,1", "dataset.validation=0"]
    code, _, err = run_here(monkeypatch, capsys, *words, f"runs_dir={tmp_path}")
    assert code == 0, err
    found = {}
    for path in tmp_path.glob("*/record.json"):
        one = record(path.parent)
        found.setdefault(one["choices"]["dst"], []).append(one["final"]["test_acc"])
    rows = [f"dst={dst:4}   2  {mean(found[dst]):6.2f}  {stdev(found[dst]):5.2f}" for dst in ("set", "rigl")]
    assert err.splitlines()[-4:] == ["test accuracy in percent", "setting    n    mean     sd", *rows]


def test_a_table_leaves_out_what_has_no_accuracy():
    """The words that all have in common, too; a single run has no standard deviation."""
    done = [(["lr=1", "a=1", "seed=0"], 50.0), (["lr=1", "a=1", "seed=1"], None), (["lr=1", "a=2", "++seed=0"], 60.0)]
    assert table(done, "validation")[2:] == ["a=1       1   50.00      -", "a=2       1   60.00      -"]
    assert table(done[:2], "validation") == []


def test_a_sweeper_gets_the_accuracy_on_images_held_out(tmp_path, monkeypatch, capsys):
    """From other processes too, as what `launch` returns."""
    found = []
    launch = Local.launch
    monkeypatch.setattr(Local, "launch", lambda *given, **more: found.extend(launch(*given, **more)) or found)
    words = [*TINY, "epochs=1", "seed=0,1", "dataset.validation=50", "hydra/launcher=local", "hydra.launcher.n_jobs=1"]
    code, _, err = run_here(monkeypatch, capsys, "--multirun", *words, f"runs_dir={tmp_path}")
    assert code == 0, err
    records = {one["config"]["seed"]: one for one in (record(path.parent) for path in tmp_path.glob("*/record.json"))}
    assert [one.return_value for one in found] == [records[seed]["final"]["val_acc"] for seed in (0, 1)]
    assert "validation accuracy in percent\n" in err


def test_an_error_of_ours_keeps_its_traceback_and_is_listed(tmp_path, monkeypatch, capsys):
    def broken(cfg, key):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sparse_train.__main__.instantiate", broken)
    code, _, err = run_here(monkeypatch, capsys, "--multirun", "seed=0,1", f"runs_dir={tmp_path}")
    assert code == 1
    assert err.count('raise ZeroDivisionError("a bug")') == 2
    assert "error: 2 of 2 runs failed:\n  seed=0: ZeroDivisionError: a bug\n  seed=1: ZeroDivisionError" in err


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """A run whose masks stay: its directory, and what it said on stderr at its first launch and at its second."""
    words = (*QUICK, "epochs=1", "sparsity=0.75", "update_every=5000", f"runs_dir={tmp_path_factory.mktemp('runs')}")
    told = []
    for _ in range(2):
        with redirect_stderr(StringIO()) as err:
            run_dir = trained(*words)
        told.append(err.getvalue())
    return run_dir, *told


def test_a_run_begins_with_its_weights_epochs_and_device(said):
    run_dir, err, _ = said
    masks = load_file(run_dir / "masks.safetensors").values()
    kept, sparse = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
    dense = sum(weight.numel() for weight in load(run_dir).parameters()) - sparse
    assert kept / sparse == pytest.approx(0.25, abs=0.001)
    name, weights, length, warning, *_ = err.splitlines()
    assert name == f"digits resnet20 rigl sparseopt 0.75 seed 0 (run {run_dir.name})"
    words = f"{kept:,} of {sparse:,} weights ({kept / sparse:.2%}); dense: {dense:,} (norms, biases)"
    assert weights == f"  ResNet20: {words}"
    assert re.fullmatch(r"  1 epoch of \d+ steps on cpu, 1 thread, fp32; \* marks the best so far", length)
    assert warning == "  warning: every=5000: no mask update of this run replaces a weight, so its masks stay"


def test_a_run_ends_with_what_it_came_to(said):
    """Also one that was complete before; stdout alone has the directory."""
    run_dir, first, again = said
    accuracy = record(run_dir)["final"]["test_acc"]
    head, *rows = first[first.index("complete: ") :].splitlines()
    assert head == "complete: digits resnet20 rigl sparseopt 0.75 seed 0"
    lines = {row.split()[0]: row.split(maxsplit=1)[1] for row in rows}
    assert list(lines) == ["best", "last", "time", "files", "next"]
    assert lines["best"] == f"test accuracy {accuracy:.2f}% in epoch 1"
    assert lines["last"].startswith(f"test accuracy {accuracy:.2f}% (sparsity 75.00%, ITOP 2")
    assert lines["files"] == ", ".join(sorted(path.name for path in run_dir.iterdir()))
    assert lines["next"].startswith("python -m sparse_train ")
    words = rf"complete: test accuracy {accuracy:.2f}% after 1 epoch in \d\d:\d\d \(ITOP 2.*, sparsity 75.00%\)"
    assert re.search(words, again)
    assert str(run_dir) not in first + again


@pytest.mark.parametrize(
    ("optimizer", "arguments", "expected"),
    [
        ("sparseopt", "dst=set seed=3 resume=fresh", "dst=set seed=3 optimizer=sgd"),
        ("ham", "optimizer=ham --config-dir 'my lab'", "--config-dir 'my lab' optimizer=sgd"),
        ("sgd", "optimizer=sgd ++seed=3 dst=set", "optimizer=sgd dst=set seed=4"),
        ("sgd", "optimizer=sgd optimizer/precondition=sparseopt", "optimizer=sgd"),
        ("sparseopt", "++optimizer.precondition.average=none ~optimizer/mirror", "optimizer=sgd"),
    ],
)
def test_a_run_ends_with_the_command_to_compare_it_with(optimizer, arguments, expected):
    record = {"choices": {"optimizer": optimizer}, "config": {"seed": 3}}
    assert next_command(record, shlex.split(arguments)) == f"python -m sparse_train {expected}"


def test_growth_by_corrected_gradients_has_no_baseline_to_train_next():
    config = {"seed": 3, "dst": {"method": {"gradient": "corrected"}}}
    assert next_command({"choices": {"optimizer": "sparseopt"}, "config": config}, ["dst=rigl_corrected"]) is None


def test_the_weights_that_stay_dense_are_named_and_layers_are_listed_on_request(monkeypatch, capsys):
    options = ["dataset=digits", "model=mlp", "topology.exclude=[layers.1.weight]", "sparsity=0.9"]
    code, out, err = run_here(monkeypatch, capsys, *options, "--layers")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[0][:5] == ["weight", "shape", "weights", "kept", "density"]
    assert ["layers.1.weight", "64x64", "4,096", "4,096", "100.00%", "0.008", "0.008"] in lines
    code, out, err = run_here(monkeypatch, capsys, *options, "--layers", "--multirun")
    assert (code, out, err) == (1, "", "error: argument --multirun/-m: not allowed with argument --layers\n")


def test_a_run_warns_where_bfloat16_is_slow(compose_config, monkeypatch):
    runs = {amp: build(compose_config("model=mlp", f"amp={amp}")) for amp in ("none", "bf16")}
    for has, amp, warned in (("AVX2", "bf16", True), ("AVX512", "bf16", False), ("AVX2", "none", False)):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda has=has: has)
        assert (f"  warning: {SLOW_BF16}" in card(runs[amp], "abc")) == warned


def test_workers_side_by_side_say_who_speaks_and_save_when_interrupted(tmp_path):
    """An interrupt from the keyboard is sent to all processes of the group."""
    words = ["hydra/launcher=local", "hydra.launcher.n_jobs=2", "seed=0,1,2", *QUICK, "epochs=400"]
    command = training("--multirun", *words, f"runs_dir={tmp_path}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  (a background job's children ignore it)
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, preexec_fn=heard, **pipes) as process:
        while process.poll() is None and len(list(tmp_path.glob("*/history.jsonl"))) < 2:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    runs = {path.parent.name for path in tmp_path.glob("*/checkpoint.pt")}
    assert len(runs) == 2, "the third did not begin"
    assert {line.split("  ")[0] for line in said.splitlines()} == {"loading ...", *runs}, said
    assert sorted(re.findall(r"  run (\d) of 3: seed=\d$", said, re.MULTILINE)) == ["1", "2"]
    for name in runs:
        assert f"{name}  {tmp_path / name}: checkpoint saved" in said
        assert not (tmp_path / name / "lock").exists()


def test_a_closed_terminal_ends_the_workers_with_their_parent():
    """SIGHUP to the parent alone; under nohup, which ignores it, they go on."""
    work = "def work(_):\n    print('works', flush=True)\n    time.sleep(2 if sys.argv[1:] else 60)\n"
    script = f"import sys, time; from sparse_train.process.workers import spread\n{work}spread(work, [(0,), (1,)], 2)"
    for ignored in ((), ("nohup",)):
        heard = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)  # noqa: E731, B023
        command = [sys.executable, "-c", script, *ignored]
        with subprocess.Popen(command, cwd=ROOT, preexec_fn=heard, stdout=subprocess.PIPE, text=True) as process:
            assert [process.stdout.readline() for _ in range(2)] == ["works\n"] * 2
            process.send_signal(signal.SIGHUP)
            process.communicate(timeout=40)  # the end of what they write is the end of all of them
        assert process.returncode == (0 if ignored else 128 + signal.SIGHUP)


def test_a_worker_that_is_killed_is_replaced_and_its_run_goes_on(tmp_path):
    """The others do not notice. Asked alone for an end, a worker saves, and its run goes on too."""
    words = ["hydra/launcher=local", "hydra.launcher.n_jobs=2", "seed=0,1,2", *TINY, "epochs=40", "checkpoint_steps=1"]
    command = training("--multirun", *words, f"runs_dir={tmp_path}")
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        locks = []  # of two runs at once: a worker that starts late may find the first run ended
        while process.poll() is None and len(locks) < 2:
            time.sleep(0.05)
            locks = [path for path in tmp_path.glob("*/lock") if (path.parent / "checkpoint.pt").exists()]
        first, second = (json.loads(path.read_text()) for path in locks)
        os.kill(first["pid"], signal.SIGKILL)
        os.kill(second["pid"], signal.SIGTERM)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.count("resuming after epoch") == 2
    assert said.count("checkpoint saved on SIGTERM") == 1
    assert [record(path.parent)["status"] for path in tmp_path.glob("*/record.json")] == ["complete"] * 3


def test_what_kills_its_worker_twice_fails_and_the_rest_is_done(tmp_path):
    def dying(number, once):  # within the test, so that a worker need not import this file
        """A task whose process is killed: always for 1, the first time for 2."""
        if number == 1 or (number == 2 and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number, worker()

    found = spread(dying, [(number, tmp_path / "once") for number in range(5)], 2)
    assert found[1] == KILLED
    assert [one[0] for one in found if one != KILLED] == [0, 2, 3, 4]
    assert {one[1] for one in found if one != KILLED} <= {0, 1}
    assert worker() == 0
