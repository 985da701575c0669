"""Signals: saved at the next step, then what would have happened anyway."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sparse_train.config import run_id
from sparse_train.data.imagenet import end_if_orphaned
from sparse_train.process.signals import TWICE, SignalHandler
from sparse_train.record import files
from sparse_train.record.lock import Lock
from sparse_train.record.record import Record
from sparse_train.train import loop
from support.runs import QUICK, ROOT, TINY, history, only, record, run_here, same_state, trained, training
from support.warm import Program

ARGUMENTS = (*QUICK, "epochs=4", "optimizer=sparseopt_ham", "renorm=unit", "dst=set")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return trained(*ARGUMENTS, f"runs_dir={tmp_path_factory.mktemp('unbroken')}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_saves_within_the_epoch_and_the_run_goes_on_from_there(number, unbroken, tmp_path):
    run_dir = tmp_path / unbroken.name
    program = Program(training(*ARGUMENTS, f"runs_dir={tmp_path}"))
    while program.process.is_alive() and not (run_dir / "record.json").exists():
        time.sleep(0.005)
    os.kill(program.process.pid, number)
    done = program.finish()
    begun, *_, saved = done.stderr.splitlines()
    assert begun.startswith("digits")
    assert begun.endswith(f" (run {run_dir.name})")
    assert saved == f"{run_dir}: checkpoint saved on {number.name}; stopping; the same command resumes"
    assert done.returncode == 128 + number
    assert not (run_dir / "lock").exists()
    assert (run_dir / "checkpoint.pt").exists()
    assert record(run_dir)["status"] == "running"
    assert trained(*ARGUMENTS, f"runs_dir={tmp_path}") == run_dir
    assert same_state(run_dir, unbroken)
    assert history(run_dir) == history(unbroken)
    assert not (run_dir / "lock").exists()
    assert not (run_dir / "checkpoint.previous.pt").exists()


@pytest.fixture
def handled():
    """Set a signal's handler for a test alone."""
    before = []
    yield lambda number, handler: before.append((number, signal.signal(number, handler)))
    for number, handler in before:
        signal.signal(number, handler)


def test_the_handler_that_was_there_before_is_called(handled):
    """So submitit requeues its job; if it returns, the run goes on."""
    called = []
    handled(signal.SIGUSR2, lambda number, frame: called.append(number))
    with SignalHandler() as interruption:
        assert interruption.received is None
        os.kill(os.getpid(), signal.SIGUSR2)
        assert interruption.received == signal.SIGUSR2
        assert called == [], "not in the middle of a step"
        interruption.hand_over(interruption.received)
        assert called == [signal.SIGUSR2]
        assert interruption.received is None
        os.kill(os.getpid(), signal.SIGUSR2)
        assert interruption.received == signal.SIGUSR2, "noted again"
    assert len(called) == 2, "what was not handed over is, at the end"
    os.kill(os.getpid(), signal.SIGUSR2)
    assert len(called) == 3, "as before, once left"


def test_an_ignored_signal_stays_ignored(handled):
    handled(signal.SIGUSR1, signal.SIG_IGN)
    with SignalHandler() as interruption:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interruption.received is None


def test_a_second_interrupt_from_the_keyboard_acts_at_once(handled):
    handled(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), SignalHandler() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # torchrun's, which passes on what its processes heard themselves
        interruption._at -= 2 * TWICE
        os.kill(os.getpid(), signal.SIGINT)


