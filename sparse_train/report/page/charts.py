"""The accuracy and exploration figures as numbers, for the page to draw: the panels and series of `report.figures`.

A panel is a title, the names of its axes and its series. A series has a name, the factors that filters look at, its
look, and its points: x, the mean over seeds y, their standard deviation sd where there are several, their number n.
"""

from itertools import cycle

import pandas as pd

from sparse_train.report.records import paper
from sparse_train.report.views import style
from sparse_train.report.views.figures import PANEL, panels_of, within
from sparse_train.report.views.labels import label, name
from sparse_train.report.views.looks import Look, Looks
from sparse_train.report.views.tables import trained


def curves(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, at_paper_scale: bool) -> list[dict]:
    """A panel per sparsity; a series per method and schedule, x the epoch."""
    schedules = list(runs["epochs"].unique()) if "epochs" in runs else [None]
    panels, looks = [], Looks(runs, spec.get("factors", ()), spec.get("methods"))
    for shown in panels_of(runs):
        series = _papers_curves(spec["paper"], runs, shown) if at_paper_scale and spec.get("paper") else []
        for (dst, optimizer), own, group in looks.lines(within(rows, shown)):
            for dash, schedule in zip(cycle(style.DASHES), schedules, strict=False):
                line = group if schedule is None else group[group["epochs"] == schedule]
                if len(line):
                    look = _series(own) | {"dash": dash}
                    look["name"] += _schedule(runs, schedule, at_paper_scale)
                    series.append(look | _facets(dst, optimizer, shown) | _over_seeds(line, "epoch", spec["value"]))
        title = f"{name(PANEL)} {label(PANEL, shown)}"
        panels.append(_panel(title, name("epoch"), spec["value"], series, lines=True, sparsity=shown))
    return panels


def final(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, at_paper_scale: bool) -> list[dict]:
    """A panel per sparsity; a series per method, x the length of training, each point of runs of their own."""
    x = "epochs" if at_paper_scale else "trained_epochs"
    panels, looks = [], Looks(runs, spec.get("factors", ()), spec.get("methods"))
    for shown in panels_of(runs):
        series = []
        for (dst, optimizer), own, group in looks.lines(within(runs, shown)):
            facets = _facets(dst, optimizer, shown)
            if at_paper_scale and spec.get("paper") and dst not in style.REFERENCES:
                wanted = {"dst": dst, "optimizer": optimizer, PANEL: shown}
                series += _papers_points(spec["paper"], wanted, x, facets, own)
            series += _points(group, x, spec["value"], _series(own), facets)
        x_name = name("epochs") if at_paper_scale else "Trained epochs"
        title = f"{name(PANEL)} {label(PANEL, shown)}"
        panels.append(_panel(title, x_name, spec["value"], series, sparsity=shown))
    return panels


def itop(runs: pd.DataFrame, rows: pd.DataFrame, spec: dict, at_paper_scale: bool) -> list[dict]:
    """A panel per kind of growth and schedule; a series per method, x the sparsity in percent."""
    panels = []
    for growth, words in (("rigl", "original"), ("rigl_corrected", "corrected")):
        for schedule in runs["epochs"].unique():
            series = []
            for dst, optimizer in ((growth, "sparseopt"), ("rigl", "sgd")):
                wanted = {"dst": dst, "optimizer": optimizer, "epochs": schedule}
                if at_paper_scale and spec.get("paper"):
                    series += _papers_points(spec["paper"], wanted, PANEL, _facets(dst, optimizer), times=100)
                here = runs.query("dst == @dst and optimizer == @optimizer and epochs == @schedule")
                look = _look(optimizer)
                series += _points(here, PANEL, spec["value"], look, _facets(dst, optimizer), times=100)
            text = f"{_schedule(runs, schedule, at_paper_scale).removeprefix(', ')}, growth by {words} gradients"
            panels.append(_panel(text, f"{name(PANEL)} (%)", spec["value"], series))
    return panels


