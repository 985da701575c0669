"""One process per run: a lock file that says who holds it, and outlives nobody."""

import contextlib
import errno
import os
import secrets
import threading
import time
from pathlib import Path

from sparse_train.errors import ConfigError, HeldError
from sparse_train.process.console import say
from sparse_train.record import lease
from sparse_train.record.files import create, temporary_name
from sparse_train.record.lease import Lease

BEAT = 20.0  # seconds between signs of life
GONE = 180.0  # seconds without one after which a holder that cannot be looked up counts as dead
LOOKS = 180  # so many looks at it in that time
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # not on this file system
UNREADABLE = 5.0  # seconds after which a file that says nothing is not one that is just being written


class Lock:
    """`<run>/lock`: a lease, which names its holder by a token that no other lease ever has.

    Made by exclusive links and renames alone, which network file systems do atomically too. (`filelock`'s lease does
    not serve: it takes over by renameat2, which NFS refuses, so that a killed job would block its run there for ever.)

    A holder on this host, boot and PID namespace is dead when its process is gone, and alive as long as it is there.
    Any other is judged by its progress: it counts up in its file every 20 seconds, and counts as dead once this process
    has seen no change in 180 looks over three minutes of its own clock. So neither another machine's clock nor the time
    of a file matters, and a file server that hangs does not make a holder look dead.

    Who finds a dead holder puts its own lease into `lock.after.<token of the dead>`: exclusively, so of several one
    succeeds. From then on it holds the run, and renames that file to `lock`. If it dies between the two, its own lease
    is the dead one that the next may follow. So the holder is the last of `lock`, `lock.after.<its token>`, ..., and a
    living lease is never moved away: who acts on what it saw long ago finds a `lock` with another token.

    A holder calls `verify` before each write; `release` checks too. One race remains, between that check and the rename
    or removal after it: a holder elsewhere that stalls there for three minutes may still complete it.

    Args:
        path: of the file.
        gone, beat: in place of `GONE` and `BEAT`.
    """

    def __init__(self, path: Path, gone: float | None = None, beat: float | None = None):
        self.path = path
        self.gone = GONE if gone is None else gone
        self.beat = BEAT if beat is None else beat
        self._token: str | None = None
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Take the lock. Where the holder cannot be looked up, this says so and takes up to `gone` seconds.

        Raises:
            HeldError: says who holds it and since when.
            ConfigError: for something in the lock's place that is no file.
        """
        self._token = secrets.token_hex(16)
        try:
            self._take(self._token)
            self._stop = threading.Event()
            descriptor = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW)
            threading.Thread(target=self._live, args=(descriptor, self._stop), daemon=True).start()
            self._tidy()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give it back; nothing where it is not held, or held by another by now."""
        self._stop.set()
        token, self._token = self._token, None
        if token is None:
            return
        with contextlib.suppress(OSError, ConfigError):  # what stays is the lease of a process that ends
            chain = self._chain()
            if chain and chain[-1].token == token:
                (self._after(chain[-2]) if chain[1:] else self.path).unlink(missing_ok=True)

    def verify(self) -> None:
        """Make sure that it is still held; nothing where it never was.

        Raises:
            HeldError: says who holds it now. This process must write nothing more.
        """
        if self._token is None:
            return
        chain = self._chain()
        if not chain:
            raise HeldError(f"{self.path} is gone: somebody removed it; nothing more is written")
        if chain[-1].token != self._token:
            raise HeldError(f"{self.path.parent} was taken over by {chain[-1]}; nothing more is written")

    def holder(self) -> dict | None:
        """Who holds it: host, pid, since. None where nobody alive does, or the file says nothing that can be read.

        For showing only: a holder that cannot be looked up counts as dead by the age of its file. Taking over goes by
        what `acquire` sees.
        """
        try:
            chain = self._chain()
        except (OSError, ConfigError):
            return None
        if not chain or not chain[-1].holder:
            return None
        alive = chain[-1].alive()
        if alive is None:
            alive = time.time() - chain[-1].touched < self.gone
        return chain[-1].holder if alive else None

    def _chain(self) -> list[Lease]:
        """The leases, from the one in `lock` to the one that holds."""
        chain: list[Lease] = []
        path = self.path
        while (found := lease.read(path)) is not None and found.token not in _tokens(chain):
            chain.append(found)
            path = self._after(found)
        return chain

    def _after(self, dead: Lease) -> Path:
        return self.path.with_name(f"{self.path.name}.after.{dead.token}")

    def _take(self, token: str) -> None:
        step: Path | None = None
        while _tokens(chain := self._chain()) != [token]:
            if chain and chain[-1].token == token:  # it is ours already; now the others' go, the oldest first
                with contextlib.suppress(FileNotFoundError):
                    os.replace(self._after(chain[0]), self.path)
                continue
            if step not in (None, self.path) and token not in _tokens(chain):
                step.unlink(missing_ok=True)  # stale: it succeeds a dead lease that already had a successor
            if chain:
                self._outlive(chain[-1])
            step = self._put(self._after(chain[-1]) if chain else self.path, token)

    def _put(self, target: Path, token: str) -> Path | None:
        """Put a lease there, whole at once, and only if there is none; returns where, or None if there is one."""
        temporary = temporary_name(self.path)
        said = lease.text(token)
        try:
            create(temporary, said)
            os.link(temporary, target)
        except FileExistsError:
            return None
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise
            return None  # whoever got the lock meanwhile has tidied up
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            try:
                create(target, said)
            except FileExistsError:
                return None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return target

    def _outlive(self, other: Lease) -> None:
        """Return when that lease's holder is dead, or it has been followed by another.

        Raises:
            HeldError: it lives.
        """
        held = HeldError(f"{self.path.parent} is being trained by {other}")
        alive = other.alive() if other.holder else None
        if alive is not None:
            if alive:
                raise held
            return
        patience = self.gone if other.holder else min(self.gone, UNREADABLE)
        what = f"is held by {other}, which cannot be looked up from here" if other.holder else "says nothing"
        say(f"{self.path} {what}; it is taken over after {patience:.0f} s without a sign of life")
        for _ in range(LOOKS):
            time.sleep(patience / LOOKS)
            chain = self._chain()
            if not chain or chain[-1].token != other.token:
                return
            if chain[-1].mark != other.mark:
                raise held

    def _live(self, descriptor: int, stop: threading.Event) -> None:
        """Count up until the lock is given back or lost."""
        count = 0
        try:
            while not stop.wait(self.beat):
                with contextlib.suppress(OSError):  # a file server that hangs: try again
                    self.verify()
                    lease.beat(descriptor, count := count + 1)
        except (HeldError, ConfigError):  # the next write finds it too, and says so
            pass
        finally:
            os.close(descriptor)

    def _tidy(self) -> None:
        """Remove what the killed left on their way to the lock."""
        name, keep = self.path.name, f"{self.path.name}.after.{self._token}"
        for pattern in (f"{name}.after.*", f".{name}.*.tmp"):
            for path in self.path.parent.glob(pattern):
                if path.name != keep:
                    self.verify()
                    path.unlink(missing_ok=True)


def _tokens(chain: list[Lease]) -> list[str]:
    return [one.token for one in chain]
