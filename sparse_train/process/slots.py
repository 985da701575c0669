"""Processes side by side that one launcher started: which of them is this?"""

import os
import socket
from functools import cache
from itertools import count


@cache
def slot() -> int:
    """The smallest number that no other living process of the same parent has; kept for this process's life.

    A number is a name of an abstract socket (Linux). One process holds it at a time. It is free once that process has
    ended, however it ended, and leaves no file.
    """
    for number in count():
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0sparse_train.{os.getuid()}.{os.getppid()}.{number}")
        except OSError:  # another one has it
            name.close()
            continue
        _kept.append(name)
        return number


_kept: list[socket.socket] = []