PHASES = {  # what is under way as the signal comes -> where that is, and which of its calls
    "the first step": (loop.Run, "loss", 1),
    "evaluation": (loop, "evaluate", 1),
    "an epoch's row": (Record, "append", 1),
    "the last checkpoint": (files.os, "fsync", 7),
    "the last word": (Record, "finish", 1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_ends_a_sweep_whatever_is_under_way(phase, handled, tmp_path, monkeypatch, capsys):
    """The run is saved or complete, one line says so, and the next run of the sweep does not begin."""
    place, name, count = PHASES[phase]
    real, calls, handed = getattr(place, name), [], []

    def signalled(*arguments, **options):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    def requeued(number, frame):  # stands for submitit's, which ends the program as well
        handed.append(number)
        sys.exit(128 + number)

    handled(signal.SIGTERM, requeued)
    with monkeypatch.context() as patched:
        patched.setattr(place, name, signalled)
        sweep = ("--multirun", "seed=0,1", *TINY, f"runs_dir={tmp_path}", f"hydra.sweep.dir={tmp_path / 'sweep'}")
        code, _, err = run_here(patched, capsys, *sweep)
    assert code == 128 + signal.SIGTERM
    assert handed == [signal.SIGTERM], "once"
    content = record(only(tmp_path))
    assert content["status"] == ("running" if list(PHASES).index(phase) < 3 else "complete")
    assert err.count(" on SIGTERM") == 1
    assert "Traceback" not in err
    assert (only(tmp_path) / "checkpoint.pt").exists()
    assert not (only(tmp_path) / "lock").exists()


def test_ctrl_c_outside_of_training_is_one_line(handled, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sparse_train.train.tasks.build", lambda cfg, ranks: signal.raise_signal(signal.SIGINT))
    handled(signal.SIGINT, signal.default_int_handler)
    code, _, err = run_here(monkeypatch, capsys, "--multirun", "seed=0,1", *TINY, f"runs_dir={tmp_path}")
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; the same command resumes"
    assert len(err.splitlines()) <= 3, "the first words, the line of the run that was about to begin, and this one"
    assert not list(tmp_path.glob("*/record.json"))


def test_a_signal_to_the_whole_process_group_leaves_the_data_workers_alone(image_folder, tmp_path):
    """They neither end before the run is saved nor outlive it, even if it is killed."""
    for folder in (image_folder / "imagenet").glob("train/*"):
        for i in range(200):
            os.link(folder / "0.png", folder / f"more{i}.png")
    sizes = ("dataset.num_classes=2", "dataset.image_size=16", "dataset.resize=20", "model.width=0.25", "batch_size=4")
    run = (*sizes, "dataset=imagenet", "model=resnet20", "epochs=50", "workers=2", "threads=1")
    command = [sys.executable, "-m", "sparse_train", *run, f"data_dir={image_folder}", f"runs_dir={tmp_path / 'runs'}"]
    options = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    heard = lambda: (os.setsid(), signal.signal(signal.SIGINT, signal.SIG_DFL))  # noqa: E731
    with subprocess.Popen(command, preexec_fn=heard, **options) as process:
        workers = _workers(process)
        for number in (signal.SIGTERM, signal.SIGINT):
            for worker in workers:
                os.kill(worker, number)
        time.sleep(0.2)
        assert all(map(_there, workers))
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert "checkpoint saved on SIGTERM" in said
    assert "Traceback" not in said
    assert record(only(tmp_path / "runs"))["status"] == "running"
    assert not any(map(_there, workers))
    with subprocess.Popen(command, preexec_fn=heard, **options) as process:
        workers = _workers(process)
        process.kill()
        assert "resuming after epoch" in process.communicate(timeout=60)[1]
    ended = time.monotonic() + 30
    while any(map(_there, workers)) and time.monotonic() < ended:
        time.sleep(0.1)
    assert not any(map(_there, workers)), "torch's watchdog ends them"


@pytest.mark.parametrize(("run", "status"), [(os.getpid, 0), (os.getppid, 1)], ids=["there", "gone"])
def test_a_worker_whose_run_was_killed_while_it_began_ends(run, status):
    run = run()
    if (worker := os.fork()) == 0:
        end_if_orphaned(run, 0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == status


def _workers(process):
    """The process numbers of both data workers, once they are there."""
    while process.poll() is None:
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            found = [int(pid) for pid in file.read().split()]
        if len(found) == 2 and all("multiprocessing" not in _command(pid) for pid in found):
            return found
        time.sleep(0.01)
    raise AssertionError(process.stderr.read())


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return "multiprocessing"


def _there(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path, compose_config, monkeypatch, capsys):
    """With an exit status of its own, and who is at work."""
    holder = Lock(tmp_path / run_id(compose_config(*TINY)) / "lock")
    holder.path.parent.mkdir()
    holder.acquire()
    code, out, err = run_here(monkeypatch, capsys, *TINY, f"runs_dir={tmp_path}")
    assert (code, out) == (75, "")
    assert f"is being trained by process {os.getpid()} on " in err
    holder.release()
