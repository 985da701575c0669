"""Signals that ask a run to stop are answered at the end of a step, when everything is as it should be."""

import os
import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interruption:
    """While entered, notes SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 instead of acting on them.

    The loop looks at `received` after each step, saves, and calls `hand_over`, which does what would have happened
    without this class: the handler that was installed before (submitit's, which requeues the job, or Python's
    KeyboardInterrupt), or the system's default. Signals that are ignored stay so (SIGINT in a shell's background job).
    Outside the main thread signals cannot be caught; then none is noted.
    """

    def __init__(self):
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.received == number:
            raise KeyboardInterrupt  # asked for twice: at once
        self.received = number

    def hand_over(self) -> None:
        """Do what the signal would have done; may return, if its handler does."""
        number, self.received = self.received, None
        if number is None:  # another process of the run was asked, and ends this one
            return
        before = self._before.get(number, signal.SIG_DFL)
        if callable(before):
            before(number, None)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            signal.signal(number, self._note)  # only if the default was to go on
