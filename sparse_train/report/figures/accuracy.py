"""The accuracy and exploration figures: their numbers, computed once for matplotlib and for the page, and the drawing.

They stand in the paper's panels; the paper's own numbers are thin and hollow.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from sparse_train.report import paper
from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import Material, kind
from sparse_train.report.figures.style import Look
from sparse_train.report.views.labels import label, methods_of, name, option
from sparse_train.report.views.tables import trained

METHOD = ("dst", "optimizer")
SHOWN_OTHERWISE = ("sparsity", "epochs", "seed", *METHOD)  # as panels, axis, dashes and bands
PANEL = "sparsity"
ITOP_SPAN = 2.0  # percentage points that an axis of ITOP rates covers at least; the paper's differences are 0.9 to 16
APART = {"sparseopt": -2 / 72, "sgd": 2 / 72}  # inches, so that equal rates do not hide each other


# --- how lines are told apart: by the optimizer alone, or by all that varies between them ---


class Looks:
    """The lines of a figure: methods, and what else its grid varies.

    The four optimizers look the same in every figure, and so do dense and static networks. Only where several DST
    methods or another factor vary, each line has a colour and a marker of its own, and words for what varies.

    Args:
        runs: of the figure, complete or not.
        factors: keys of the sweep's grid.
        methods: words for optimizers that are something else in this sweep.
    """

    def __init__(self, runs: pd.DataFrame, factors: Iterable[str], methods: Mapping[str, str] | None = None):
        self._methods = methods
        trained = runs[~runs["dst"].isin(style.REFERENCES)]
        trained = runs if trained.empty else trained
        others = [key for key in factors if key in runs and key not in SHOWN_OTHERWISE]
        self.by = [*METHOD, *(key for key in others if trained[key].nunique(dropna=False) > 1)]
        settings = list(dict.fromkeys(map(_words_of, runs[self.by].itertuples(index=False, name=None))))
        alone = Counter(dst for dst, *_ in settings)
        lines = [one for one in settings if one[0] not in style.REFERENCES or alone[one[0]] > 1]
        self._varies = [len(set(values)) > 1 for values in zip(*lines, strict=True)]
        strange = {optimizer for _, optimizer, *_ in lines} - set(style.OPTIMIZERS)
        plain = len({(dst, *rest) for dst, _, *rest in lines}) <= 1 and len(strange) <= 1
        own = {one: style.look(one[1], methods) if plain else self._own(place, one) for place, one in enumerate(lines)}
        self._looks = {one: own[one] if one in own else self._reference(one) for one in settings}

    def lines(self, rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], Look, pd.DataFrame]]:
        """(DST method, optimizer), look and rows of every line that has any."""
        for setting, group in rows.groupby(self.by, sort=False, dropna=False) if len(rows) else ():
            yield setting[:2], self._looks[_words_of(setting)], group

    def _own(self, place: int, setting: tuple[str, ...]) -> Look:
        count = len(style.COLOURS)
        marker = style.MARKERS[(place + place // count) % count]
        return Look(self._words(setting), style.COLOURS[place % count], marker)

    def _reference(self, setting: tuple[str, ...]) -> Look:
        colour, dash = style.REFERENCES[setting[0]]
        return Look(label("dst", setting[0]), colour, "", dash)

    def _words(self, setting: tuple[str, ...]) -> str:
        """`SET, SparseOpt, learning rate 0.5`: what varies."""
        named = [(key, value) for key, value, varies in zip(self.by, setting, self._varies, strict=True) if varies]
        words = [label(key, value, self._methods) for key, value in named if key in METHOD]
        words += [option(key, value) for key, value in named if key not in METHOD and value != "nan"]
        return ", ".join(words) or label("optimizer", setting[1], self._methods)


def _words_of(setting: tuple) -> tuple[str, ...]:
    """A hole, where a grid of the sweep has no such key, equals another hole."""
    return tuple(map(str, setting))


# --- numbers ---


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
    """A panel per sparsity; a line per method and schedule over the epochs, of runs that keep the value of theirs."""
    made, schedules, looks = [], _schedules(on), _looks(on)
    value = on.spec["value"]
    rows = keeping(on.rows, value)
    for sparsity in sparsities(on.runs):
        lines = list(_papers_curves(on, sparsity)) if on.papers else []
        for (dst, optimizer), look, group in looks.lines(_within(rows, sparsity)):
            for place, schedule in enumerate(schedules):
                line = group if schedule is None else group[group["epochs"] == schedule]
                if len(line):
                    own = replace(look, dash=style.DASHES[place % len(style.DASHES)])
                    points, facets = over_seeds(line, "epoch", value), _facets(dst, optimizer, sparsity)
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
            wanted = {"dst": dst, "optimizer": optimizer, PANEL: sparsity}
            lines += _lines(on, group, wanted, x, look, _facets(dst, optimizer, sparsity))
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
                wanted, look = {"dst": dst, "optimizer": optimizer, "epochs": schedule}, style.look(optimizer)
                here = on.runs.query("dst == @dst and optimizer == @optimizer and epochs == @schedule")
                lines += _lines(on, here, wanted, PANEL, look, _facets(dst, optimizer), times=100)
            title = f"{_schedule(on, schedule)}, growth by {words} gradients"
            made.append(Panel(title, f"{name(PANEL)} (%)", on.spec["value"], lines, {}, ITOP_SPAN))
    return made


def sparsities(runs: pd.DataFrame) -> list[str]:
    """The sparsities, each of which has a panel."""
    return list(runs.loc[runs["dst"] != "dense", PANEL].unique())


def keeping(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """The rows that have the value: runs are shared, and another artifact may have kept their epochs without it."""
    return rows.dropna(subset=[value]) if value in rows else rows[:0]


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
    return Looks(on.runs, on.sweep.factors, methods_of(on.sweep))


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
    """At a smaller scale with the number of epochs that were trained."""
    if schedule is None:
        return ""
    return f"{schedule} epochs" + ("" if on.at_paper_scale else trained(on.runs, schedule))


def _lines(
    on: Material, runs: pd.DataFrame, wanted: dict, x: str, look: Look, facets: dict, times: int = 1
) -> Iterator[Line]:
    """The paper's line of the `wanted` cells and that of our complete runs, where there are any."""
    rows, value = paper.table(on.papers) if on.papers else pd.DataFrame(columns=[*wanted]), on.spec["value"]
    rows = rows[(rows[[*wanted]] == pd.Series(wanted)).all(axis="columns")]
    if len(rows):
        std = rows["std"] if "std" in rows else float("nan")
        points = pd.DataFrame({"x": times * rows[x].astype(float), "mean": rows["mean"], "std": std})
        yield Line(_papers_look(wanted["optimizer"], look), points, facets, paper=True)
    if {x, value} <= set(runs) and len(known := runs.dropna(subset=[value])):
        yield Line(look, over_seeds(known.astype({x: float}), x, value, times), facets)


