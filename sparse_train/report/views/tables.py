"""Tables: ours, the paper's number and the difference, with the number of runs behind each cell.

A table is made once, as a frame with one row per cell, and written as Markdown, LaTeX and CSV.
"""

import re
from dataclasses import dataclass

import pandas as pd

from sparse_train.report import sweeps
from sparse_train.report.paper import value as paper_value
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import label, name

HOLE = "·"  # of a cell without a complete run
GAINS = {"sparseopt-sgd": ("sparseopt", "sgd"), "sparseopt_ham-ham": ("sparseopt_ham", "ham")}  # differences of rows
NUMBER = re.compile(r"^Table \d+\. ")  # LaTeX numbers tables itself
NEGATIVE = re.compile(r"(?<!\w)-(?=\d)")
# What LaTeX would not print as it stands.
LATEX = str.maketrans(
    {
        **{character: "\\" + character for character in "$#&%_{}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "\n": " ",
        "±": r"$\pm$",
        HOLE: r"$\cdot$",
    }
)


@dataclass(frozen=True)
class Table:
    """Accuracies in percent by row and column.

    Attributes:
        rows, columns: factors; a row is a tuple of factor values, the first of which groups the rows.
        cells: one row per cell, in the order of the sweep: the factors; `mean` and sample standard deviation `std` over
            our `n` complete runs of the `expected` ones; `paper_mean` and `paper_std`, where the paper has the cell and
            the scale is the paper's; the `difference` of the means; whether ours is the `best` mean among the rows that
            share all but the last factor. A row of `GAINS` is a difference of two rows, paired over `n` seeds, with the
            95% interval from `low` to `high`.
        labels: words for the columns.
        methods: words for optimizers that are something else in this sweep.
        judged: a rehearsal has no best cell and no differences.
    """

    rows: list[str]
    columns: str
    cells: pd.DataFrame
    labels: dict[str, str]
    compared: bool
    methods: dict[str, str]
    judged: bool

    def words(self, row: tuple[str, ...]) -> list[str]:
        """The labels of a row."""
        return [
            " minus ".join(label(factor, one, self.methods) for one in GAINS.get(value, (value,)))
            for factor, value in zip(self.rows, row, strict=True)
        ]

    def lines(self, cells: pd.DataFrame | None = None) -> dict[tuple[str, ...], dict[str, pd.Series]]:
        """Cells by row and column."""
        found: dict[tuple[str, ...], dict[str, pd.Series]] = {}
        for _, cell in (self.cells if cells is None else cells).iterrows():
            found.setdefault(tuple(cell[self.rows]), {})[cell[self.columns]] = cell
        return found


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
    compared, judged, by = paper is not None and scale == "paper", not sweeps.is_rehearsal(scale), [*rows, columns]
    runs = runs.assign(**{value: pd.to_numeric(runs[value]) if value in runs else float("nan")})
    groups = runs.groupby(by, sort=False)
    cells = groups[value].agg(mean="mean", std="std", n="count", expected="size").reset_index()
    known = [_papers(paper if compared else None, group.iloc[0]) for _, group in groups]
    cells[["paper_mean", "paper_std"]] = pd.DataFrame(known, index=cells.index, dtype=float)
    cells["difference"] = cells["mean"] - cells["paper_mean"]
    peers = [*rows[:-1], columns]
    cells["best"] = judged & (cells["mean"].round(2) == cells.groupby(peers)["mean"].transform("max").round(2))
    order = {key: list(runs[key].unique()) for key in by}
    if judged and rows[-1] == "optimizer" and "seed" in runs:
        cells = pd.concat([cells, *_gains(runs, cells, peers, value)], ignore_index=True)
        order["optimizer"] += GAINS
    cells = cells.sort_values(by, key=lambda values: values.map(order[values.name].index)).reset_index(drop=True)
    rehearsed = columns == "epochs" and scale != "paper"
    labels = {c: label(columns, c) + (trained(runs, c) if rehearsed else "") for c in order[columns]}
    return Table(rows, columns, cells, labels, compared, methods or {}, judged)


def _papers(paper: str | None, run: pd.Series) -> tuple[float | None, float | None]:
    factors = {key: str(run[key]) for key in ("dst", "sparsity", "optimizer", "epochs") if key in run}
    return paper_value(paper, **factors) or (None, None)


def _gains(runs: pd.DataFrame, cells: pd.DataFrame, peers: list[str], value: str) -> list[pd.DataFrame]:
    """What one optimizer gains over another, where runs of both share a seed."""
    by_seed = runs.pivot_table(values=value, index=[*peers, "seed"], columns="optimizer", sort=False)
    papers = cells.pivot(index=peers, columns="optimizer", values="paper_mean")
    made = []
    for key, (more, less) in GAINS.items():
        if not {more, less} <= set(by_seed):
            continue
        gain = (by_seed[more] - by_seed[less]).dropna()
        found = {peer: statistics.mean(values) for peer, values in gain.groupby(peers, sort=False)}
        if found:
            frame = pd.DataFrame(list(found.values()), pd.MultiIndex.from_tuples(found, names=peers)).drop(columns="p")
            frame["paper_mean"] = papers[more] - papers[less]
            made.append(frame.reset_index().assign(optimizer=key, best=False, expected=frame["n"].to_numpy()))
    return made


def trained(runs: pd.DataFrame, epochs: str) -> str:
    """How many epochs a smaller scale makes of these, where a run of them is complete."""
    here = runs.loc[runs["epochs"] == epochs, "trained_epochs"].dropna() if "trained_epochs" in runs else ()
    return f" (here {int(here.iloc[0])})" if len(here) else ""


def _ran(table: Table) -> tuple[pd.DataFrame, str]:
    """The cells of the rows and columns that have a complete run, or all where none has; and words for the missing."""
    done = table.cells["n"] > 0
    rows, columns = (table.cells.loc[done, by].drop_duplicates() for by in (table.rows, table.columns))
    shown = table.cells.merge(rows).merge(columns.to_frame()) if done.any() else table.cells
    own = ~table.cells[table.rows[-1]].isin(GAINS)
    missing = f"{(own & ~done).sum()} of {own.sum()} cells are not run yet."
    return shown, "" if done[own].all() else missing


def markdown(table: Table) -> str:
    """A Markdown table that is also readable as it stands in a terminal."""
    shown, missing = _ran(table)
    columns = [column for column in table.labels if column in set(shown[table.columns])]
    texts = [[*map(name, table.rows), *(table.labels[column] for column in columns)]]
    texts += [
        [*table.words(row), *(_plain(cells.get(c)) for c in columns)] for row, cells in table.lines(shown).items()
    ]
    return "\n".join(filter(None, (f"{missing}\n" if missing else "", aligned(texts))))


def _plain(cell: pd.Series | None) -> str:
    if cell is None:
        return HOLE
    text = f"**{ours(cell)}**{count(cell)}" if cell["best"] else f"{ours(cell)}{count(cell)}"
    return "; paper ".join(filter(None, (text, papers(cell))))


def ours(cell: pd.Series) -> str:
    """`61.00 ± 1.00`, or a difference with its interval, `+1.20 [+0.41, +1.99]`; a dot for a hole."""
    if not cell["n"]:
        return HOLE
    if cell.get("optimizer") not in GAINS:
        return mean_std(cell["mean"], cell["std"])
    return f"{cell['mean']:+.2f}" + (f" [{cell['low']:+.2f}, {cell['high']:+.2f}]" if cell["n"] > 1 else "")


def count(cell: pd.Series) -> str:
    """` (n=3)`: the runs or pairs of runs behind it."""
    of = "" if cell["n"] == cell["expected"] else f" of {cell['expected']}"
    return f" (n={cell['n']}{of})" if cell["n"] else ""


def papers(cell: pd.Series) -> str:
    """The paper's number, and ours minus it where both are known."""
    if pd.isna(cell["paper_mean"]):
        return ""
    if cell.get("optimizer") in GAINS:
        return f"{cell['paper_mean']:+.2f}"
    difference = "" if pd.isna(cell["difference"]) else f", {cell['difference']:+.2f}"
    return mean_std(cell["paper_mean"], cell["paper_std"]) + difference


def mean_std(mean: float, std: float | None) -> str:
    """`61.00 ± 1.00`; the mean alone where there is no deviation."""
    return f"{mean:.2f}" if std is None or pd.isna(std) else f"{mean:.2f} ± {std:.2f}"


def explained(table: Table) -> str:
    """How to read a cell, in one sentence or two."""
    paper = "; then the paper's number, and ours minus it" if table.compared else ""
    best = ", best mean in bold" if table.judged else ""
    gains = table.cells.get("optimizer", pd.Series()).isin(GAINS).any()
    paired = " A difference of methods is paired over n seeds, with its 95% interval." if gains else ""
    dots = " A dot: no complete run." if (_ran(table)[0]["n"] == 0).any() else ""
    return f"Ours: mean ± standard deviation over n runs{best}{paper}.{paired}{dots}"


def aligned(lines: list[list[str]]) -> str:
    """A Markdown table whose columns line up; what would end a cell or a line is escaped."""
    lines = [[" ".join(text.split("\n")).replace("|", r"\|") for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    rows = [lines[0], rule, *lines[1:]]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows) + "\n"


def latex(table: Table, caption: str) -> str:
    """booktabs, in the paper's row order, our best in bold, and the paper's number with the difference below ours.

    It is no wider than a line of the page. The caption loses the number that LaTeX counts itself.
    """
    shown, missing = _ran(table)
    columns = [column for column in table.labels if column in set(shown[table.columns])]
    body, bold = {}, {}
    for row, cells in table.lines(shown).items():
        words = tuple(table.words(row))
        body[*words, "ours"] = [f"{ours(cells[c])}{count(cells[c])}" if c in cells else HOLE for c in columns]
        bold[*words, "ours"] = [c in cells and bool(cells[c]["best"]) for c in columns]
        if table.compared:
            body[*words, "paper"] = [papers(cells[c]) if c in cells else "" for c in columns]
            bold[*words, "paper"] = [False] * len(columns)
    names, heads = [*map(name, table.rows), ""], [table.labels[column] for column in columns]
    index = pd.MultiIndex.from_tuples(body, names=names)
    frame = pd.DataFrame(list(body.values()), index, pd.Index(heads, name=name(table.columns)))
    weight = pd.DataFrame(list(bold.values()), index, frame.columns)
    styled = frame.style.apply(lambda _: weight.map(lambda best: "textbf:--rwrap" if best else ""), axis=None)
    styled = styled.format(_escape).format_index(_escape).format_index(_escape, axis="columns")
    styled = styled.format_index_names(_escape).format_index_names(_escape, axis="columns")
    if not table.compared:
        styled = styled.hide(level=len(names) - 1)
    text = f"{NUMBER.sub('', caption).rstrip('.')}. {explained(table)} {missing}".rstrip()
    alignment = "l" * (len(names) - (not table.compared)) + "c" * len(columns)
    tabular = styled.to_latex(hrules=True, column_format=alignment, multirow_align="naive", multicol_align="c")
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(text)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            tabular.rstrip() + "}",
            r"\end{table}",
            "",
        ]
    )


def _escape(text: str) -> str:
    return NEGATIVE.sub("$-$", text.translate(LATEX))


def tidy(table: Table) -> pd.DataFrame:
    """One line per cell."""
    return table.cells.drop(columns="best")
