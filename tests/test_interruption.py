"""Signals: saved at the next step, then what would have happened anyway."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sparse_train.interruption import Interruption
from support import QUICK, ROOT, history, only, record, same_state, trained

ARGUMENTS = (*QUICK, "epochs=4", "optimizer=sparseopt_ham", "renorm=unit", "dst=set")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return trained(*ARGUMENTS, f"runs_dir={tmp_path_factory.mktemp('unbroken')}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_saves_within_the_epoch_and_the_run_goes_on_from_there(number, unbroken, tmp_path):
    run_dir = tmp_path / unbroken.name
    command = [sys.executable, "-m", "sparse_train", *ARGUMENTS, f"runs_dir={tmp_path}"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  (a background job's children ignore it)
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=heard, **pipes) as process:
        while process.poll() is None and not (run_dir / "record.json").exists():
            time.sleep(0.005)
        process.send_signal(number)
        said = process.stderr.read()
        process.wait()
    assert f"saved, as signal {int(number)} asked for an end" in said
    assert process.returncode in (-number, 130 if number == signal.SIGINT else -number)
    assert (run_dir / "checkpoint.pt").exists()
    assert record(run_dir)["status"] == "running"
    assert trained(*ARGUMENTS, f"runs_dir={tmp_path}") == run_dir
    assert same_state(run_dir, unbroken)
    assert history(run_dir) == history(unbroken)
    assert not (run_dir / "lock").exists()
    assert not (run_dir / "checkpoint.previous.pt").exists()


def test_the_handler_that_was_there_before_is_called():
    """So submitit requeues its job; if it returns, the run goes on."""
    called = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    try:
        with Interruption() as interruption:
            assert interruption.received is None
            os.kill(os.getpid(), signal.SIGUSR2)
            assert interruption.received == signal.SIGUSR2
            assert called == [], "not in the middle of a step"
            interruption.hand_over()
            assert called == [signal.SIGUSR2]
            assert interruption.received is None
            os.kill(os.getpid(), signal.SIGUSR2)
            assert interruption.received == signal.SIGUSR2, "noted again"
        os.kill(os.getpid(), signal.SIGUSR2)
        assert len(called) == 2, "as before, once left"
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert interruption.received is None
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_second_interrupt_from_the_keyboard_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Interruption():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_two_processes_on_one_run(tmp_path, unbroken):
    """The second leaves with an exit status of its own, and says who is at work."""
    command = [sys.executable, "-m", "sparse_train", *ARGUMENTS, "epochs=300", f"runs_dir={tmp_path}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and not list(tmp_path.glob("*/record.json")):
            time.sleep(0.01)
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert first.poll() is None, "still training"
        first.kill()
    assert second.returncode == 75
    assert f"is being trained by process {first.pid} on " in second.stderr
    assert second.stdout == ""
    assert record(only(tmp_path))["status"] == "running"
