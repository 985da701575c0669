"""The training command as a child of this process: its arguments, and how both of them stop."""

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from sparse_train.errors import require
from sparse_train.process.signals import heard
from sparse_train.record.files import expanded

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORD = r"""(?:[^\s'"]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")+"""


def overrides(text: str) -> list[str]:
    """Overrides that are separated by space; quotes keep it, and stay for Hydra: `data_dir='/my data'` is one.

    `~/` becomes the home directory.

    Raises:
        ConfigError: for a quote that is not closed.
    """
    require(not re.sub(WORD, "", text).strip(), "launch", text, "has a quote that is not closed")
    words = re.findall(WORD, text)
    return [expanded(word[1:-1] if word[0] in "'\"" and word[-1] == word[0] else word) for word in words]


def option(key: str, path: Path) -> str:
    """`key=path` for Hydra, quoted where the path has more than ASCII's letters, digits and `_./-`."""
    text = str(path)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return f"{key}={text}"
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text)
    return f"{key}='{escaped}'"


def attend(command: Sequence[str], **options) -> int:
    """Run a command and give its exit status.

    A signal that asks this process for an end is passed on, and the command waited for: it saves.

    Args:
        options: of `subprocess.Popen`.

    Raises:
        SystemExit: then, with 128 and the signal's number.
    """
    asked: list[int] = []
    child: subprocess.Popen | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if child is not None:
            child.terminate()

    before = {number: signal.signal(number, pass_on) for number in heard(ENDS)}
    try:
        child = subprocess.Popen(command, **options)
        if asked:
            child.terminate()
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        print("stopped: running trainings are saved; the same command resumes", file=sys.stderr)
        raise SystemExit(128 + asked[0])
    return code
