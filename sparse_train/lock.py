"""One process per run: a lock file that says who holds it, and outlives nobody."""

import json
import os
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from sparse_train.errors import HeldError

BEAT = 20.0  # seconds between signs of life
UNKNOWN = "unknown"
GONE = 180.0  # seconds without one after which the holder on another host counts as dead


class Lock:
    """`<run>/lock`: created exclusively, which network file systems do atomically too; no flock.

    It names host, process and start. The holder touches it every 20 seconds. It is taken over when its holder is a
    process of this host that is no longer there, or when a holder elsewhere gave no sign of life for three minutes.
    """

    def __init__(self, path: Path):
        self.path = path
        self._stop: threading.Event | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            HeldError: says who holds it and since when.
        """
        while not self._create():
            if (holder := self.holder()) is not None:
                who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
                raise HeldError(f"{self.path.parent} is being trained by {who}")
            self._put_aside()
        self._stop = threading.Event()
        threading.Thread(target=self._beat, args=(self._stop,), daemon=True).start()

    def release(self) -> None:
        """Give it back; nothing where it is not held."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None
            self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "since": now()}
        temporary = self.path.with_name(f".lock.{mine['host']}.{mine['pid']}.tmp")
        temporary.write_text(json.dumps(mine))
        try:
            os.link(temporary, self.path)  # whole at once, and only if there is none
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return self._create_exclusively(json.dumps(mine))
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _create_exclusively(self, text: str) -> bool:
        try:
            with open(self.path, "x") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True

    def holder(self) -> dict | None:
        """Who holds it: host, pid, since. None where nobody alive does, or the file says nothing that can be read."""
        try:
            holder = json.loads(self.path.read_text())
            return holder if {"host", "pid", "since"} <= set(holder) and _alive(holder, self.path) else None
        except (OSError, ValueError, TypeError):
            return None

    def _put_aside(self) -> None:
        """Of several that find a dead holder, one gets to move the file away."""
        aside = self.path.with_name(f".lock.stale.{socket.gethostname()}.{os.getpid()}")
        try:
            os.replace(self.path, aside)
        except FileNotFoundError:
            return
        aside.unlink(missing_ok=True)

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT):
            try:
                os.utime(self.path)
            except OSError:
                return


def _alive(holder: dict, path: Path) -> bool:
    if holder["host"] == socket.gethostname():
        born = _born(holder["pid"])
        return born is not None and (UNKNOWN in (born, holder.get("born")) or born == holder.get("born"))
    try:
        return time.time() - path.stat().st_mtime < GONE
    except FileNotFoundError:
        return False


def _born(pid: int) -> str | None:
    """When the process started, by the kernel's clock: a number used again is another process. None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{int(pid)}/stat").read_text().rsplit(")", 1)[1].split()
        return None if state in "ZX" else fields[18]
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return UNKNOWN
    except (OSError, ValueError):
        return None
    return UNKNOWN  # a system without /proc


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
