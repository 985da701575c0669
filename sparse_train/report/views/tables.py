"""Tables: ours, the paper's number and the difference, with the number of runs behind each cell.

A table is made once, as a frame with one row per cell, and written as Markdown, LaTeX and CSV, and on the page.
"""

import re

import pandas as pd

from sparse_train.report import paper, sweeps
from sparse_train.report.sweeps import PAPER, Sweep
from sparse_train.report.views import columns, statistics
from sparse_train.report.views.columns import COLUMNS, HOLE
from sparse_train.report.views.labels import label, methods_of, name

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


class Table:
    """What the runs of a sweep have by row and column, in the order of the sweep.

    Attributes:
        rows, across: factors; a row is a tuple of factor values, the first of which groups the rows.
        more: columns (`views.columns`) whose text a cell has besides mean and standard deviation, each with its words.
        cells: one row per cell: the factors; `mean` and sample standard deviation `std` over our `n` complete runs of
            the `expected` ones; `paper_mean` and `paper_std`, where the paper has the cell and the scale is the
            paper's; the `difference` of the means; whether ours is the `best` mean among the rows that share all but
            the last factor; the numbers of `more`. A row of `GAINS` is a difference of two rows, paired over `n`
            seeds, with the 95% interval from `low` to `high`.
        labels: words for the columns.
        methods: words for optimizers that are something else in this sweep.
        compared: whether the paper's numbers stand beside ours.
        judged: a rehearsal has no best cell and no differences.
    """

    def __init__(self, sweep: Sweep, runs: pd.DataFrame):
        asked, published = sweep.artifact["table"], sweep.artifact.get("paper")
        self.rows, self.across, value = asked["rows"], asked["columns"], asked["value"]
        self.methods = methods_of(sweep)
        self.compared, self.judged = bool(published) and sweep.scale == PAPER, not sweeps.is_rehearsal(sweep.scale)
        self.more = {one: self._words(one, value) for one in asked.get("more", ())}
        by = [*self.rows, self.across]
        metrics = [value, *(columns.split(one)[1] for one in self.more)]
        runs = runs.assign(**{key: pd.to_numeric(runs[key]) if key in runs else float("nan") for key in metrics})
        groups = runs.groupby(by, sort=False)
        cells = groups[value].agg(**COLUMNS["mean"].numbers, n="count", expected="size")
        theirs = [paper.of_run(published, group.iloc[0]) if self.compared else None for _, group in groups]
        known = [one or (None, None) for one in theirs]
        cells[["paper_mean", "paper_std"]] = pd.DataFrame(known, index=cells.index, dtype=float)
        cells["difference"] = cells["mean"] - cells["paper_mean"]
        cells = pd.concat([cells, *(columns.numbers(one, groups) for one in self.more)], axis=1).reset_index()
        peers = [*self.rows[:-1], self.across]
        highest = cells.groupby(peers)["mean"].transform("max")
        cells["best"] = self.judged & (cells["mean"].round(2) == highest.round(2))
        order = {key: list(runs[key].unique()) for key in by}
        if self.judged and self.rows[-1] == "optimizer" and "seed" in runs:
            cells = pd.concat([cells, *_gains(runs, cells, peers, value)], ignore_index=True)
            order["optimizer"] += GAINS
        cells = cells.sort_values(by, key=lambda values: values.map(order[values.name].index))
        self.cells = cells.reset_index(drop=True)
        rehearsed = self.across == "epochs" and sweep.scale != PAPER
        self.labels = {c: label(self.across, c) + (trained(runs, c) if rehearsed else "") for c in order[self.across]}
        done, own = self.cells["n"] > 0, ~self.cells[self.rows[-1]].isin(GAINS)
        ran = [self.cells.loc[done, by].drop_duplicates() for by in (self.rows, [self.across])]
        # What stands on paper: the rows and columns with a complete run, or all where none has.
        self.ran = self.cells.merge(ran[0]).merge(ran[1]) if done.any() else self.cells
        self.heads = {one: text for one, text in self.labels.items() if one in set(self.ran[self.across])}
        self.missing = "" if done[own].all() else f"{(own & ~done).sum()} of {own.sum()} cells are not run yet."

    @staticmethod
    def _words(column: str, value: str) -> str:
        kind, metric = columns.split(column)
        return COLUMNS[kind].words if metric == value and COLUMNS[kind].words else name(column).replace("$", "")

    def words(self, row: tuple[str, ...]) -> list[str]:
        """The labels of a row."""
        return [
            " minus ".join(label(factor, one, self.methods) for one in GAINS.get(value, (value,)))
            for factor, value in zip(self.rows, row, strict=True)
        ]

    def grid(self, cells: pd.DataFrame) -> dict[tuple[str, ...], dict[str, pd.Series]]:
        """Cells by row and column."""
        found: dict[tuple[str, ...], dict[str, pd.Series]] = {}
        for _, cell in cells.iterrows():
            found.setdefault(tuple(cell[self.rows]), {})[cell[self.across]] = cell
        return found

    def texts(self, cell: pd.Series | None) -> dict[str, str]:
        """What a cell shows, by its words: `ours`, if there is a run; then what is known of `more` and of the `paper`.

        A difference has its interval, `+1.20 [+0.41, +1.99]`. The paper's number is followed by ours minus it.
        """
        if cell is None:
            return {}
        gain = cell.get("optimizer") in GAINS
        made = {"ours": ""}
        if cell["n"]:
            made["ours"] = _gain(cell) if gain else COLUMNS["mean"].text(cell["mean"], cell["std"])
        for column, words in self.more.items():
            kind, metric = columns.split(column)
            numbers = [cell[f"{key} {metric}"] for key in COLUMNS[kind].numbers]
            made[words] = "" if pd.isna(numbers[0]) else COLUMNS[kind].text(*numbers)
        if not pd.isna(cell["paper_mean"]):
            difference = "" if pd.isna(cell["difference"]) else f", {cell['difference']:+.2f}"
            theirs = COLUMNS["mean"].text(cell["paper_mean"], cell["paper_std"])
            made["paper"] = f"{cell['paper_mean']:+.2f}" if gain else theirs + difference
        return {words: text for words, text in made.items() if text}

    @property
    def explained(self) -> str:
        """How to read a cell, in one sentence or two."""
        best = ", best mean in bold" if self.judged else ""
        more = "".join(f"; then {words}" for words in self.more.values())
        theirs = "; then the paper's number, and ours minus it" if self.compared else ""
        gains = self.cells.get("optimizer", pd.Series()).isin(GAINS).any()
        paired = " A difference of methods is paired over n seeds, with its 95% interval." if gains else ""
        dots = " A dot: no complete run." if (self.ran["n"] == 0).any() else ""
        return f"Ours: mean ± standard deviation over n runs{best}{more}{theirs}.{paired}{dots}"

    @property
    def tidy(self) -> pd.DataFrame:
        """One line per cell."""
        return self.cells.drop(columns="best")


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


