"""Programs of this package in forks of a server that has imported them, where a fresh Python takes five seconds for it.

The server is `multiprocessing`'s: it starts with the first program and ends with the process that runs the tests. A
test of how a program starts, or of a variable that a library reads on import, starts a fresh Python instead.
"""

import atexit
import gc
import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import sparse_train

ROOT = Path(__file__).parents[2]
MODULES = [found.name for found in pkgutil.walk_packages(sparse_train.__path__, "sparse_train.")]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([name for name in MODULES if not name.endswith("__main__")])


class Program:
    """`python -m MODULE WORD...`, or `python FILE WORD...`, as a process whose output goes into files.

    Args:
        command: as for `subprocess`, the interpreter first.
        environment: variables on top of those of this process.
    """

    def __init__(self, command: Sequence[str], **environment: str):
        self.command = [*command]
        self.files = [tempfile.NamedTemporaryFile("r") for _ in range(2)]  # noqa: SIM115  (stdout and stderr)
        names = [file.name for file in self.files]
        self.process = FORKS.Process(target=_main, args=(self.command[1:], {**os.environ, **environment}, names))
        self.process.start()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.join()

    def said(self) -> str:
        """On stderr, so far."""
        return Path(self.files[1].name).read_text()

    def finish(self, timeout: float = 600) -> subprocess.CompletedProcess:
        """Wait for its end, or raise `subprocess.TimeoutExpired`."""
        with self:
            self.process.join(timeout)
            if self.process.exitcode is None:
                raise subprocess.TimeoutExpired(self.command, timeout)
        return subprocess.CompletedProcess(self.command, self.process.exitcode, *(file.read() for file in self.files))


def run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess:
    return Program(command, **environment).finish()


def attend(command: Sequence[str], **_) -> int:
    """In place of `sparse_train.report.launch.child.attend`, which starts the training command."""
    done = run(command)
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


def _main(words: Sequence[str], environment: dict[str, str], streams: Sequence[str]) -> None:
    """In the fork, as if at a prompt in the repository's root."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one
    gc.freeze()  # what the server imported, so that no collection walks through it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for stream, name in enumerate(streams, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), stream)
    module = words[0] == "-m"
    sys.argv = [*words[module:]]
    try:
        if module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a fork leaves them out
