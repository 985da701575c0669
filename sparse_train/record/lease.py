"""Who holds a lock: what its file says, and whether that process is still there."""

import errno
import hashlib
import json
import os
import re
import socket
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sparse_train.errors import ConfigError

UNKNOWN = "unknown"
NEEDED = {"host": str, "pid": int, "since": str}
TOKEN = re.compile("[0-9a-f]{32}")
SIZE = 4096  # bytes; a lease is shorter
BEAT = "0000000000"  # the count of signs of life: of one length, so that it is written in place


@dataclass(frozen=True)
class Lease:
    """What a lock's file says.

    Attributes:
        token: names this lease and no other, ever.
        holder: host, pid, since and the rest; empty where the file says nothing that can be read.
        mark: changes with every sign of life. It is only compared with an earlier one, so no clock matters.
        touched: when the file was last written, by the clock of its file system.
    """

    token: str
    holder: dict
    mark: tuple[bytes, int]
    touched: float = field(compare=False)

    def __str__(self) -> str:
        return (
            "process {pid} on {host}, since {since}".format(**self.holder)
            if self.holder
            else "somebody whose lease cannot be read"
        )

    def alive(self) -> bool | None:
        """Whether its process is there. None where this process cannot know.

        Only a process of the same host, the same boot and the same PID namespace can be looked up: elsewhere its number
        belongs to another process, or to none. Of two boots under one host name, the earlier may be another machine of
        the same name, so it is not taken for dead.
        """
        if any(value == UNKNOWN or self.holder.get(key) != value for key, value in place().items()):
            return None
        there, then = born(self.holder["pid"]), self.holder.get("born")
        if there is None:
            return False
        return None if UNKNOWN in (there, then) else there == then  # else: the number is that of another process now


def text(token: str) -> bytes:
    """A lease of this process, with no sign of life yet."""
    pid = os.getpid()
    said = {"token": token, **place(), "pid": pid, "born": born(pid), "since": now(), "beat": BEAT}
    return json.dumps(said).encode()


def beat(descriptor: int, count: int) -> None:
    """Give a sign of life in an open lease of this process: in place, so that it can never touch another's file."""
    place_of_count = os.fstat(descriptor).st_size - len(BEAT) - len('"}')
    os.pwrite(descriptor, f"{count:0{len(BEAT)}d}".encode(), place_of_count)
    os.fsync(descriptor)


def read(path: Path) -> Lease | None:
    """The lease at a path; None where there is no file.

    Raises:
        ConfigError: for what is not a regular file, such as a directory or a pipe.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a pipe does not hold us up
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise _misplaced(path) from error
        raise
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise _misplaced(path)
        said = os.read(descriptor, SIZE)
    finally:
        os.close(descriptor)
    holder = _parsed(said)
    token = str(holder.get("token"))
    if not TOKEN.fullmatch(token):
        token = hashlib.sha256(said).hexdigest()[:32]
    return Lease(token, holder, (said, about.st_mtime_ns), about.st_mtime)


def _misplaced(path: Path) -> ConfigError:
    return ConfigError("lock", str(path), "is not a regular file, so it locks nothing; remove it")


def _parsed(said: bytes) -> dict:
    try:
        holder = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(holder, dict) or any(type(holder.get(key)) is not kind for key, kind in NEEDED.items()):
        return {}
    words = [value for value in holder.values() if isinstance(value, str)]
    return holder if 0 < holder["pid"] < 2**31 and all(word.isprintable() for word in words) else {}


def place() -> dict[str, str]:
    """Where a process number means this process: the host, its boot, and the namespaces of numbers and start times."""
    return {
        "host": socket.gethostname(),
        "boot": _said(lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip()),
        "namespace": _said(lambda: f"{os.readlink('/proc/self/ns/pid')} {os.readlink('/proc/self/ns/time')}"),
    }


def _said(look) -> str:
    try:
        return look()
    except OSError:  # a system without /proc
        return UNKNOWN


def born(pid: int) -> str | None:
    """The process's start time by the kernel's clock, which tells a reused PID apart. None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if state in "ZX" else fields[18]
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return UNKNOWN  # there, but hidden from us, or a system without /proc


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
