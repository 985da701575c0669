"""What the page shows, as plain values: of an artifact at one scale, of the claims, and for the explanation."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from sparse_train.config import SCIENCE, SCIENCE_OF
from sparse_train.record.segments import short
from sparse_train.report import cost, sweeps
from sparse_train.report.evidence import claims
from sparse_train.report.evidence.comparisons import listings
from sparse_train.report.evidence.verdicts import ClaimCell, beyond_spread, overall, said
from sparse_train.report.figures import KINDS, style
from sparse_train.report.figures.accuracy import Line, Panel
from sparse_train.report.figures.kinds import Material
from sparse_train.report.results import COMPLETE, MADE, Results
from sparse_train.report.sweeps import PAPER, Cell, Sweep
from sparse_train.report.views import lists, tables
from sparse_train.report.views.labels import name, notes, titled

FACETS = ("dataset", "dst", "sparsity", "optimizer")  # what the page filters by
PROTOCOL = {"cifar100", "imagenet"}  # the data sets of the paper's accuracies
UNSHOWN = ("scale", "started", "images_per_second", "threads", "torch")  # of a run; the CSV has them
AMPLIFICATION, TRAINING = "fig2", "mask-updates"  # what the explanation is made of


# --- an artifact ---


def view(name: str, scale: str, results_dir: Path) -> dict:
    """Everything of one artifact at one scale."""
    artifact = sweeps.artifact(name)
    if "hyperparameters" in artifact:
        overrides = dict(override.split("=", 1) for override in artifact["hyperparameters"])
        blocks = [_lines(lists.hyperparameters(artifact["hyperparameters"], name))]
        return {"scale": scale, "facets": [{"dataset": overrides["dataset"]}], "blocks": blocks}
    results = Results(results_dir, scale)
    sweep = results.shown(name)
    runs = results.runs(sweep)
    runs = runs.assign(dataset=runs["id"].map({cell.id: _data(cell) for cell in sweep.cells}))
    others = runs.loc[runs["status"] != COMPLETE, "status"].value_counts()
    missing = set(runs.loc[runs["status"] != COMPLETE, "id"])
    return {
        "scale": scale,
        "key": _key(sweep),
        "kind": kind(sweep.cells, scale),
        "facets": _facets(runs),
        "complete": len(runs) - len(missing),
        "expected": len(sweep.cells),
        "others": {word: int(count) for word, count in sorted(others.items())},
        "command": sweeps.command(name, scale),
        "cost": _price(
            cost.of(owed := [c for c in sweep.cells if c.id in missing]), dict.fromkeys(c.dataset for c in owed)
        ),
        "replaced": _replaced(sweep),
        "blocks": list(_blocks(results, sweep, runs)),
        "runs": _runs(runs, sweep.factors),
    }


def _data(cell: Cell) -> str:
    """The data set as it was used, whatever the scale."""
    return cell.dataset if "dataset" in SCIENCE_OF.get(cell.factors.get("task"), SCIENCE) else "synthetic"


def _facets(runs: pd.DataFrame) -> list[dict[str, str]]:
    """The distinct combinations of what the page filters by."""
    rows = [{key: row[key] for key in FACETS if isinstance(row.get(key), str)} for row in runs.to_dict("records")]
    return [dict(pairs) for pairs in dict.fromkeys(tuple(row.items()) for row in rows)]


def kind(cells: list[Cell], scale: str) -> str:
    """What these runs are evidence of: accuracy at the paper's protocol, theory, a reduced scale, or a rehearsal."""
    if sweeps.is_rehearsal(scale):
        return "rehearsal"
    if scale != PAPER:
        return "reduced"
    trained = all(cell.factors.get("task") in (None, "train") for cell in cells)
    return "accuracy" if trained and {cell.dataset for cell in cells} <= PROTOCOL else "theory"


def _key(sweep: Sweep) -> str:
    """A name for what readers take along."""
    return sweep.name if sweep.scale == PAPER else f"{sweep.name}-{sweep.scale}"


