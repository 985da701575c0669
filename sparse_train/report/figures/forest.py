"""Forest plots: a line for each difference, with its 95% interval, what was expected, and the paper's number."""

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes

from sparse_train.report.evidence.comparisons import Study
from sparse_train.report.figures import style
from sparse_train.report.schema import Setting, expected
from sparse_train.report.views import statistics
from sparse_train.report.views.statistics import Estimate

LINE = 0.165  # inches of a line of text
NAMED, GAINS, OTHERS = "Comparisons of the study", "Minus the baseline of the same setting", "Minus the reference"


@dataclass(frozen=True)
class Row:
    """One difference.

    Attributes:
        group: rows of one group stand together under its name.
        found: the difference; of one seed without an interval, or with one by the spread of other pairs.
        predicted: the ends of the range that the study expects; infinite where a bound has one side.
        paper: its number, if it has one.
    """

    group: str
    words: str
    found: Estimate
    predicted: tuple[float, float] | None = None
    paper: float | None = None


def of_study(study: Study) -> list[Row]:
    """The differences of a study that have a pair of runs, if it names a reference.

    First its listed comparisons, then every setting minus its own baseline, then every baseline minus the reference;
    each difference once.
    """
    if not study.reference:
        return []
    rows = [Row(NAMED, one["says"], study.estimate(one), _predicted(one, study.metric)) for one in study.listed]
    listed = [tuple(study.find(one[side]) for side in ("a", "b")) for one in study.listed if "b" in one]
    for group, pair in _unlisted(study):
        if pair not in listed and pair[::-1] not in listed:
            rows.append(Row(group, study.words(pair[0]), statistics.mean(study.paired(*pair))))
    return [row for row in rows if row.found.n]


def _unlisted(study: Study) -> Iterator[tuple[str, tuple[Setting, Setting]]]:
    """(group, pair of settings): those with a baseline of their own, then baselines beside the reference."""
    own = {one: study.own(one) for one in study.settings}
    yield from ((GAINS, (one, own[one])) for one in own if own[one])
    bases = {one: study.base(one) for one in study.settings}
    for base in dict.fromkeys(bases.values()):
        others = (one for one in study.settings if bases[one] == base != one and not own[one])
        yield from ((f"{OTHERS}: {study.words(base)}", (one, base)) for one in others)


def _predicted(comparison: dict, value: str) -> tuple[float, float] | None:
    bounds = expected(comparison, value).get(value)
    if not bounds:
        return None
    within = bounds.get("within", float("inf"))
    return bounds.get("at_least", -within), bounds.get("at_most", within)


def height(rows: list[Row], width: int) -> float:
    """Inches that the rows take, with words of `width` characters a line."""
    return LINE * sum(len(lines) + 0.5 for lines, _ in _laid_out(rows, width)) + 0.75


def _laid_out(rows: list[Row], width: int) -> Iterator[tuple[list[str], Row | None]]:
    """The lines of each row; a group's name before its first row, unless there is one group."""
    several = len({row.group for row in rows}) > 1
    for i, row in enumerate(rows):
        if several and (not i or rows[i - 1].group != row.group):
            yield wrap(row.group, width + 4), None
        yield wrap(row.words, width), row


def draw(axes: Axes, rows: list[Row], width: int, reach: float | None = None, numbers: bool = True) -> None:
    """One row below the other. What lies beyond the axis is an arrow at its edge; a mean there is also written.

    Args:
        width: characters a line of words.
        reach: half the length of the axis, around 0; by default as the rows need it.
        numbers: write each difference, with its interval, beside its row.
    """
    reach = reach or _reach(rows)
    places, words, top = [], [], 0.0
    for lines, row in _laid_out(rows, width):
        middle = top + (len(lines) + 0.5) / 2
        top += len(lines) + 0.5
        places.append(middle)
        words.append(("\n".join(lines), row))
        if row is not None:
            _row(axes, middle, row, reach)
            if numbers:
                n = f"{row.found}, n={row.found.n}"
                axes.annotate(n, (1.02, middle), xycoords=("axes fraction", "data"), va="center")
    axes.axvline(0, color=style.ink(), linewidth=0.8, zorder=1)
    axes.set(xlim=(-reach, reach), ylim=(top, 0))
    axes.set_yticks(places, [text for text, _ in words])
    for tick, (_, row) in zip(axes.get_yticklabels(), words, strict=True):
        tick.set_fontweight("bold" if row is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _reach(rows: list[Row]) -> float:
    """So that every mean, every bound and most intervals lie within."""
    bounds = [abs(end) for row in rows for end in row.predicted or () if abs(end) < float("inf")]
    halves = [row.found.high - row.found.mean for row in rows if not pd.isna(row.found.high)]
    usual = 2 * float(pd.Series(halves).median()) if halves else 0.0
    return 1.15 * max([abs(row.found.mean) for row in rows] + bounds + [usual, 0.1])


def _row(axes: Axes, y: float, row: Row, reach: float) -> None:
    found, hollow = row.found, {"markerfacecolor": style.ground(), "markersize": 5.5, "zorder": 3}
    if row.predicted:
        low, high = _within(row.predicted, reach)
        axes.barh(y, high - low, 1.1, low, color=style.ink(style.GREEN), alpha=0.25, linewidth=0, label="expected")
    if not pd.isna(found.low):
        ends, own = (found.low, found.high), found.n > 1
        axes.plot(
            _within(ends, reach),
            [y, y],
            "-" if own else ":",
            color=style.ink(style.BLUE),
            linewidth=1.8,
            label="95% interval over paired seeds" if own else "one seed, 95% interval by the spread of other pairs",
        )
        look = {"color": style.ink(style.BLUE), **({"markersize": 5.5, "zorder": 3} if own else hollow)}
        points = {"": (found.mean, "o", look)}
        arrows = [end for end in ends if abs(end) > reach]
    else:
        points = {"one seed, no interval": (found.mean, "o", {"color": style.ink(style.BLUE), **hollow})}
        arrows = [found.mean] if abs(found.mean) > reach else []
    if row.paper is not None:
        points["paper"] = (row.paper, "D", {"color": style.GREY, **hollow})
    aside = 0.4 if row.paper is not None and min(abs(row.paper), abs(found.mean)) > reach else 0.0
    for end in arrows:
        _arrow(axes, end, y - aside, reach, style.ink(style.BLUE))
    if row.paper is not None and abs(row.paper) > reach:
        _arrow(axes, row.paper, y + aside, reach, style.GREY)
    for words, (x, marker, look) in points.items():
        if abs(x) <= reach:
            axes.plot(x, y, marker, label=words or None, **look)
    beyond = {"ours": found.mean, "paper": row.paper}
    texts = [f"{who} {x:+.2f}" for who, x in beyond.items() if x is not None and abs(x) > reach]
    if texts:
        right = (row.paper if abs(found.mean) <= reach else found.mean) > 0
        at = {"xytext": (-6 if right else 6, 0), "textcoords": "offset points", "ha": "right" if right else "left"}
        axes.annotate("\n".join(texts), (0, y), va="center", linespacing=1.1, **at)


def _within(ends: tuple[float, float], reach: float) -> list[float]:
    return [min(max(end, -reach), reach) for end in ends]


def _arrow(axes: Axes, x: float, y: float, reach: float, colour: str) -> None:
    """At the edge, for what lies beyond."""
    axes.plot(reach if x > 0 else -reach, y, ">" if x > 0 else "<", color=colour, clip_on=False, zorder=3)
