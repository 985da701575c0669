"""A package that is not in this repository: the files of `docs/your-own-method.md`, put where the page says."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-method.md").read_text()
COMMANDS = re.findall(r"^```sh\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)


def built(place: Path) -> Path:
    """Write the page's files below `place`, and give it."""
    for name, text in re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place
