"""One run, one record: `runs/<id>/record.json`, `history.jsonl`, and the lock of who is training it."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sparse_train.errors import ConfigError, HeldError
from sparse_train.process.console import say
from sparse_train.process.distributed import Ranks
from sparse_train.record import files, integrity, segments
from sparse_train.record.files import write_json, write_json_lines
from sparse_train.record.lease import now
from sparse_train.record.lock import Lock

FORMAT = 1
FINISHED = ("complete", "diverged")


class Record:
    """What a run leaves behind.

    `record.json` holds id, status (running, complete, diverged, failed), configuration, final and best metrics, what
    `describe` says of code and machine (of the last process, and of each in `segments`), and SHA-256 of the `files` of
    a finished run; `history.jsonl` one line per epoch. Accuracies are in percent.

    Args:
        runs_dir: the parent of all runs.
        id: of this run (`config.run_id`); names its directory.
        fresh: ignore an earlier attempt, and delete it when this one starts.
        ranks: the processes of the run: the first one writes, all agree on what was there.
    """

    def __init__(self, runs_dir: str, id: str, fresh: bool = False, ranks: Ranks | None = None):  # noqa: A002
        self.id, self.fresh, self.ranks = id, fresh, ranks or Ranks()
        self.dir = Path(runs_dir, id)
        self.content = {} if fresh else self._read()
        self.history: list[dict] = []
        self.lock = Lock(self.dir / "lock")

    @property
    def status(self) -> str | None:
        """None where there is no readable record."""
        return self.content.get("status")

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do: the run has a result."""
        return self.status in FINISHED

    @contextlib.contextmanager
    def held(self) -> Iterator[contextlib.ExitStack]:
        """Create and lock the directory; read the record again, which others may have written since.

        A run that breaks off with an exception inside is recorded as failed, with the reason. Before each file is put
        in place the lock is verified: a process that has lost the run writes nothing more. Yields a stack of callbacks,
        called after the record is final and before the lock is released.

        Raises:
            HeldError: for a run that another process is training.
            ConfigError: for a runs directory that cannot be written.
        """
        self.content = self.ranks.from_main(self._take)
        with contextlib.ExitStack() as ending:
            ending.callback(self.lock.release)
            ending.enter_context(files.checked(self.dir, self.lock.verify))
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

    def _empty(self) -> None:
        """Delete what is there, first of all the record: a record that says complete has everything beside it."""
        for path in sorted(self.dir.iterdir(), key=lambda path: path.name != "record.json"):
            if path != self.lock.path:
                self.lock.verify()
                if path.is_dir() and not path.is_symlink():  # remove a link, never its target
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def start(self, history: list[dict], steps: int = 0, **metadata) -> None:
        """The run starts, or resumes after the epochs in `history` and so many steps of the next.

        Args:
            metadata: what the record says of it besides.
        """
        self.history = list(history)
        made_by = segments.begun(self.content, metadata, len(history), steps)
        if len(made_by) > 1 and made_by[-2].get("code") != metadata.get("code"):
            say(f"{self.dir}: resuming with different code ({segments.code(made_by[-2])}; now {metadata.get('code')})")
        started = self.content.get("started") or made_by[0]["started"]
        self.content = {"format": FORMAT, "id": self.id, "status": "running", "started": started, **metadata}
        self.content["segments"] = made_by
        self._write()

    def append(self, row: dict) -> None:
        """One epoch is done."""
        self.history.append(row)
        self._write()

    def finish(self, status: str, **metadata) -> None:
        """The last word: complete, diverged or failed."""
        self.content |= {"status": status, "ended": now(), **metadata}
        if status == "complete" and "segments" in self.content:
            self.content["segments"] = segments.ended(self.content["segments"], len(self.history))
            self.content |= segments.provenance(self.content["segments"][-1])
        if self.ranks.main:
            if self.finished:
                self.content["files"] = integrity.digests(self.dir)
            write_json(self.dir / "record.json", self.content)

    def mend(self, history: list[dict]) -> None:
        """Files of a finished run were written again: so is its history, and what the record says of all of them."""
        self.history = history
        self._write()
        self.finish(self.status, ended=self.content.get("ended"))

    def measured(self, rows: list[dict], final: dict, **metadata) -> None:
        """A measurement that is done at once: `rows` are its history, `final` its final numbers."""
        self.history = rows
        self._write()
        self.finish("complete", final=final, **metadata)

    def _write(self) -> None:
        if self.history:
            self.content |= integrity.results(self.history)
        if self.ranks.main:
            if self.history:  # first: a record that says complete has all its epochs beside it
                write_json_lines(self.dir / integrity.HISTORY, self.history)
            write_json(self.dir / "record.json", self.content)

    def _read(self) -> dict:
        path = self.dir / "record.json"
        if path.exists() and not path.is_file():
            raise ConfigError("record", str(path), "is not a regular file; move it away")
        try:
            content = files.read_json(path)
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) and content.get("id") == self.id else {}