def _price(price: cost.Cost, datasets: Iterable[str]) -> str:
    """Epochs, and GPU-hours at which speed, where there are any."""
    words = str(price).partition(", ")[2] if price.epochs else ""
    stated = [f"{cost.STATED[data][0]:,} images of {data} per second" for data in datasets if data in cost.STATED]
    return f"{words} at {' and '.join(stated)}, not measured" if price.gpu_hours else words


def _replaced(sweep: Sweep) -> str:
    """What a smaller scale makes of the factors."""
    replace = {} if sweep.scale == PAPER else sweeps.scales()[sweep.scale]["replace"]
    words = []
    for key, mapping in replace.items():
        asked = {cell.factors.get(key) for cell in sweep.cells}
        pairs = [f"{then} by {now}" for then, now in mapping.items() if str(then) in asked and now is not None]
        words += [f"{key} {', '.join(pairs)}"] if pairs else []
    return "; ".join(words)


def _blocks(results: Results, sweep: Sweep, runs: pd.DataFrame) -> Iterator[dict]:
    artifact = sweep.artifact
    if artifact.get("table"):
        table = tables.Table(sweep, runs)
        caption = titled(artifact["title"], sweep.scale)
        files = {".csv": table.tidy.to_csv(index=False), ".tex": tables.latex(table, caption)}
        yield _table(table) | {"files": {f"{_key(sweep)}{ending}": text for ending, text in files.items()}}
    yield from map(_lines, listings(sweep, runs))
    spec = artifact.get("figure")
    about = " ".join([KINDS[spec["kind"]].about, *notes(sweep)]) if spec else ""
    if spec and KINDS[spec["kind"]].panels:
        history = pd.DataFrame() if KINDS[spec["kind"]].needs is None else results.rows(sweep)
        panels = panels_of(spec["kind"], Material(sweep, runs, history))
        what, around = ("line", "band") if any(panel["lines"] for panel in panels) else ("point", "bar")
        means = f"A {what} is the mean over seeds, its {around} one standard deviation"
        words = f"{about} {means}; each panel has a vertical scale of its own."
        legend = entries(panels)
        yield {"kind": "charts", "key": _key(sweep), "words": words, "panels": panels, "entries": legend}
    elif spec:
        path = results.place / f"{sweep.name}.png"
        file = str(sweeps.scale_dir(Path(), sweep.scale) / path.name) if path.exists() else None
        yield {"kind": "picture", "about": about, "file": file}


def _lines(lines: list[list[str]]) -> dict:
    """A browser sets no mathematics: R_m stays R_m."""
    return {"kind": "lines", "lines": [[text.replace("$", "") for text in line] for line in lines]}


def _table(table: tables.Table) -> dict:
    body = [
        {"key": list(row), "labels": table.words(row), "cells": [_cell(table, cells.get(c)) for c in table.labels]}
        for row, cells in table.grid(table.cells).items()
    ]
    return {
        "kind": "table",
        "compared": table.compared,
        "rows": table.rows,
        "heads": [*map(name, table.rows)],
        "more": [*table.more.values()],
        "across": name(table.across),
        "columns": table.across,
        "values": list(table.labels),
        "labels": list(table.labels.values()),
        "body": body,
    }


def _cell(table: tables.Table, cell: pd.Series | None) -> dict:
    """Texts; what is not there is left out, a hole has no `ours`; nothing is expected where there is no cell."""
    if cell is None:
        return {"n": 0, "of": 0}
    made = {"n": int(cell["n"]), "of": int(cell["expected"]), **table.texts(cell)}
    return made | ({"best": True} if cell["best"] else {})


def _runs(runs: pd.DataFrame, factors: list[str]) -> dict:
    """Every run; columns that are the same everywhere stand once."""
    runs = runs.drop(columns=[key for key in UNSHOWN if key in runs])
    if "git" in runs:
        runs["git"] = runs["git"].map(short, na_action="ignore")
    facts = [key for key in runs if key not in (*factors, "dataset", "id", "status")]
    whole = [key for key in facts if key not in MADE]  # a row has those only where they differ from the default
    once = [key for key in runs if key not in ("id", "status") and runs[key].nunique(dropna=key in whole) <= 1]
    shared = {key: _value(values.iloc[0]) for key in once if len(values := runs[key].dropna())}
    columns = ["id", "status", *(key for key in runs if key not in ("id", "status", *once))]
    return {
        "shared": shared,
        "columns": columns,
        "rows": [[*map(_value, row)] for row in runs[columns].values.tolist()],
    }


