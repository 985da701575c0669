"""One run, one record: `runs/<id>/record.json`, `history.jsonl`, and the lock of the process that trains it."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sparse_train.errors import ConfigError, DivergedError, HeldError
from sparse_train.process.console import say
from sparse_train.process.distributed import Ranks
from sparse_train.record import files, integrity, segments
from sparse_train.record.files import now, write_json, write_json_lines
from sparse_train.record.lock import Lock
from sparse_train.source import training_code

FORMAT = 1
AGAIN = "resume=fresh trains it again"
ASIDE = "move it away, and the run goes on from its checkpoint, or start over with resume=fresh"
LOCKED = "nothing was changed; make it readable, or train elsewhere with another runs_dir"


class Record:
    """What a run leaves behind.

    `record.json` holds id, status (running, complete, diverged, failed), configuration, final and best metrics, what
    `describe` says of code and machine (of the last process, and of each in `segments`), and SHA-256 of the `files` of
    a finished run; `history.jsonl` one line per epoch, appended. Accuracies are in percent.

    Args:
        runs_dir: the parent of all runs.
        id: of this run (`config.run_id`); names its directory.
        fresh: ignore an earlier attempt, and delete it when this one starts. If this SLURM job made it, before it
            returned to the queue, the run resumes.
        ranks: the processes of the run: the first one writes, all agree on what was there.

    Raises:
        ConfigError: for a record that cannot be read, or is not this run's; it stays as it is.
    """

    def __init__(self, runs_dir: str, id: str, fresh: bool = False, ranks: Ranks | None = None):  # noqa: A002
        self.id, self.ranks = id, ranks or Ranks()
        self.dir = Path(runs_dir, id)
        self.fresh = fresh and not self.ranks.from_main(self._requeued)
        self.content = {} if fresh else self._read()
        self.history: list[dict] = []
        self.lock = Lock(self.dir / "lock")

    @property
    def status(self) -> str | None:
        """None where there is no record."""
        return self.content.get("status")

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do: the run has a result."""
        return self.status in integrity.FINISHED

    @contextlib.contextmanager
    def held(self) -> Iterator[contextlib.ExitStack]:
        """Create and lock the directory; read the record again, which others may have written since.

        A run that breaks off with an exception inside is recorded as failed, with the reason. Before each write of the
        record the lock is verified: a process that has lost the run ends. Yields a stack of callbacks, called after the
        record is final and before the lock is released.

        Raises:
            HeldError: for a run that another process is training.
            ConfigError: for a runs directory that cannot be written.
        """
        self.content = self.ranks.from_main(self._take)
        with contextlib.ExitStack() as ending:
            ending.callback(self.lock.release)
            try:
                yield ending
            except HeldError:  # lost to another process, which writes now
                raise
            except Exception as error:
                if self.status == "running":
                    with contextlib.suppress(OSError):  # the disk may be what failed
                        self.finish("failed", reason=f"{type(error).__name__}: {error}".splitlines()[0])
                raise

    def _take(self) -> dict:
        if self.fresh and self.dir.is_symlink():
            where = f"{self.dir} is a link to {os.path.realpath(self.dir)}"
            raise ConfigError("resume", "fresh", f"{where}, which is not ours to empty; remove the link")
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
        except OSError as error:
            raise ConfigError("runs_dir", str(self.dir.parent), f"cannot be written ({error.strerror})") from error
        try:
            files.remove_temporaries(self.dir)
            if not self.fresh:
                return self._read()
            self._empty()
            return {}
        except BaseException:
            self.lock.release()
            raise

    def _requeued(self) -> bool:
        """Whether this job trained the run before SLURM put it back into the queue."""
        with contextlib.suppress(ConfigError):
            job = os.environ.get("SLURM_JOB_ID")
            return os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and self._read().get("job", "") == job
        return False

    def _empty(self) -> None:
        """Delete what is there, first of all the record: a record that says complete has everything beside it."""
        for path in sorted(self.dir.iterdir(), key=lambda path: path.name != "record.json"):
            if path != self.lock.path:
                if path.is_dir() and not path.is_symlink():  # remove a link, never its target
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def start(self, history: list[dict], steps: int = 0, **metadata) -> None:
        """The run starts, or resumes after the epochs in `history` and so many steps of the next.

        Args:
            metadata: what the record says of it besides.
        """
        made_by = segments.begun(self.content, metadata, len(history), steps)
        if len(made_by) > 1 and made_by[-2].get("code") != metadata.get("code"):
            say(f"{self.dir}: resuming with different code ({segments.code(made_by[-2])}; now {metadata.get('code')})")
        started = self.content.get("started") or made_by[0]["started"]
        self.content = {"format": FORMAT, "id": self.id, "status": "running", "started": started, **metadata}
        self.content["segments"] = made_by
        if job := os.environ.get("SLURM_JOB_ID"):
            self.content["job"] = job
        self._put(history)

    def append(self, row: dict) -> None:
        """One epoch is done."""
        self.history.append(row)
        self.content |= results(self.history)
        if self.ranks.main:
            self.lock.verify()
            files.append(self.dir / integrity.HISTORY, files.json_line(row))
            write_json(self.dir / "record.json", self.content)

    def finish(self, status: str, **metadata) -> None:
        """The last word: complete, diverged or failed."""
        self.content |= {"status": status, "ended": now(), **metadata}
        if status == "complete" and "segments" in self.content:
            self.content["segments"] = segments.ended(self.content["segments"], len(self.history))
            self.content |= segments.provenance(self.content["segments"][-1])
        if self.ranks.main:
            if self.finished:
                self.content["files"] = integrity.digests(self.dir)
            self.lock.verify()
            write_json(self.dir / "record.json", self.content)

    def measured(self, rows: list[dict], final: dict, **metadata) -> None:
        """A measurement that is done at once: `rows` are its history, `final` its final numbers."""
        self._put(rows)
        self.finish("complete", final=final, **metadata)

    def _put(self, history: list[dict]) -> None:
        """The history is this one: lines of a lost attempt go, and one that a kill cut short."""
        self.history = list(history)
        self.content |= results(self.history)
        if self.ranks.main:
            self.lock.verify()
            if history:
                write_json_lines(self.dir / integrity.HISTORY, self.history)
            else:
                (self.dir / integrity.HISTORY).unlink(missing_ok=True)
            write_json(self.dir / "record.json", self.content)

    def _read(self) -> dict:
        path = self.dir / "record.json"
        try:
            content = files.read_json(path)
        except (FileNotFoundError, NotADirectoryError):  # the latter is the runs directory's fault, and told as such
            return {}
        except OSError as error:  # it may be the record of a finished run, of another user or on a failing disk
            raise ConfigError("record", str(path), f"cannot be read ({error.strerror}); {LOCKED}") from error
        except ValueError as error:
            raise ConfigError("record", str(path), f"cannot be read: it is damaged; {ASIDE}") from error
        if not isinstance(content, dict) or content.get("id") != self.id:
            raise ConfigError("record", str(path), f"is not the record of this run; {ASIDE}")
        return content


