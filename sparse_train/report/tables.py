"""Tables: mean, standard deviation over seeds, and how many runs stand behind each cell."""

import pandas as pd

from sparse_train.report.labels import label, name

HOLE = "missing"


def cell(values: pd.Series, expected: int) -> str:
    """`mean ± std (n)`; the sample standard deviation, left out for one run. A hole where nothing is there."""
    present = values.dropna()
    if present.empty:
        return HOLE
    spread = f" ± {present.std():.2f}" if len(present) > 1 else ""
    count = f"n={len(present)}" if len(present) == expected else f"n={len(present)} of {expected}"
    return f"{present.mean():.2f}{spread} ({count})"


def markdown(runs: pd.DataFrame, rows: str, columns: str, value: str) -> str:
    """One row per value of `rows`, one column per value of `columns`, in the order the sweep has them."""
    across = list(runs[columns].unique())
    lines = [[name(rows), *(f"{name(columns)} {label(columns, c)}" for c in across)]]
    for r in runs[rows].unique():
        groups = [runs[(runs[rows] == r) & (runs[columns] == c)] for c in across]
        values = [g.get(f"final_{value}", pd.Series(dtype=float)) for g in groups]
        lines.append([label(rows, r), *(cell(v, len(g)) for v, g in zip(values, groups, strict=True))])
    return _aligned(lines)


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    rows = [lines[0], rule, *lines[1:]]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows) + "\n"
