"""Forest plots: a line for each difference, with its 95% interval, what was expected, and the paper's number."""

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes

from sparse_train.report.evidence.comparisons import difference, options_of, paired, settings_of, twin
from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import Material
from sparse_train.report.results import complete
from sparse_train.report.settings import expected, find, reference_of
from sparse_train.report.views import statistics
from sparse_train.report.views.labels import label
from sparse_train.report.views.statistics import Estimate

LINE = 0.165  # inches of a line of text
NAMED, GAINS, OTHERS = "Comparisons of the study", "Minus the baseline of the same setting", "Minus the reference"


@dataclass(frozen=True)
class Row:
    """One difference.

    Attributes:
        group: rows of one group stand together under its name.
        found: the difference; of one seed without an interval.
        predicted: the ends of the range that the study expects; infinite where a bound has one side.
        paper: its number, if it has one.
    """

    group: str
    words: str
    found: Estimate
    predicted: tuple[float, float] | None = None
    paper: float | None = None


def of_study(on: Material) -> list[Row]:
    """The differences of a study in its first metric that have a pair of runs.

    First its listed comparisons, then every setting minus its own baseline, then every baseline minus the reference;
    each difference once.
    """
    study = on.spec.get("study") or {}
    if not study.get("values") or not study.get("reference"):
        return []
    value, reference = study["values"][0], study["reference"]
    settings = settings_of(on.runs, on.spec["factors"])
    rows = [
        Row(NAMED, one["says"], statistics.mean(difference(one, settings, value)), _predicted(one, value))
        for one in study.get("comparisons", ())
    ]
    listed = [
        (find(settings, one["a"]), find(settings, one["b"])) for one in study.get("comparisons", ()) if "b" in one
    ]
    for group, words, pair in _unlisted(settings, reference):
        if pair not in listed and pair[::-1] not in listed:
            ours, theirs = (complete(settings[one]) for one in pair)
            rows.append(Row(group, words, statistics.mean(paired(ours, theirs, value))))
    return [row for row in rows if row.found.n]


def _unlisted(settings: dict, reference: dict) -> Iterator[tuple[str, str, tuple]]:
    """(group, words, pair of settings): those with a baseline of their own, then baselines beside the reference."""
    options = options_of(settings)
    words = {
        one: ", ".join(filter(None, [label("optimizer", dict(one)["optimizer"]), options[one]])) for one in settings
    }
    own = {one: twin(one, reference) for one in settings}
    gains = [one for one in settings if own[one] in settings and own[one] != one]
    yield from ((GAINS, words[one], (one, own[one])) for one in gains)
    bases = {one: reference_of(one, settings, reference) for one in settings}
    for base in dict.fromkeys(bases.values()):
        others = [one for one in settings if bases[one] == base and one not in (*gains, base)]
        yield from ((f"{OTHERS}: {words[base]}", words[one], (one, base)) for one in others)


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
                n = f"{numbered(row.found)}, n={row.found.n}"
                axes.annotate(n, (1.02, middle), xycoords=("axes fraction", "data"), va="center")
    axes.axvline(0, color=style.ink(), linewidth=0.8, zorder=1)
    axes.set(xlim=(-reach, reach), ylim=(top, 0))
    axes.set_yticks(places, [text for text, _ in words])
    for tick, (_, row) in zip(axes.get_yticklabels(), words, strict=True):
        tick.set_fontweight("bold" if row is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def numbered(found: Estimate) -> str:
    """`+1.24 [+0.62, +1.87]`; one seed has no interval."""
    interval = f" [{found.low:+.2f}, {found.high:+.2f}]" if found.n > 1 and not pd.isna(found.low) else ""
    return f"{found.mean:+.2f}{interval}"


def _reach(rows: list[Row]) -> float:
    """So that every mean, every bound and most intervals lie within."""
    bounds = [abs(end) for row in rows for end in row.predicted or () if abs(end) < float("inf")]
    halves = [row.found.high - row.found.mean for row in rows if row.found.n > 1]
    usual = 2 * float(pd.Series(halves).median()) if halves else 0.0
    return 1.15 * max([abs(row.found.mean) for row in rows] + bounds + [usual, 0.1])


def _row(axes: Axes, y: float, row: Row, reach: float) -> None:
    found, hollow = row.found, {"markerfacecolor": style.ground(), "markersize": 5.5, "zorder": 3}
    if row.predicted:
        low, high = _within(row.predicted, reach)
        axes.barh(y, high - low, 1.1, low, color=style.ink(style.GREEN), alpha=0.25, linewidth=0, label="expected")
    if found.n > 1:
        ends = (found.low, found.high)
        axes.plot(
            _within(ends, reach),
            [y, y],
            color=style.ink(style.BLUE),
            linewidth=1.8,
            label="95% interval over paired seeds",
        )
        points = {"": (found.mean, "o", {"color": style.ink(style.BLUE), "markersize": 5.5, "zorder": 3})}
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
