"""One process per run: a locked file, which names its owner and is free once that process has ended in any way."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import time
from pathlib import Path

from sparse_train.errors import HeldError
from sparse_train.process.console import say
from sparse_train.record.files import now, read_json

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # from a file system that has none
BRIEFLY = 0.5  # seconds for which a look by `holder` may be in the way
SIZE = 512  # bytes that an owner writes, filled up with spaces: of two at once one's text stands, whole

_open: set[int] = set()  # descriptors that forks must not keep, or a killed process's children would hold its lock
os.register_at_fork(after_in_child=lambda: [os.close(_open.pop()) for _ in range(len(_open))])


class Lock:
    """`<run>/lock`: the file is locked by `flock` while this process has the run, and holds host, pid and time.

    On a file system without locks the last process to come has the run, and says so. The earlier one ends when it
    verifies, before it would write a record. That wastes work and harms nothing: both compute the same numbers.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._token = secrets.token_hex(16)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            HeldError: says who holds it and since when.
        """
        ends = time.monotonic() + BRIEFLY
        while not self._took():
            if time.monotonic() > ends:
                raise HeldError(f"{self.path.parent} is being trained by {_words(self._owner())}")
            time.sleep(0.02)

    def release(self) -> None:
        """Give it back; nothing where it is not held, or held by another by now."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError, HeldError):  # a file that stays blocks nothing
            self.verify()
            self.path.unlink()
        _close(self._descriptor)
        self._descriptor = None

    def verify(self) -> None:
        """Make sure that it is still held; nothing where it never was.

        Raises:
            HeldError: says who holds it now. This process must write nothing more.
        """
        if self._descriptor is None:
            return
        if not self._is_at_path(self._descriptor):
            raise HeldError(f"{self.path} was removed or replaced; nothing more is written")
        owner = self._owner()
        if owner.get("token") != self._token:
            raise HeldError(f"{self.path.parent} was taken over by {_words(owner)}; nothing more is written")

    def holder(self) -> dict | None:
        """Who holds it: host, pid, since; empty for an owner who has not written it yet. None where nobody does.

        For showing. Without locks, a killed process seems to hold it still.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        locked, owner = _locked(descriptor, fcntl.LOCK_SH), self._owner()
        os.close(descriptor)
        return None if locked or (locked is None and not owner) else owner

    def _took(self) -> bool:
        """Whether this process has it now, its name in the file; not if the file was removed meanwhile."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
        _open.add(descriptor)
        try:
            locked = _locked(descriptor, fcntl.LOCK_EX)
            if locked is False or not self._is_at_path(descriptor):
                return False
            if locked is None and (before := self._owner()):
                right = "this file system has no locks, so the run is taken over; that process ends, if it still lives"
                say(f"warning: {self.path.parent} was being trained by {_words(before)}; {right}")
            owner = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "since": now()}
            os.pwrite(descriptor, json.dumps(owner).encode().ljust(SIZE), 0)
            os.ftruncate(descriptor, SIZE)
            self._descriptor = descriptor
            return True
        finally:
            if self._descriptor is None:
                _close(descriptor)

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _owner(self) -> dict:
        """What the owner wrote; empty for what nobody of ours wrote."""
        try:
            owner = read_json(self.path)
            return owner if {"host", "pid", "since"} <= owner.keys() else {}
        except (OSError, ValueError, AttributeError):
            return {}


def _close(descriptor: int) -> None:
    _open.discard(descriptor)
    os.close(descriptor)


def _locked(descriptor: int, how: int) -> bool | None:
    """Whether `flock` took it; None on a file system without locks."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.ESTALE):  # the last: removed on another machine
            return False
        raise
    return True


def _words(owner: dict) -> str:
    return "process {pid} on {host}, since {since}".format(**owner) if owner else "another process"
