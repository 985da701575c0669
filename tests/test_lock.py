import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparse_train.errors import ConfigError, HeldError
from sparse_train.record import lease, lock
from sparse_train.record.lock import Lock
from support import race

STEPS = 14  # more than one that asks for a lock takes

HOLD = """
import socket, sys, time
from pathlib import Path
from sparse_train.record.lock import Lock
if sys.argv[2:]:
    socket.gethostname = lambda: sys.argv[2]
held = Lock(Path(sys.argv[1]))
held.beat = 0.02
held.acquire()
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def holding(path, *elsewhere, prefix=()):
    """A process that has the lock; `elsewhere` is the name of a host for it to believe in."""
    command = [*prefix, sys.executable, "-c", HOLD, str(path), *elsewhere]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def left_by(path, **fields):
    """A lock whose holder is not at work any more, and cannot be looked up."""
    said = {**json.loads(lease.text("0" * 32)), "host": "elsewhere", "since": "2026-01-01", **fields}
    path.write_text(json.dumps(said))


def calls(monkeypatch, before):
    """Have `before(number of the call)` run before every call that changes or reads what is in the directory."""
    count = itertools.count()
    for name in ("open", "link", "replace", "unlink"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, **more: (before(next(count)), real(*args, **more))[1])


@pytest.fixture
def waits(monkeypatch):
    """The seconds of each wait between two looks at a holder."""
    waited, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (waited.append(seconds), sleep(seconds)))
    return waited


def test_the_second_is_told_who_holds_it(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(
        HeldError, match=rf"is being trained by process {os.getpid()} on {socket.gethostname()}, since 20"
    ):
        second.acquire()
    second.release()
    assert (tmp_path / "lock").exists(), "it is not its to release"
    first.release()
    second.acquire()
    second.release()
    assert os.listdir(tmp_path) == []


def test_a_lock_whose_holder_is_dead_is_taken_over_at_once(tmp_path):
    with holding(tmp_path / "lock") as holder, pytest.raises(HeldError, match=f"process {holder.pid} "):
        Lock(tmp_path / "lock").acquire()
    Lock(tmp_path / "lock").acquire()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == ["lock"]


def test_a_number_used_again_is_another_process(tmp_path):
    mine = Lock(tmp_path / "lock")
    mine.acquire()
    held = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps({**held, "born": "1"}))
    Lock(tmp_path / "lock").acquire()


# --- several at once ---


@pytest.mark.parametrize("moment", range(11))
@pytest.mark.parametrize("gives_back", [False, True], ids=["and keeps it", "and gives it back"])
def test_another_takes_over_between_any_two_steps(moment, gives_back, tmp_path, monkeypatch):
    """This process finds a dead holder; before its n-th step another one does all of it. Only one holds it then."""
    left_by(tmp_path / "lock", host=socket.gethostname(), born="1")
    first, second, had = Lock(tmp_path / "lock"), Lock(tmp_path / "lock"), []

    def intrude(number):
        if number == moment and not had:
            had.append("")
            try:
                second.acquire()
                had.append("second")
            except HeldError:
                return
            if gives_back:
                second.release()
                had.remove("second")

    with monkeypatch.context() as patched:
        calls(patched, intrude)
        try:
            first.acquire()
            had.append("first")
        except HeldError:
            pass
    assert had[0] == "", "it has so many steps"
    assert len(had[1:]) == 1
    holder = first if had[-1] == "first" else second
    holder.verify()
    assert os.listdir(tmp_path) == ["lock"]
    holder.release()
    assert os.listdir(tmp_path) == []


class Stepwise(threading.Thread):
    """Asks for a lock, and goes on by as many of `calls` as it is told."""

    def __init__(self, asking):
        super().__init__(daemon=True)
        self.lock, self.has_it, self.ended, self.left = asking, False, False, 0
        self.goes, self.rests = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def run(self):
        self.goes.acquire()
        with contextlib.suppress(HeldError):
            self.lock.acquire()
            self.has_it = True
        self.ended = True
        self.rests.release()

    def pause(self):
        """Before each of its calls."""
        if self.left == 0:
            self.rests.release()
            self.goes.acquire()
        self.left -= 1

    def go(self, steps):
        if not self.ended:
            self.left = steps
            self.goes.release()
            assert self.rests.acquire(timeout=60)


@pytest.mark.parametrize("found", ["nothing", "a dead holder", "a dead claim"])
def test_of_two_one_gets_it_wherever_they_are_held_up(found, tmp_path, monkeypatch):
    """One takes some steps, another some of its own, the first all that are left, and then the other."""
    calls(monkeypatch, lambda _: isinstance(thread := threading.current_thread(), Stepwise) and thread.pause())
    for some, others in itertools.product(range(STEPS), repeat=2):
        path = tmp_path / f"{some} {others}" / "lock"
        path.parent.mkdir()
        if found != "nothing":
            left_by(path, host=socket.gethostname(), born="1")
        if found == "a dead claim":
            left_by(path.with_name(f"lock.after.{'0' * 32}"), token="1" * 32, host=socket.gethostname(), born="1")
        first, second = Stepwise(Lock(path)), Stepwise(Lock(path))
        for thread, steps in ((first, some), (second, others), (first, 1000), (second, 1000)):
            thread.go(steps)
        [holder] = [thread.lock for thread in (first, second) if thread.has_it]
        holder.verify()
        assert os.listdir(path.parent) == ["lock"]
        holder.release()
        assert os.listdir(path.parent) == []


@pytest.mark.parametrize("step", range(14))
def test_a_process_killed_on_its_way_to_a_dead_lock_is_in_nobodys_way(step, tmp_path, monkeypatch):
    left_by(tmp_path / "lock", host=socket.gethostname(), born="1")
    if (pid := os.fork()) == 0:
        calls(monkeypatch, lambda number: number == step and os._exit(0))
        Lock(tmp_path / "lock").acquire()
        os._exit(0)
    os.waitpid(pid, 0)
    mine = Lock(tmp_path / "lock")
    mine.acquire()
    mine.verify()
    assert os.listdir(tmp_path) == ["lock"]
    mine.release()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", race.DEATHS)
def test_of_eight_one_gets_it(name, tmp_path):
    assert race.race(name, 50, tmp_path).good


# --- holders that cannot be looked up ---


def test_a_holder_elsewhere_is_dead_once_it_has_made_no_progress_for_so_long(tmp_path, capsys, waits):
    left_by(tmp_path / "lock")
    Lock(tmp_path / "lock", gone=0.4).acquire()
    assert waits == [0.4 / lock.LOOKS] * lock.LOOKS
    said = (
        f"{tmp_path}/lock is held by process {os.getpid()} on elsewhere, since 2026-01-01, which cannot be looked up "
    )
    assert capsys.readouterr().err == f"{said}from here; it is taken over after 0 s without a sign of life\n"


def test_a_holder_elsewhere_that_makes_progress_keeps_it(tmp_path, waits):
    held = pytest.raises(HeldError, match="by process .* on elsewhere, since 20")
    with holding(tmp_path / "lock", "elsewhere"), held:
        Lock(tmp_path / "lock", gone=20).acquire()
    assert len(waits) < lock.LOOKS, "the first sign of life is enough"


@pytest.mark.parametrize("shift", [-200, 200, 10**6])
def test_clocks_do_not_matter(shift, tmp_path, monkeypatch):
    """This machine's clock is wrong, or the file server's: a living holder keeps the lock, a dead one does not."""
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + shift)
    with holding(tmp_path / "lock", "elsewhere"), pytest.raises(HeldError):
        Lock(tmp_path / "lock", gone=20).acquire()
    for moment in (clock() - shift, clock() + shift):
        os.utime(tmp_path / "lock", (moment, moment))
        mine = Lock(tmp_path / "lock", gone=0.2)
        mine.acquire()
        mine.release()
        left_by(tmp_path / "lock")


def namespaces():
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    for prefix in (unshare, [unshare[0], "--user", "--map-root-user", *unshare[1:]]):
        try:
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                return prefix
        except OSError:
            break
    return None


def test_the_same_number_in_another_pid_namespace_is_another_process(tmp_path):
    """As of two containers on one machine: host and boot are the same, numbers mean nothing."""
    if (prefix := namespaces()) is None:
        pytest.skip("this system makes no PID namespaces")
    with holding(tmp_path / "lock", prefix=prefix):
        assert json.loads((tmp_path / "lock").read_text())["host"] == socket.gethostname()
        with pytest.raises(HeldError):
            Lock(tmp_path / "lock", gone=20).acquire()
    Lock(tmp_path / "lock", gone=0.5).acquire()


@pytest.mark.parametrize("field", ["boot", "namespace"])
def test_a_number_is_looked_up_only_where_it_means_the_same(field, tmp_path, waits):
    """The boot of another machine of this name, or of this one before; a namespace, where none can be made."""
    with holding(tmp_path / "lock"):
        said = (tmp_path / "lock").read_bytes()
        value = json.loads(said)[field].encode()
        with open(tmp_path / "lock", "r+b") as file:  # in place: the holder's file stays the same
            file.seek(said.index(value))
            file.write(value[:-3] + b"xyz")
        with pytest.raises(HeldError):
            Lock(tmp_path / "lock", gone=20).acquire()
    waits.clear()
    Lock(tmp_path / "lock", gone=0.5).acquire()
    assert len(waits) == lock.LOOKS, "not at once, though no process has its number now"


def test_a_lock_as_it_was_before_tokens(tmp_path):
    """Of a process of an earlier version, which touched its file: so long as it does, it holds the run."""
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 7, "born": "1", "since": "2026-01-01"}))
    over = threading.Event()

    def touch():
        while not over.wait(0.05):
            os.utime(tmp_path / "lock")

    (toucher := threading.Thread(target=touch)).start()
    with pytest.raises(HeldError, match="process 7 on elsewhere"):
        Lock(tmp_path / "lock", gone=20).acquire()
    over.set()
    toucher.join()
    Lock(tmp_path / "lock", gone=0.3).acquire()


# --- a holder that has lost it ---


def test_a_holder_that_was_taken_for_dead_finds_out(tmp_path):
    first, second = Lock(tmp_path / "lock", beat=0.02), Lock(tmp_path / "lock", gone=0.2)
    first.acquire()
    first.verify()
    left_by(tmp_path / "lock")  # as if it were elsewhere, and stopped
    second.acquire()
    with pytest.raises(HeldError, match=rf"{tmp_path} was taken over by process {os.getpid()} on .*; nothing more is"):
        first.verify()
    before = (tmp_path / "lock").read_bytes()
    time.sleep(0.1)
    assert (tmp_path / "lock").read_bytes() == before, "its signs of life are not another's"
    first.release()
    second.verify()
    second.release()
    second.verify()  # nothing to ask for where nothing is held


def test_it_is_lost_as_soon_as_another_has_claimed_it(tmp_path, monkeypatch):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock", gone=0.1)
    first.acquire()
    monkeypatch.setattr(lease.Lease, "alive", lambda self: False)

    def look(*_):
        with pytest.raises(HeldError, match="was taken over"):
            first.verify()
        first.release()
        monkeypatch.undo()
        raise InterruptedError

    monkeypatch.setattr(os, "replace", look)  # the step after its claim
    with pytest.raises(InterruptedError):
        second.acquire()
    assert os.listdir(tmp_path) == ["lock"], "what broke off left nothing; the first did not remove what it had lost"


def test_a_lock_that_somebody_removed_is_lost(tmp_path):
    mine = Lock(tmp_path / "lock")
    mine.acquire()
    (tmp_path / "lock").unlink()
    with pytest.raises(HeldError, match="lock is gone: somebody removed it; nothing more is written"):
        mine.verify()
    mine.release()


# --- files that are no locks ---

HUGE = '{"host": "a", "since": "b", "pid": %s}'
NOTHING = [
    "",
    "{",
    "[]",
    "{}",
    "7",
    "\x00\xff",
    "[" * 10**5,
    HUGE % "1e999",
    HUGE % ("9" * 30),
    HUGE % '"7"',
    HUGE % -1,
]


@pytest.mark.parametrize("text", NOTHING, ids=lambda text: text[:20] or "empty")
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, text, monkeypatch, capsys):
    monkeypatch.setattr(lock, "UNREADABLE", 0.1)
    (tmp_path / "lock").write_text(text)
    assert Lock(tmp_path / "lock").holder() is None
    Lock(tmp_path / "lock").acquire()
    assert "/lock says nothing; it is taken over after 0 s without a sign of life" in capsys.readouterr().err


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/etc/hostname")])
def test_what_is_no_file_is_named(tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(ConfigError, match=rf"lock={tmp_path}/lock: is not a regular file, .*; remove it"):
        Lock(tmp_path / "lock").acquire()
    assert Lock(tmp_path / "lock").holder() is None
    assert os.listdir(tmp_path) == ["lock"]


def test_without_hard_links(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.os, "link", unknown)
    left_by(tmp_path / "lock", host=socket.gethostname(), born="1")
    Lock(tmp_path / "lock").acquire()
    with pytest.raises(HeldError):
        Lock(tmp_path / "lock").acquire()
    assert os.listdir(tmp_path) == ["lock"]
