"""The panels of the accuracy and exploration figures as plain values, for the page to draw."""

import re

import pandas as pd

from sparse_train.report.figures import accuracy, style
from sparse_train.report.figures.accuracy import Line, Panel
from sparse_train.report.figures.kinds import Material

KINDS = {"curves": accuracy.curves, "final": accuracy.final, "itop": accuracy.itop}


def panels(kind: str, on: Material) -> list[dict]:
    """The panels of a figure, one after another.

    A panel is a title, the names of its axes, what the vertical one covers at least, and its series. A series has a
    name, the factors that filters look at, its look, and its points: x, the mean over seeds y, their standard deviation
    sd where there are several, their number n.
    """
    return [_panel(one, lines=kind == "curves") for one in KINDS[kind](on)]


def entries(panels: list[dict]) -> list[dict]:
    """The look of every series of these panels once, ours first: a legend."""
    known = {one["name"]: one for panel in panels for one in panel["series"]}
    words = ("name", "colour", "dash", "marker", "paper")
    found = [{key: one[key] for key in words if key in one} for one in known.values()]
    return sorted(found, key=lambda one: ("paper" in one, [*map(_natural, re.split(r"(\d+)", one["name"]))]))


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (0, part)


def _panel(panel: Panel, lines: bool) -> dict:
    made = {"title": panel.title, "x": panel.x, "y": panel.y.replace("$", ""), "lines": lines, "facets": panel.facets}
    return made | {"span": panel.span, "series": [_series(line) for line in panel.lines]}


def _series(line: Line) -> dict:
    """Colour: null for the page's ink."""
    look, points = line.look, line.points
    made = {"name": ", ".join(filter(None, (look.words, line.schedule))), "facets": line.facets, "dash": look.dash}
    made |= {"colour": None if look.colour == style.BLACK else look.colour}
    made |= {"marker": look.marker} if look.marker else {}
    made |= {"x": _plain(points["x"], 3), "y": _plain(points["mean"], 2)}
    made |= {"sd": _plain(points["std"], 2)} if points["std"].notna().any() else {}
    return made | ({"paper": True} if line.paper else {"n": points["n"].tolist()})


def _plain(values: pd.Series, digits: int) -> list[float | None]:
    return [None if pd.isna(v) else int(v) if v == int(v) else v for v in values.round(digits).tolist()]
