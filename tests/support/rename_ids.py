"""Rename committed runs by a table old id -> new id: `python -m support.rename_ids results/renamed_ids.csv`.

Ids and the names of keys that have moved are replaced where they stand in files below results/, and nothing else is.
A file that has been renamed stays as it is, so this may run again after a merge.
"""

import csv
import re
import sys
from pathlib import Path

ID = re.compile(r"(?<![\w.])[0-9a-f]{12}(?![\w.])")
MOVED = {
    "dst.rank_as": "dst.method.rank_as",
    "dst.rescale": "dst.method.rescale",
    "dst.gradient": "dst.method.gradient",
}


def table(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["old"]: row["new"] for row in csv.DictReader(file)}


def renamed(text: str, ids: dict[str, str]) -> str:
    for old, new in MOVED.items():
        text = text.replace(old, new)
    return ID.sub(lambda found: ids.get(found[0], found[0]), text)


def main() -> None:
    given = Path(sys.argv[1])
    ids = table(given)
    for path in sorted(given.parent.rglob("*")):
        if path.suffix in (".csv", ".md", ".yaml", ".tex") and path != given:
            before = path.read_bytes().decode()
            after = renamed(before, ids)
            if after != before:
                path.write_bytes(after.encode())
                print(path)


if __name__ == "__main__":
    main()
