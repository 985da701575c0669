"""What can go wrong in a run that is not a bug."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """A value that cannot work: says which key, what it was, and what would be right.

    A `ValueError` for those who import the pieces; the entrypoint prints it as one line and exits with 1.

    Args:
        key: the configuration key, or the argument of the same name.
        value: what was given.
        right: what would have been right, in words.
    """

    def __init__(self, key: str, value: object, right: str):
        super().__init__(f"{key}={value}: {right}")
        self.key, self.value, self.right = key, value, right

    def __reduce__(self) -> tuple:
        return ConfigError, (self.key, self.value, self.right)


class DivergedError(RuntimeError):
    """A loss, gradient or weight of a run is not finite."""


class MaskMismatchError(RuntimeError):
    """Masks do not fit: ranks differ, a checkpoint has others than configured, or they would zero trained weights."""


class ForeignError(Exception):
    """Code that is not ours failed while it was imported or constructed: its traceback is the cause, and is shown.

    Args:
        key: where in the configuration it stands.
        target: its dotted path.
        error: what it raised.
    """

    def __init__(self, key: str, target: object, error: Exception):
        super().__init__(f"{key}={target}: {type(error).__name__}: {error}")


class HeldError(RuntimeError):
    """Another process is training this very run."""


def require(condition: bool, key: str, value: object, right: str) -> None:
    """Raise `ConfigError(key, value, right)` unless the condition holds."""
    if not condition:
        raise ConfigError(key, value, right)


def require_one_of(key: str, value: object, options: Collection[str]) -> None:
    """Raise a `ConfigError` that lists the options unless the value is one of them."""
    require(value in options, key, value, f"must be one of {', '.join(options)}")


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its name where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def closest(word: str, known: Iterable[object]) -> str:
    """`; did you mean sparsity?`, or nothing where no known word is near."""
    near = get_close_matches(str(word), list(map(str, known)), n=1)
    return f"; did you mean {near[0]}?" if near else ""