def _gain(cell: pd.Series) -> str:
    return str(statistics.Estimate(cell["mean"], cell["low"], cell["high"], float("nan"), cell["n"]))


def count(cell: pd.Series) -> str:
    """` (n=3)`: the runs or pairs of runs behind it."""
    of = "" if cell["n"] == cell["expected"] else f" of {cell['expected']}"
    return f" (n={cell['n']}{of})" if cell["n"] else ""


def markdown(table: Table) -> str:
    """A Markdown table that is also readable as it stands in a terminal."""
    texts = [[*map(name, table.rows), *table.heads.values()]]
    texts += [
        [*table.words(row), *(_plain(table, cells.get(c)) for c in table.heads)]
        for row, cells in table.grid(table.ran).items()
    ]
    return "\n".join(filter(None, (f"{table.missing}\n" if table.missing else "", aligned(texts))))


def _plain(table: Table, cell: pd.Series | None) -> str:
    """`**61.00 ± 1.00** (n=3); paper 60.00 ± 0.30, +1.00`, with a dot for a hole."""
    texts = table.texts(cell)
    ours = texts.pop("ours", HOLE)
    if cell is not None:
        ours = (f"**{ours}**" if cell["best"] else ours) + count(cell)
    return "; ".join([ours, *(f"{words} {text}" for words, text in texts.items())])


def aligned(lines: list[list[str]]) -> str:
    """A Markdown table whose columns line up; what would end a cell or a line is escaped."""
    lines = [[" ".join(text.split("\n")).replace("|", r"\|") for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    rows = [lines[0], rule, *lines[1:]]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows) + "\n"


def latex(table: Table, caption: str) -> str:
    """booktabs, in the paper's row order, our best in bold, and all else that a cell shows in lines below ours.

    It is no wider than a line of the page. The caption loses the number that LaTeX counts itself.
    """
    body, bold, below = {}, {}, [*table.more.values(), *(["paper"] if table.compared else [])]
    for row, cells in table.grid(table.ran).items():
        words, texts = table.words(row), {c: table.texts(cells.get(c)) for c in table.heads}
        body[*words, "ours"] = [texts[c].get("ours", HOLE) + (count(cells[c]) if c in cells else "") for c in texts]
        bold[*words, "ours"] = [c in cells and bool(cells[c]["best"]) for c in texts]
        for line in below:
            if line == "paper" or any(line in text for text in texts.values()):
                body[*words, line] = [text.get(line, "") for text in texts.values()]
    names = [*map(name, table.rows), ""]
    index = pd.MultiIndex.from_tuples(body, names=names)
    heads = pd.Index(list(table.heads.values()), name=name(table.across))
    frame = pd.DataFrame(list(body.values()), index, heads)
    plain = [False] * len(heads)
    weight = pd.DataFrame([bold.get(line, plain) for line in body], index, heads)
    styled = frame.style.apply(lambda _: weight.map(lambda best: "textbf:--rwrap" if best else ""), axis=None)
    styled = styled.format(_escape).format_index(_escape).format_index(_escape, axis="columns")
    styled = styled.format_index_names(_escape).format_index_names(_escape, axis="columns")
    if not below:
        styled = styled.hide(level=len(names) - 1)
    text = f"{NUMBER.sub('', caption).rstrip('.')}. {table.explained} {table.missing}".rstrip()
    alignment = "l" * (len(names) - (not below)) + "c" * len(heads)
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
