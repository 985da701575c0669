"""The panels of the accuracy and exploration figures as plain values, for the page to draw."""

import pandas as pd

from sparse_train.report.figures import series, style
from sparse_train.report.figures.kinds import Material
from sparse_train.report.figures.series import Line, Panel

KINDS = {"curves": series.curves, "final": series.final, "itop": series.itop}


def panels(kind: str, on: Material) -> list[dict]:
    """The panels of a figure, one after another.

    A panel is a title, the names of its axes, what the vertical one covers at least, and its series. A series has a
    name, the factors that filters look at, its look, and its points: x, the mean over seeds y, their standard deviation
    sd where there are several, their number n.
    """
    return [_panel(one, lines=kind == "curves") for one in KINDS[kind](on)]


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