def _papers_curves(on: Material, sparsity: str) -> Iterator[Line]:
    known = paper.curve(on.papers, sparsity)
    for (optimizer, schedule), line in known.groupby(["optimizer", "epochs"], sort=False):
        look = style.look(optimizer)
        points = pd.DataFrame({"x": line["epoch"], "mean": line["acc"], "std": float("nan")})
        facets = _facets(on.runs["dst"].iloc[0], optimizer, sparsity)
        yield Line(_papers_look(optimizer, look), points, facets, f"{schedule} epochs", paper=True)


def _papers_look(optimizer: str, ours: Look) -> Look:
    """The colour and the marker of ours."""
    return replace(ours, words=f"paper, {ours.words}", dash=style.DASHES[style.OPTIMIZERS[optimizer]])


# --- drawing ---


@kind(("epoch", "train_acc", "test_acc"), curves)
def _curves(on: Material) -> Figure:
    """Accuracy over epochs, a panel per sparsity, the schedules overlaid."""
    panels = curves(on)
    figure, [axes] = style.panels(1, len(panels), share_y=False)
    dashes = {line.schedule: line.look.dash for panel in panels for line in panel.lines if not line.paper}
    for one, panel in zip(axes, panels, strict=True):
        _prepare(one, panel)
        style.epochs(one)
        for line in panel.lines:
            if line.paper:
                one.plot(line.points["x"], line.points["mean"], markevery=0.25, **_drawn(line))
            else:
                style.band(one, line.points, panel.value, line.look)
    axes[0].set_ylabel(panels[0].y)
    style.legend(figure, dashes=dashes if len(dashes) > 1 else None)
    return figure