def _value(value: object) -> str | float | None:
    if isinstance(value, float):
        return None if pd.isna(value) else int(value) if value == int(value) else float(f"{value:.4g}")
    return value if isinstance(value, str) else str(value)


# --- its charts ---


def panels_of(kind: str, on: Material) -> list[dict]:
    """The panels of a figure, one after another.

    A panel is a title, the names of its axes, what the vertical one covers at least, and its series. A series has a
    name, the factors that filters look at, its look, and its points: x, the mean over seeds y, their standard deviation
    sd where there are several, their number n.
    """
    return [_charted(one, lines=kind == "curves") for one in KINDS[kind].panels(on)]


def entries(panels: list[dict]) -> list[dict]:
    """The look of every series of these panels once, ours first: a legend."""
    known = {one["name"]: one for panel in panels for one in panel["series"]}
    words = ("name", "colour", "dash", "marker", "paper")
    found = [{key: one[key] for key in words if key in one} for one in known.values()]
    return sorted(found, key=lambda one: ("paper" in one, [*map(_natural, re.split(r"(\d+)", one["name"]))]))


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (0, part)


def _charted(panel: Panel, lines: bool) -> dict:
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


# --- the claims, and the explanation that readers can play with ---


def verdicts(results_dir: Path, scales: list[str]) -> list[dict]:
    """Every claim, judged on the paper's numbers and on ours at each scale."""
    made = []
    for claim in claims.stated():
        theirs = claims.on_the_papers(claim)
        ours = {scale: _side(claims.on_ours(claim, results_dir, scale)) for scale in scales}
        about = {key: claim[key] for key in ("id", "says", "where", "tables", "counts")}
        made.append(about | {"paper": _side(theirs) | {"spread": beyond_spread(theirs)}, "ours": ours})
    return made


def _side(comparisons: list[ClaimCell]) -> dict:
    known = [c for c in comparisons if c.known]
    mean = sum(c.found.mean for c in known) / len(known) if known else 0.0
    return {
        "verdict": overall(comparisons),
        "said": said(comparisons).replace("*", ""),
        "mean": round(mean, 2),
        "cells": [[c.words, *map(_round, c.found[:3]), _round(c.adjusted, 3), c.found.n, c.verdict] for c in known],
    }


def _round(value: float, digits: int = 2) -> float | None:
    return None if pd.isna(value) else round(value, digits)


def explanation(results_dir: Path) -> dict | None:
    """What Figure 2 and the study of mask updates measured; None without records of both.

    Returns:
        `measured`: [sparsity, gradient over its dense twin's], under batch normalization, the mean over initializations
        and seeds. `exponents`: step -> [sparsity, exponent of 1 - s_i in the amplification], the median over layers and
        seeds; -0.5 by Eq. 10.
    """
    start, later = (Results(results_dir).rows(sweeps.load(name)) for name in (AMPLIFICATION, TRAINING))
    if "ratio" not in start or "exponent" not in later:
        return None
    ratios = (
        start[start["task.norm"] == "batch"].astype({"sparsity": float}).groupby("sparsity")["ratio"].mean().dropna()
    )
    layers = later[later["kind"] == "layer"].astype({"sparsity": float, "step": int})
    exponents = layers.groupby(["step", "sparsity"])["exponent"].median().dropna().round(3)
    if ratios.empty or exponents.empty:
        return None
    return {
        "measured": [[float(sparsity), round(float(ratio), 3)] for sparsity, ratio in ratios.items()],
        "exponents": {
            str(step): [[float(sparsity), float(value)] for (_, sparsity), value in group.items()]
            for step, group in exponents.groupby("step")
        },
    }
