"""The values of a sweep's grid, parsed as Hydra does, and those that a scale makes of them."""

from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser


def values(key: str, value: str) -> list[str]:
    """`a,b,c` or `range(3)` -> its values, by Hydra's own parser."""
    one = OverridesParser.create().parse_override(f"{key}={value}")
    return list(one.sweep_string_iterator()) if one.is_sweep_override() else [one.get_value_element_as_str()]


def extended(options: list[str], brings: dict) -> list[str]:
    """With the values that the scale has besides, after the one that brings them."""
    brought = {str(key): map(str, values) for key, values in brings.items()}
    return list(dict.fromkeys(value for option in options for value in (option, *brought.get(option, ()))))


@cache
def value(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def shrunk(options: list[str], replace: dict) -> list[tuple[str, str]]:
    """(as the sweep file has it, as it is run) for every value that the scale keeps."""
    mapping = {str(key): value for key, value in replace.items()}
    return [(one, str(now)) for one in options if (now := mapping.get(one, one)) is not None]
