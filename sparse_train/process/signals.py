"""Signals that ask a run to stop are answered at the end of a step, when everything is as it should be."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
TWICE = 1.0  # seconds in which a second Ctrl-C is ignored: torchrun forwards the terminal's first one again


def heard(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Those of them that are not ignored, as SIGINT is in a shell's background job and SIGHUP under nohup."""
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


class SignalHandler:
    """While entered, notes SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 instead of acting on them.

    The loop looks at `received` after each step, saves, and calls `hand_over`, which does what would have happened
    without this class: it calls the handler that was installed before (submitit's, which requeues the job), or ends
    the program with status 128 + the signal's number. A signal still pending at the end of the block is handed over
    then, so none is lost. Signals that are ignored stay so (SIGINT in a shell's background job, SIGHUP under nohup).
    Outside the main thread signals cannot be caught; then none is noted.
    """

    def __init__(self):
        self.received: int | None = None
        self._at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in heard(SIGNALS)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """A failure after a signal is the signal's doing: other processes of the run hear it too, and end."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None or issubclass(kind, Exception):
            self.hand_over(self.received)

    def _note(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.received == number and time.monotonic() - self._at > TWICE:
            raise KeyboardInterrupt  # asked for twice: at once
        if self.received is None:
            self._at = time.monotonic()
        self.received = number

    def hand_over(self, number: int | None) -> None:
        """Do what the signal would have done here; may return, if its handler does. None: there was none."""
        self.received = None
        before = self._before.get(number, signal.SIG_IGN)
        if before in (signal.SIG_DFL, signal.default_int_handler):
            raise SystemExit(128 + number)
        if callable(before):
            before(number, None)


@contextlib.contextmanager
def sheltered() -> Iterator[None]:
    """Processes that are started inside do not hear the signals: the one that starts them ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