def results(history: list[dict]) -> dict:
    """The final numbers of a history: its last row, the one of the best accuracy, and the time."""
    if not history:
        return {}
    found = {"final": history[-1], "seconds": round(sum(row.get("seconds", 0.0) for row in history), 3)}
    if "test_acc" in history[-1]:
        found["best"] = max(history, key=lambda row: row["test_acc"])
    return found


def look_again(record: Record) -> None:
    """A finished run is launched again: report if other code made it, or if its files are not as it left them.

    Raises:
        DivergedError: for a run that did.
        ConfigError: names the files that were changed.
    """
    made_by, ours = segments.codes(record.content), training_code()
    if made_by not in ([], [ours]):
        several = f", from the start {' then '.join(made_by)}" if len(made_by) > 1 else ""
        say(f"{record.dir}: made by other code ({segments.code(record.content)}{several}; now {ours}); {AGAIN}")
    if record.status == "diverged":
        raise DivergedError(f"{record.dir}: {record.content['reason']}")
    if wrong := record.ranks.from_main(lambda: integrity.changed(record.dir, record.content)):
        closed = any(integrity.UNREADABLE in one for one in wrong)
        raise ConfigError("resume", "auto", f"{record.dir}: {', '.join(wrong)}; {LOCKED if closed else AGAIN}")
    if gone := integrity.deleted(record.dir, record.content):
        say(f"{record.dir}: {' and '.join(gone)} deleted since; the results stand, {AGAIN}")
