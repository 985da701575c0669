"""The output of a command: a progress bar on a terminal, plain lines elsewhere."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from numbers import Real
from typing import Any

from tqdm import tqdm

WIDE = 200  # columns of a table where there is no terminal: nothing is cut or wrapped
PACE = 5  # epochs whose mean time is the pace of a run

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

    def tell(self, history: Sequence[dict]) -> None:
        """The last epoch of a history."""
        now = time.monotonic()
        if now - self.last >= self.seconds or history[-1]["epoch"] == self.epochs:
            self.last = now
            say(epoch_line(history, self.epochs))


def epoch_line(history: Sequence[dict], epochs: int) -> str:
    """The last epoch of a history, in 80 columns: loss and accuracies, `*` after the best so far, lr, time left."""
    row, lately = history[-1], [one["seconds"] for one in history[-PACE:]]
    best = all(row["test_acc"] > one["test_acc"] for one in history[:-1])
    words = [
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
        f"train {row['train_loss']:.3f} {row['train_acc']:4.1f}%",
        f"test {row['test_acc']:5.2f}%{'*' if best else ' '}",
        f"lr {row['lr']:<7.3g}" if row["lr"] >= 0.001 or row["lr"] == 0 else f"lr {row['lr']:.1e}",
        f"{span((epochs - row['epoch']) * sum(lately) / len(lately)):>5} left",
    ]
    words += [f"wait {row['data_wait']:3.0%}"] if "data_wait" in row else []
    return "  ".join(words)


def span(seconds: float) -> str:
    """`90h`, `3h05m`, `12m`, `40s`."""
    minutes = round(seconds / 60)
    if minutes >= 600:
        return f"{round(minutes / 60):,}h"
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m" if seconds >= 90 else f"{seconds:.0f}s"


def closing_block(record: dict, files: Sequence[str], following: str | None) -> list[str]:
    """The result of a training run that stands alone: best and last accuracy, time, files, and the next command."""
    final, best = record["final"], record["best"]
    epochs = "1 epoch" if final["epoch"] == 1 else f"{final['epoch']:,} epochs"
    rows = {
        "best": f"test accuracy {best['test_acc']:.2f}% in epoch {best['epoch']}",
        "last": f"test accuracy {final['test_acc']:.2f}%"
        f" (sparsity {final['realised_sparsity']:.2%}, ITOP {final['itop_rate']:.2%})",
        "time": f"{span(record['seconds'])} for {epochs}; {final['images_per_second']:,.0f} images per second",
        "files": ", ".join(files),
        "next": following,
    }
    return [f"{record['status']}: {record['name']}", *(f"  {key:5}  {words}" for key, words in rows.items() if words)]


def closing_line(record: dict) -> str:
    """The result of one run of a sweep: a training run's accuracy, else a measurement's final numbers."""
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


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str], words: Sequence[int] = (0, -1)
) -> None:
    """Print rows in columns, numbers to the right, and their total under a line.

    Args:
        head: the names of the columns.
        total: of each column.
        words: the places of the columns that are words, which go to the left.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    left = {place % len(head) for place in words}
    shown = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    for place, (name, foot) in enumerate(zip(head, total, strict=True)):
        shown.add_column(name, footer=foot, justify="left" if place in left else "right", no_wrap=place == 0)
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else WIDE).print(shown)
