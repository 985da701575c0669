"""Let the n-th system call that changes a directory end the process, or fail."""

import errno
import os
import threading
from pathlib import Path

CALLS = ("fsync", "link", "replace", "unlink")
FAULTS = {
    "killed": "the process ends there",
    "EIO": "that call fails, once",
    "ENOSPC": "that call and all later ones that need room fail",
}


class Injector:
    """Counts the main thread's calls on files of a directory, and does its worst at one of them.

    Args:
        directory: whose files count, also those further down.
        at: the number of the call, from 0; None to count only.
        fault: one of `FAULTS`.
    """

    def __init__(self, directory: Path, at: int | None = None, fault: str = "killed"):
        self.directory, self.at, self.fault, self.calls = str(directory), at, fault, 0

    def install(self) -> None:
        """For the rest of the process."""
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call):
        def wrapped(*args, **kwargs):
            if self._counts(args):
                self._strike(name)
            return call(*args, **kwargs)

        return wrapped

    def _counts(self, args: tuple) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return False
        path = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else os.fspath(args[-1])
        return os.path.abspath(path).startswith(self.directory)

    def _strike(self, name: str) -> None:
        number, self.calls = self.calls, self.calls + 1
        if self.at is None or number < self.at:
            return
        if self.fault == "killed":
            os._exit(1)
        if number == self.at or (self.fault == "ENOSPC" and name != "unlink"):
            code = getattr(errno, self.fault)
            raise OSError(code, os.strerror(code))