KINDS = {"curves": curves, "final": final, "itop": itop}


def _panel(title: str, x: str, value: str, series: list[dict], lines: bool = False, **facets: str) -> dict:
    y = name(value).replace("$", "")
    return {"title": title, "x": x, "y": y, "lines": lines, "facets": facets, "series": series}


def _facets(dst: str, optimizer: str, sparsity: str | None = None) -> dict:
    """What filters look at. Dense networks have no sparsity: they stand in every panel."""
    known = {"dst": dst, "optimizer": optimizer, "sparsity": None if dst == "dense" else sparsity}
    return {"facets": {key: value for key, value in known.items() if value is not None}}


def _series(look: Look) -> dict:
    """Name, colour (null for the page's ink), marker and dash, as in the figures."""
    colour = None if look.colour == style.BLACK else look.colour
    return {"name": look.words, "colour": colour, "dash": look.dash} | ({"marker": look.marker} if look.marker else {})


def _look(optimizer: str) -> dict:
    look = style.look(optimizer)
    return {"name": label("optimizer", optimizer), "colour": look["color"], "marker": look["marker"], "dash": "-"}


def _papers_look(optimizer: str, ours: Look | None = None) -> dict:
    look = _series(ours) if ours else _look(optimizer)
    dash = style.DASHES[style.OPTIMIZERS[optimizer]]
    return {**look, "name": f"paper, {look['name']}", "paper": True, "colour": style.GREY, "dash": dash}


def _schedule(runs: pd.DataFrame, schedule: str | None, at_paper_scale: bool) -> str:
    """At a smaller scale it says how many epochs were trained."""
    if schedule is None:
        return ""
    return f", {schedule} epochs" + ("" if at_paper_scale else trained(runs, schedule))


def _papers_curves(source: str, runs: pd.DataFrame, sparsity: str) -> list[dict]:
    made = []
    for (optimizer, schedule), line in paper.curve(source, sparsity).groupby(["optimizer", "epochs"], sort=False):
        look = _papers_look(optimizer)
        look["name"] += f", {schedule} epochs"
        points = {"x": _plain(line["epoch"], 3), "y": _plain(line["acc"], 2)}
        made.append(look | _facets(runs["dst"].iloc[0], optimizer, sparsity) | points)
    return made


def _papers_points(
    source: str, wanted: dict, x: str, facets: dict, ours: Look | None = None, times: int = 1
) -> list[dict]:
    """The paper's points as a series, where it has any; `times` takes x to its unit."""
    rows = paper.table(source)
    for key, value in wanted.items():
        rows = rows[rows[key] == value]
    if rows.empty:
        return []
    points = {"x": _plain(times * rows[x].astype(float), 3), "y": _plain(rows["mean"], 2)}
    if "std" in rows and rows["std"].notna().any():
        points["sd"] = _plain(rows["std"], 2)
    return [_papers_look(wanted["optimizer"], ours) | facets | points]


def _points(runs: pd.DataFrame, x: str, value: str, look: dict, facets: dict, times: int = 1) -> list[dict]:
    """Our complete runs as a series, where there are any; `times` takes x and the value to percent."""
    if value not in runs or x not in runs or runs[value].dropna().empty:
        return []
    known = runs.dropna(subset=[value]).astype({x: float})
    return [look | facets | _over_seeds(known.assign(**{x: times * known[x], value: times * known[value]}), x, value)]


def _over_seeds(rows: pd.DataFrame, x: str, value: str) -> dict:
    over = rows.groupby(x)[value].agg(["mean", "std", "count"])
    points = {"x": _plain(over.index.to_series(), 3), "y": _plain(over["mean"], 2), "n": over["count"].tolist()}
    return points | ({"sd": _plain(over["std"], 2)} if over["std"].notna().any() else {})


def _plain(values: pd.Series, digits: int) -> list[float | None]:
    return [None if pd.isna(v) else int(v) if v == int(v) else v for v in values.round(digits).tolist()]
