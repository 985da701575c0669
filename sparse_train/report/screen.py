"""Pages on a terminal: typeset there, plain lines of text in a file or pipe."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track


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
