"""What `${...}` in a configuration may refer to, so that a shared one cannot copy a secret into what a run leaves.

Values are checked before they are resolved. Interpolations of an allowed form are removed from the inside out; a value
that still contains one is refused.
"""

import re
from collections.abc import Iterator
from typing import Any

from sparse_train.errors import require

# Keys that hold a path: they alone may read the environment, and no other key may refer to them.
PATHS = ("data_dir", "runs_dir", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
VARIABLES = ("HOME", "USER", "TMPDIR", "SCRATCH", "WORK", "DATA", "DATA_DIR", "SLURM_TMPDIR", "SLURM_JOB_ID")
OWN = "SPARSE_TRAIN_"

DONE = "\0"  # stands where an interpolation was
INNERMOST = re.compile(r"\$\{([^${}]*)\}")
PART_OF_NODE = re.compile(r"\w+")
NODE = re.compile(r"\.*[A-Za-z]\w*(\.\w+|\[\w+\])*")
HYDRA = re.compile(r"hydra[:.]job\.(name|num|id|config_name)")
HYDRA_IN_PATHS = re.compile(r"hydra[:.](run\.dir|sweep\.(sub)?dir|runtime\.(cwd|output_dir)|job\.override_dirname)")
# What a reference from outside those keys may not pass through.
GUARDED = {"hydra", "data_dir", "runs_dir", "dir", "subdir", "runtime", "cwd", "output_dir", "override_dirname"}
NOW = re.compile(r"now:(%[YmdHMSfj]|[-\w:.])+")
ENVIRONMENT = re.compile(r"oc\.env:\s*(\w+)\s*(,[^\r\n]*)?")

NOT_HERE = "may not refer to this; see SECURITY.md"
NAMES = f"may read {', '.join(VARIABLES)}, or a variable whose name begins with {OWN}"


def check_interpolations(content: dict) -> None:
    """Refuse what refers to the environment, or by a resolver to something else, where that has no place.

    Args:
        content: a configuration, not resolved.

    Raises:
        ConfigError: names the key.
    """
    for key, text in strings(content):
        check_text(key, text)


def check_text(key: str, text: str) -> None:
    """The same for one value, or for what stands behind a key on the command line.

    Raises:
        ConfigError: names the key.
    """
    path = key in PATHS
    require(not path or text.isprintable(), key, repr(text), "must be a path of printable characters")
    rest = text
    while (found := INNERMOST.search(rest)) is not None:
        _check(key, text, found[1], path)
        rest = rest[: found.start()] + DONE + rest[found.end() :]
    require("${" not in rest, key, text, NOT_HERE)


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, string) of every string in it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from strings(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings(item, f"{key}[{index}]")


def _check(key: str, text: str, reference: str, path: bool) -> None:
    variable = ENVIRONMENT.fullmatch(reference)
    if path and variable:
        require(variable[1] in VARIABLES or variable[1].startswith(OWN), key, text, NAMES)
        return
    if any(form.fullmatch(reference) for form in (HYDRA, NOW, *([HYDRA_IN_PATHS] if path else []))):
        return
    parts = set(PART_OF_NODE.findall(reference))
    free = parts.isdisjoint({"hydra"} if path else GUARDED)
    require(free and NODE.fullmatch(reference) is not None, key, text, NOT_HERE)
