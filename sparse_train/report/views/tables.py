"""Tables: ours, the paper's number and the difference, with the number of runs behind each cell.

Every table is made once, as a list of `Cell`s, and written as Markdown, LaTeX and CSV.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from sparse_train.report import sweeps
from sparse_train.report.paper import value as paper_value
from sparse_train.report.views.labels import label, name
from sparse_train.report.views.spread import mean_std

HOLE = "·"  # of a cell without a complete run
NUMBER = re.compile(r"^Table \d+\. ")  # LaTeX numbers tables itself
# What LaTeX would not print as it stands.
LATEX = str.maketrans(
    {
        **{character: "\\" + character for character in "$#&%_{}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "\n": " ",
        "±": r"$\pm$",
    }
)


@dataclass(frozen=True)
class Cell:
    """One cell: accuracies in percent over seeds, or a hole.

    Attributes:
        mean, std: of our complete runs; the sample standard deviation, None for fewer than two.
        n, expected: our complete runs, and how many there should be.
        paper: the paper's (mean, std), where it has the cell and the scale is the paper's.
    """

    mean: float | None
    std: float | None
    n: int
    expected: int
    paper: tuple[float, float] | None

    @property
    def difference(self) -> float | None:
        return None if self.mean is None or self.paper is None else self.mean - self.paper[0]


@dataclass(frozen=True)
class Table:
    """Cells by row and column; a row is a tuple of factor values, the first of which groups the rows."""

    rows: list[str]  # factors
    columns: str  # factor
    cells: dict[tuple[str, ...], dict[str, Cell]]
    column_labels: dict[str, str]
    compared: bool
    methods: dict[str, str]  # optimizers that this sweep calls otherwise
    judged: bool = True  # a rehearsal has no best

    def labels(self, row: tuple[str, ...]) -> list[str]:
        return [label(factor, value, self.methods) for factor, value in zip(self.rows, row, strict=True)]

    def best(self, row: tuple[str, ...], column: str) -> bool:
        """Whether this is our highest mean among the rows that share all but the last factor; never in a rehearsal."""
        peers = [cells[column].mean for other, cells in self.cells.items() if other[:-1] == row[:-1]]
        means = [round(mean, 2) for mean in peers if mean is not None]
        mean = self.cells[row][column].mean
        return self.judged and mean is not None and round(mean, 2) == max(means)


def make(
    runs: pd.DataFrame,
    rows: list[str],
    columns: str,
    value: str,
    paper: str | None,
    scale: str,
    methods: dict[str, str] | None = None,
) -> Table:
    """Group runs into cells, in the order the sweep has them.

    Args:
        paper: the paper's table to compare with; only runs of the paper's scale are compared.
        methods: words for optimizers that are something else in this sweep.
    """
    compared = paper is not None and scale == "paper"
    across = list(runs[columns].unique())
    cells: dict[tuple[str, ...], dict[str, Cell]] = {}
    for row in sorted(set(runs[rows].itertuples(index=False, name=None)), key=_place(runs, rows)):
        here = runs[(runs[rows] == list(row)).all(axis=1)]
        cells[row] = {c: _cell(here[here[columns] == c], value, paper if compared else None) for c in across}
    rehearsed = columns == "epochs" and scale != "paper"
    labels = {c: label(columns, c) + (trained(runs, c) if rehearsed else "") for c in across}
    return Table(rows, columns, cells, labels, compared, methods or {}, not sweeps.is_rehearsal(scale))


def _place(runs: pd.DataFrame, rows: list[str]):
    orders = [list(runs[factor].unique()) for factor in rows]
    return lambda row: [order.index(value) for order, value in zip(orders, row, strict=True)]


def _cell(runs: pd.DataFrame, value: str, paper: str | None) -> Cell:
    if runs.empty:  # the grid is no full product
        return Cell(None, None, 0, 0, None)
    present = runs[value].dropna() if value in runs else pd.Series(dtype=float)
    mean = float(present.mean()) if len(present) else None
    std = float(present.std()) if len(present) > 1 else None
    factors = {key: str(runs[key].iloc[0]) for key in ("dst", "sparsity", "optimizer", "epochs") if key in runs}
    return Cell(mean, std, len(present), len(runs), paper_value(paper, **factors))


def trained(runs: pd.DataFrame, epochs: str) -> str:
    """How many epochs a smaller scale makes of these, where a run of them is complete."""
    here = runs.loc[runs["epochs"] == epochs, "trained_epochs"].dropna() if "trained_epochs" in runs else ()
    return f" (here {int(here.iloc[0])})" if len(here) else ""


def markdown(table: Table) -> str:
    """A Markdown table that is also readable as it stands in a terminal."""
    lines = [[*map(name, table.rows), *table.column_labels.values()]]
    for row, cells in table.cells.items():
        texts = [_plain(cell, table.best(row, column)) for column, cell in cells.items()]
        lines.append([*table.labels(row), *texts])
    return aligned(lines)


def _plain(cell: Cell, best: bool) -> str:
    ours = HOLE if cell.mean is None else f"{_bold(mean_std(cell.mean, cell.std), best)} ({_count(cell)})"
    if cell.paper is None:
        return ours
    difference = "" if cell.difference is None else f", {cell.difference:+.2f}"
    return f"{ours}; paper {mean_std(*cell.paper)}{difference}"


def _count(cell: Cell) -> str:
    return f"n={cell.n}" if cell.n == cell.expected else f"n={cell.n} of {cell.expected}"


def explained(table: Table) -> str:
    """How to read a cell, in one sentence or two."""
    paper = "; then the paper's number, and ours minus it" if table.compared else ""
    best = ", best mean in bold" if table.judged else ""
    return f"Ours: mean ± standard deviation over n runs{best}{paper}. A dot: no complete run."


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def aligned(lines: list[list[str]]) -> str:
    """A Markdown table whose columns line up; what would end a cell or a line is escaped."""
    lines = [[" ".join(text.split("\n")).replace("|", r"\|") for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    rows = [lines[0], rule, *lines[1:]]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows) + "\n"


def latex(table: Table, caption: str) -> str:
    """booktabs, in the paper's row order, our best in bold; the paper's number and the difference below ours.

    It is no wider than a line of the page. The caption loses the number that LaTeX counts itself.
    """
    first, last = len(table.rows) + 1, len(table.rows) + len(table.column_labels)
    across = rf"\multicolumn{{{last - first + 1}}}{{c}}{{{_escape(name(table.columns))}}}"
    over = " & " * len(table.rows) + across + rf" \\ \cmidrule{{{first}-{last}}}"
    head = " & ".join(map(_escape, [*map(name, table.rows), *table.column_labels.values()]))
    body, before = [], None
    for row, cells in table.cells.items():
        if before is not None and row[0] != before:
            body.append(r"\midrule")
        words = [*map(_escape, table.labels(row))]
        if row[0] == before:
            words[0] = ""
        ours = " & ".join([*words, *(_latex_ours(cell, table.best(row, column)) for column, cell in cells.items())])
        body.append(ours + r" \\")
        if table.compared:
            paper = [_latex_paper(cell) for cell in cells.values()]
            body.append(" & ".join([*[""] * len(words), *paper]) + r" \\")
        before = row[0]
    columns = "l" * len(table.rows) + "c" * len(table.column_labels)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(NUMBER.sub('', caption).rstrip('.'))}. {_escape(explained(table))}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            over,
            head + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _latex_ours(cell: Cell, best: bool) -> str:
    if cell.mean is None:
        return r"$\cdot$"
    text = f"${mean_std(cell.mean, cell.std, plus_minus=chr(92) + 'pm ')}$"
    return (rf"\boldmath{text}" if best else text) + rf" {{\scriptsize ({_count(cell)})}}"


def _latex_paper(cell: Cell) -> str:
    if cell.paper is None:
        return ""
    difference = "" if cell.difference is None else f"\\ (${cell.difference:+.2f}$)"
    return rf"{{\scriptsize paper ${mean_std(*cell.paper, plus_minus=chr(92) + 'pm ')}$}}{difference}"


def _escape(text: str) -> str:
    return text.translate(LATEX)


def tidy(table: Table) -> pd.DataFrame:
    """One line per cell."""
    return pd.DataFrame(_tidy_rows(table))


def _tidy_rows(table: Table) -> Iterable[dict]:
    for row, cells in table.cells.items():
        for column, cell in cells.items():
            paper = cell.paper or (None, None)
            yield {
                **dict(zip(table.rows, row, strict=True)),
                table.columns: column,
                "mean": cell.mean,
                "std": cell.std,
                "n": cell.n,
                "expected": cell.expected,
                "paper_mean": paper[0],
                "paper_std": paper[1],
                "difference": cell.difference,
            }
