"""The output of a command: a progress bar on a terminal, plain lines elsewhere."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from numbers import Real
from typing import Any

from tqdm import tqdm

_quiet = False
_speaker = ""


def quiet(value: bool) -> None:
    """Whether this process keeps silent, since another one speaks for it."""
    global _quiet
    _quiet = value


@contextmanager
def piped() -> Iterator[None]:
    """Around a command: end it quietly where its reader has gone, as behind `| head`, with the status of SIGPIPE; and
    with one line where its output cannot be written, as on a full disk."""
    if sys.stdout is None:  # closed before, as by `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        give_up_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        try:
            print(flush=True)  # is it stdout that cannot be written?
        except OSError:
            give_up_stdout()
            print(f"error: stdout cannot be written ({error.strerror})", file=STDERR)
            sys.exit(1)
        raise


def give_up_stdout() -> None:
    """Once it cannot be written: else Python fails once more, when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def speak_as(name: str) -> Iterator[None]:
    """Within, every line begins with the name: several runs speak side by side. Nothing changes for an empty one."""
    global _speaker
    before, _speaker = _speaker, name
    try:
        yield
    finally:
        _speaker = before


class Stderr:
    """The program's stderr, which may go while a run trains: a closed terminal, a full disk under the log.

    A message that cannot be written is dropped, since the record has what counts.
    """

    encoding = "utf-8"

    def write(self, text: str) -> None:
        self._tried("write", text)

    def flush(self) -> None:
        self._tried("flush")

    def isatty(self) -> bool:
        return bool(self._tried("isatty"))

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def _tried(self, name: str, *arguments: str) -> Any:
        with suppress(OSError, ValueError, AttributeError):  # the last two: closed, and None where it was closed before
            return getattr(sys.stderr, name)(*arguments)


STDERR = Stderr()


def say(line: str) -> None:
    """Write one line to stderr, newline included, so that it splits no progress bar and no line of another process."""
    if not _quiet:
        tqdm.write(f"{_speaker}  {line}\n" if _speaker else f"{line}\n", file=STDERR, end="")


class RunBar:
    """One bar for the whole run, if somebody watches: steps done, time left, the best test accuracy so far.

    Args:
        epochs: of the run.
        steps: in each.
        done: steps before this process began.
    """

    def __init__(self, epochs: int, steps: int, done: int = 0):
        hidden = _quiet or bool(_speaker) or not STDERR.isatty()
        kind = {"unit": "step", "leave": False, "file": STDERR, "disable": hidden, "dynamic_ncols": True}
        self.epochs = epochs
        self.bar = tqdm(total=epochs * steps, initial=done, **kind)

    def step(self) -> None:
        self.bar.update()

    def at(self, epoch: int, best: float | None, doing: str = "training") -> None:
        """Which epoch it is, counted from 1; and the best accuracy in percent, None before the first test."""
        self.bar.set_description(f"epoch {epoch}/{self.epochs} {doing}", refresh=False)
        self.bar.set_postfix_str("" if best is None else f"best {best:.2f}%")

    def close(self) -> None:
        self.bar.close()


class EpochLog:
    """A line per epoch, but no more than one in two seconds: short epochs are not worth a line each."""

    def __init__(self, epochs: int, seconds: float = 2.0):
        self.epochs, self.seconds, self.last = epochs, seconds, -math.inf

    def tell(self, row: dict) -> None:
        now = time.monotonic()
        if now - self.last >= self.seconds or row["epoch"] == self.epochs:
            self.last = now
            say(epoch_line(row, self.epochs))


def epoch_line(row: dict, epochs: int) -> str:
    """One epoch on one line."""
    waiting = f"  waiting for data {row['data_wait']:.0%}" if "data_wait" in row else ""
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
        f"  train loss {row['train_loss']:.4f} acc {row['train_acc']:5.2f}%"
        f"  test loss {row['test_loss']:.4f} acc {row['test_acc']:5.2f}%"
        f"  ITOP {row['itop_rate']:.2%}  {row['images_per_second']:,.0f} img/s{waiting}"
    )


def closing_line(record: dict) -> str:
    """The result of a run on one line: a training run's accuracy, else a measurement's final numbers."""
    final = record.get("final", {})
    if "test_acc" not in final:
        numbers = {key: value for key, value in final.items() if isinstance(value, Real)}
        words = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in numbers.items())
        return ": ".join(filter(None, [record.get("status", "nothing was recorded"), words]))
    epochs = "1 epoch" if final["epoch"] == 1 else f"{final['epoch']} epochs"
    time_taken = tqdm.format_interval(record["seconds"])
    return (
        f"{record['status']}: test accuracy {final['test_acc']:.2f}% after {epochs} in {time_taken}"
        f" (ITOP {final['itop_rate']:.2%}, sparsity {final['realised_sparsity']:.2%})"
    )
