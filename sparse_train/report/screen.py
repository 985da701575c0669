"""Pages and tables on a terminal: set in columns there, plain lines of text in a file or pipe."""

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from rich.table import Table

WIDE = 200  # columns where there is no terminal: nothing is cut or wrapped


def progress(names: Sequence[str], words: str) -> Iterable[str]:
    """The names, with a bar on the terminal's error stream that goes when they are done; no bar without a terminal."""
    return track(names, words, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def show(text: str) -> None:
    """Print a page without its pictures: typeset on a terminal, as Markdown elsewhere."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("<picture>"))
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str]) -> None:
    """Print rows in columns, numbers to the right, and their total under a line.

    Args:
        head: the names of the columns; the first one and the last are words, all between are numbers.
        total: of each column.
    """
    shown = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    for place, (name, foot) in enumerate(zip(head, total, strict=True)):
        words = place in (0, len(head) - 1)
        shown.add_column(name, footer=foot, justify="left" if words else "right", no_wrap=place == 0)
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else WIDE).print(shown)
