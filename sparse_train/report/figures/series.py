"""The accuracy and exploration figures as numbers, computed once: matplotlib and the page draw the same panels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from sparse_train.report import paper
from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import Material
from sparse_train.report.figures.looks import Looks, of_method
from sparse_train.report.figures.style import Look
from sparse_train.report.views.labels import label, name
from sparse_train.report.views.tables import trained

PANEL = "sparsity"
ITOP_SPAN = 2.0  # percentage points that an axis of ITOP rates covers at least; the paper's differences are 0.9 to 16


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes:
        points: `x`, `mean`, `std`, and of ours `n`, the number of seeds.
        facets: the factors that it belongs to.
        schedule: words for its length of training, where it is one of several.
        paper: whether the numbers are the paper's.
    """

    look: Look
    points: pd.DataFrame
    facets: dict[str, str]
    schedule: str = ""
    paper: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        x, y: the names of its axes.
        value: the metric on the vertical axis.
        lines: of ours and of the paper.
        facets: the factors that it belongs to.
        span: what the vertical axis covers at least, so that noise does not fill the panel.
    """

    title: str
    x: str
    value: str
    lines: list[Line]
    facets: dict[str, str]
    span: float = 0.0

    @property
    def y(self) -> str:
        """The name of the vertical axis."""
        return name(self.value)


def curves(on: Material) -> list[Panel]:
    """A panel per sparsity; a line per method and schedule over the epochs."""
    made, schedules, looks = [], _schedules(on), _looks(on)
    for sparsity in sparsities(on.runs):
        lines = list(_papers_curves(on, sparsity)) if on.papers else []
        for (dst, optimizer), look, group in looks.lines(_within(on.rows, sparsity)):
            for place, schedule in enumerate(schedules):
                line = group if schedule is None else group[group["epochs"] == schedule]
                if len(line):
                    own = replace(look, dash=style.DASHES[place % len(style.DASHES)])
                    points, facets = over_seeds(line, "epoch", on.spec["value"]), _facets(dst, optimizer, sparsity)
                    lines.append(Line(own, points, facets, _schedule(on, schedule)))
        made.append(_panel(on, sparsity, name("epoch"), lines))
    return made


def final(on: Material) -> list[Panel]:
    """A panel per sparsity; a line per method over the length of training, each point runs of their own."""
    x, x_name = ("epochs", name("epochs")) if on.at_paper_scale else ("trained_epochs", "Trained epochs")
    made, looks = [], _looks(on)
    for sparsity in sparsities(on.runs):
        lines = []
        for (dst, optimizer), look, group in looks.lines(_within(on.runs, sparsity)):
            facets = _facets(dst, optimizer, sparsity)
            if on.papers and dst not in style.REFERENCES:
                lines += _papers_points(on, {"dst": dst, "optimizer": optimizer, PANEL: sparsity}, x, look, facets)
            lines += _points(on, group, x, look, facets)
        made.append(_panel(on, sparsity, x_name, lines))
    return made


def itop(on: Material) -> list[Panel]:
    """A panel per growth and schedule, growth first; a line per method over the sparsity in percent.

    The baseline has no correction, so panels of both kinds of growth show the same baseline.
    """
    made = []
    for growth, words in (("rigl", "original"), ("rigl_corrected", "corrected")):
        for schedule in _schedules(on):
            lines = []
            for dst, optimizer in ((growth, "sparseopt"), ("rigl", "sgd")):
                wanted, facets = {"dst": dst, "optimizer": optimizer, "epochs": schedule}, _facets(dst, optimizer)
                look = of_method(optimizer)
                if on.papers:
                    lines += _papers_points(on, wanted, PANEL, look, facets, times=100)
                here = on.runs.query("dst == @dst and optimizer == @optimizer and epochs == @schedule")
                lines += _points(on, here, PANEL, look, facets, times=100)
            title = f"{_schedule(on, schedule)}, growth by {words} gradients"
            made.append(Panel(title, f"{name(PANEL)} (%)", on.spec["value"], lines, {}, ITOP_SPAN))
    return made


def sparsities(runs: pd.DataFrame) -> list[str]:
    """The sparsities, each of which has a panel."""
    return list(runs.loc[runs["dst"] != "dense", PANEL].unique())


def over_seeds(rows: pd.DataFrame, x: str, value: str, times: int = 1) -> pd.DataFrame:
    """`x`, and over the rows that share it the `mean`, the `std` (NaN for one row) and the number `n` of the value.

    Args:
        times: takes x and the value to their unit.
    """
    found = rows.groupby(x)[value].agg(["mean", "std", "count"]).rename(columns={"count": "n"})
    found[["mean", "std"]] *= times
    return found.assign(x=times * found.index).reset_index(drop=True)


def _panel(on: Material, sparsity: str, x: str, lines: list[Line]) -> Panel:
    return Panel(f"{name(PANEL)} {label(PANEL, sparsity)}", x, on.spec["value"], lines, {PANEL: sparsity})


def _looks(on: Material) -> Looks:
    return Looks(on.runs, on.spec.get("factors", ()), on.spec.get("methods"))


def _within(rows: pd.DataFrame, sparsity: str) -> pd.DataFrame:
    """The rows that stand in a panel: those of its sparsity, and dense networks, which have none."""
    return rows[(rows[PANEL] == sparsity) | (rows["dst"] == "dense")] if len(rows) else rows


def _facets(dst: str, optimizer: str, sparsity: str | None = None) -> dict[str, str]:
    """Dense networks have no sparsity: they stand in every panel."""
    known = {"dst": dst, "optimizer": optimizer, PANEL: None if dst == "dense" else sparsity}
    return {key: value for key, value in known.items() if value is not None}


def _schedules(on: Material) -> list[str | None]:
    return list(on.runs["epochs"].unique()) if "epochs" in on.runs else [None]


def _schedule(on: Material, schedule: str | None) -> str:
    """At a smaller scale it says how many epochs were trained."""
    if schedule is None:
        return ""
    return f"{schedule} epochs" + ("" if on.at_paper_scale else trained(on.runs, schedule))


def _points(on: Material, runs: pd.DataFrame, x: str, look: Look, facets: dict, times: int = 1) -> Iterator[Line]:
    """Of complete runs, where there are any."""
    value = on.spec["value"]
    if {x, value} <= set(runs) and len(known := runs.dropna(subset=[value])):
        yield Line(look, over_seeds(known.astype({x: float}), x, value, times), facets)


def _papers_points(on: Material, wanted: dict, x: str, look: Look, facets: dict, times: int = 1) -> Iterator[Line]:
    rows = paper.table(on.spec["paper"])
    for key, value in wanted.items():
        rows = rows[rows[key] == value]
    if len(rows):
        std = rows["std"] if "std" in rows else float("nan")
        points = pd.DataFrame({"x": times * rows[x].astype(float), "mean": rows["mean"], "std": std})
        yield Line(_papers_look(wanted["optimizer"], look), points, facets, paper=True)


def _papers_curves(on: Material, sparsity: str) -> Iterator[Line]:
    known = paper.curve(on.spec["paper"], sparsity)
    for (optimizer, schedule), line in known.groupby(["optimizer", "epochs"], sort=False):
        look = of_method(optimizer)
        points = pd.DataFrame({"x": line["epoch"], "mean": line["acc"], "std": float("nan")})
        facets = _facets(on.runs["dst"].iloc[0], optimizer, sparsity)
        yield Line(_papers_look(optimizer, look), points, facets, f"{schedule} epochs", paper=True)


def _papers_look(optimizer: str, ours: Look) -> Look:
    """The colour and the marker of ours."""
    return replace(ours, words=f"paper, {ours.words}", dash=style.DASHES[style.OPTIMIZERS[optimizer]])
