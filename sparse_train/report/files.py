"""The results directory: one process writes it at a time, and each file whole or not at all."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure

from sparse_train.errors import ConfigError
from sparse_train.record.files import write_whole

PATIENCE = 600.0  # seconds to wait for another process; an artifact takes one of them, or a few
FORMULA = ("=", "+", "-", "@", "\t")  # what a spreadsheet takes for the beginning of a formula
GUARD = "'"  # before such a text; `unguarded` takes it away


@contextmanager
def held(results_dir: Path) -> Iterator[None]:
    """Lock the results directory, so that nothing changes between reading results and writing what depends on them.

    Raises:
        ConfigError: for a directory that cannot be written, and one that another process does not give back.
    """
    lock = FileLock(results_dir / ".lock")
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        _acquire(lock, results_dir)
        try:
            yield
        finally:
            lock.release()
    except Timeout as error:
        raise ConfigError("results_dir", str(results_dir), "another process still holds its lock") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ConfigError("results_dir", str(results_dir), f"cannot be written ({where}{error.strerror})") from error


def _acquire(lock: FileLock, results_dir: Path) -> None:
    try:
        lock.acquire(timeout=1.0)
    except Timeout:
        print(f"waiting for another process that writes {results_dir}", file=sys.stderr, flush=True)
        lock.acquire(timeout=PATIENCE)


def write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())


def write_table(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """As CSV. A text that a spreadsheet would compute gets an apostrophe before it; a number is a number."""
    write_text(path, guarded(table).to_csv(index=False, float_format=float_format))


def write_figure(path: Path, figure: Figure) -> None:
    """In the format that the name ends in. Drawn again from the same records, it is the same to the byte."""
    undated = {".pdf": {"CreationDate": None}, ".png": {"Software": None}, ".svg": {"Date": None}}[path.suffix]
    drawn = BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], metadata=undated)
    write_whole(path, drawn.getvalue())


def guarded(table: pd.DataFrame) -> pd.DataFrame:
    return _texts(table, _guarded)


def _guarded(text: str) -> str:
    text = text.replace("\r", " ")  # which the csv module does not quote, and some readers take for the end of a line
    return GUARD + text if text.startswith(FORMULA) and not _is_number(text) else text


def unguarded(table: pd.DataFrame) -> pd.DataFrame:
    """The texts as they were before `write_table`."""
    return _texts(table, lambda text: text[1:] if text[:1] == GUARD and text[1:].startswith(FORMULA) else text)


def _texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """Columns of numbers are left alone, and so is every table without a text that changes."""
    changed = {
        column: table[column].map(lambda value: change(value) if isinstance(value, str) else value)
        for column in table.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]]
    }
    return table.assign(**{key: new for key, new in changed.items() if not new.equals(table[key])})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