@kind(None, final)
def _final(on: Material) -> Figure:
    """Final accuracy over the length of training, each point a run of its own."""
    panels = final(on)
    figure, [axes] = style.panels(1, len(panels))
    for one, panel in zip(axes, panels, strict=True):
        _prepare(one, panel)
        for line in panel.lines:
            x, mean, std = (line.points[key] for key in ("x", "mean", "std"))
            if line.paper:
                one.errorbar(x, mean, std.fillna(0), **_drawn(line))
            else:
                one.plot(x, mean, **_drawn(line))
                style.spread(one, line.points, panel.value, style.ink(line.look.colour))
                one.set_xticks(list(x))
    axes[0].set_ylabel(panels[0].y)
    style.legend(figure)
    return figure


@kind(None, itop)
def _itop(on: Material) -> Figure:
    """ITOP rate over sparsity; rows of panels: growth by original or corrected gradients."""
    panels = _measured(itop(on))
    figure, axes = style.panels(2, len(panels) // 2)
    sparsities = [100 * float(sparsity) for sparsity in on.runs[PANEL].unique()]
    for one, panel in zip([one for row in axes for one in row], panels, strict=True):
        _prepare(one, panel)
        for line in panel.lines:
            aside = ScaledTranslation(APART[line.facets["optimizer"]], 0, figure.dpi_scale_trans)
            x, mean, std = line.points["x"], line.points["mean"], 0 if line.paper else line.points["std"].fillna(0)
            one.errorbar(x, mean, None if line.paper else std, transform=one.transData + aside, **_drawn(line))
            # the axes do not count what is drawn aside
            one.update_datalim([*zip(x, mean - std, strict=True), *zip(x, mean + std, strict=True)])
        one.set_xticks(sparsities)
        one.update_datalim([(x, 0.0) for x in sparsities], updatey=False)  # also where nothing is drawn yet
        one.autoscale_view(scaley=bool(panel.lines))
    for row in axes:
        row[0].set_ylabel(panels[0].y)
    for one in axes[0]:
        one.set_xlabel("")
    style.widen(axes[0][0], panels[0].span)  # the panels share their vertical axis
    style.legend(figure)
    return figure


def _measured(panels: list[Panel]) -> list[Panel]:
    """Without the schedules of which neither growth has a line; all where none has."""
    half = len(panels) // 2
    kept = [i for i in range(half) if panels[i].lines or panels[half + i].lines] or range(half)
    return [panels[i + row] for row in (0, half) for i in kept]


def _prepare(axes: Axes, panel: Panel) -> None:
    axes.set(title="\n".join(wrap(panel.title, 30)), xlabel=panel.x)
    if panel.lines and all(line.paper for line in panel.lines):
        style.hole(axes, "no complete run of ours yet")


def _drawn(line: Line) -> dict:
    """How matplotlib draws it; the paper's is thin and hollow."""
    look = line.look
    made = {"marker": look.marker, "color": style.ink(look.colour), "label": look.words, "linestyle": look.dash}
    return made | ({"markerfacecolor": style.ground(), "linewidth": 0.8, "zorder": 1} if line.paper else {})
