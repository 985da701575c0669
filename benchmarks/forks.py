"""Functions in processes of their own, so that none can stop or disturb the others.

They are forked from a process that has imported everything, which takes no time, and that has not touched CUDA, which
no forked process could use then.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from sparse_train.errors import first_line

PR_SET_PDEATHSIG = 1  # of Linux
FORK = multiprocessing.get_context("fork")


class NotHereError(Exception):
    """What cannot be tried on this machine, with the reason."""


class FailedError(Exception):
    """What went wrong in another process."""


class Forked:
    """Runs `work(*arguments)`, a generator; what it yields comes back as it comes."""

    def __init__(self, work: Callable[..., Iterator], *arguments: Any):
        self.end, theirs = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=_serve, args=(theirs, work, arguments))
        self.process.start()
        theirs.close()

    def results(self, seconds: float) -> Iterator[Any]:
        """What it yields; after so many seconds its process and all that this has started are killed.

        Raises:
            NotHereError, FailedError: as it raised one, or ended, or took longer.
        """
        last = time.monotonic() + seconds
        try:
            while True:
                if not self.end.poll(max(last - time.monotonic(), 0)):
                    raise FailedError(f"it took longer than {seconds:.0f} s")
                try:
                    result, error = self.end.recv()
                except EOFError:
                    self.process.join()
                    raise FailedError(f"its process ended with status {self.process.exitcode}") from None
                if error is not None:
                    raise error
                if result is None:
                    return
                yield result
        finally:
            self.stop()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()


def _serve(end: Connection, work: Callable[..., Iterator], arguments: tuple) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with the process that started it
    try:
        for result in work(*arguments):
            end.send((result, None))
        end.send((None, None))
    except NotHereError as error:
        end.send((None, error))
    except BaseException as error:
        end.send((None, FailedError(f"{type(error).__name__}: {first_line(error)}")))
