"""What the page shows of an artifact at one scale: counts, tables, charts or a picture, and its runs."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sparse_train.record.segments import short
from sparse_train.report import cost, sweeps
from sparse_train.report.evidence.comparisons import listings
from sparse_train.report.figures import KINDS
from sparse_train.report.figures.kinds import Material
from sparse_train.report.page import charts
from sparse_train.report.page.records import Committed, committed
from sparse_train.report.results import COMPLETE, MADE
from sparse_train.report.sweeps import PAPER, Cell, Sweep
from sparse_train.report.views import lists, tables
from sparse_train.report.views.labels import methods_of, name, notes, titled

PROTOCOL = {"cifar100", "imagenet"}  # the data sets of the paper's accuracies
UNSHOWN = ("scale", "started", "images_per_second", "threads", "torch")  # of a run; the CSV has them


def view(name: str, scale: str, results_dir: Path) -> dict:
    """Everything of one artifact at one scale."""
    sweep = sweeps.load(name, scale)
    artifact = sweep.artifact
    if "hyperparameters" in artifact:
        overrides = dict(override.split("=", 1) for override in artifact["hyperparameters"])
        blocks = [_lines(lists.hyperparameters(artifact["hyperparameters"], name))]
        return {"scale": scale, "facets": [{"dataset": overrides["dataset"]}], "blocks": blocks}
    held = committed(name, scale, results_dir)
    done = set(held.complete["id"])
    missing = [cell for cell in held.cells if cell.id not in done]
    others = held.runs.loc[held.runs["status"] != COMPLETE, "status"].value_counts()
    return {
        "scale": scale,
        "key": _key(held),
        "kind": kind(held.cells, scale),
        "facets": held.facets(),
        "complete": len(held.complete),
        "expected": len(held.cells),
        "others": {word: int(count) for word, count in sorted(others.items())},
        "command": sweeps.command(name, scale),
        "cost": _price(cost.of(missing)),
        "replaced": _replaced(held),
        "blocks": list(_blocks(held, sweep)),
        "runs": _runs(held),
    }


def kind(cells: list[Cell], scale: str) -> str:
    """What these runs are evidence of: accuracy at the paper's protocol, theory, a reduced scale, or a rehearsal."""
    if sweeps.is_rehearsal(scale):
        return "rehearsal"
    if scale != PAPER:
        return "reduced"
    trained = all(cell.factors.get("task") in (None, "train") for cell in cells)
    return "accuracy" if trained and {cell.dataset for cell in cells} <= PROTOCOL else "theory"


def _key(held: Committed) -> str:
    """A name for what readers take along."""
    return held.name if held.scale == PAPER else f"{held.name}-{held.scale}"


def _price(price: cost.Cost) -> str:
    """Epochs and GPU-hours, where there are any."""
    words = str(price).partition(", ")[2] if price.epochs else ""
    return f"{words} at the stated speed" if price.gpu_hours else words


def _replaced(held: Committed) -> str:
    """What a smaller scale makes of the factors."""
    replace = {} if held.scale == PAPER else sweeps.scales()[held.scale]["replace"]
    words = []
    for key, mapping in replace.items():
        asked = {cell.factors.get(key) for cell in held.cells}
        pairs = [f"{then} by {now}" for then, now in mapping.items() if str(then) in asked and now is not None]
        words += [f"{key} {', '.join(pairs)}"] if pairs else []
    return "; ".join(words)


def _blocks(held: Committed, sweep: Sweep) -> Iterator[dict]:
    artifact, named = sweep.artifact, methods_of(sweep)
    if artifact.get("table"):
        compared = {"paper": artifact.get("paper"), "scale": held.scale}
        table = tables.make(held.runs, **artifact["table"], **compared, methods=named)
        caption = titled(artifact["title"], held.scale)
        files = {".csv": tables.tidy(table).to_csv(index=False), ".tex": tables.latex(table, caption)}
        yield _table(table) | {"files": {f"{_key(held)}{ending}": text for ending, text in files.items()}}
    yield from map(_lines, listings(sweep, held.runs))
    spec = artifact.get("figure")
    about = " ".join([KINDS[spec["kind"]].about, *notes(sweep)]) if spec else ""
    if spec and spec["kind"] in charts.KINDS:
        history = pd.DataFrame() if KINDS[spec["kind"]].needs is None else held.history()
        spec = {**spec, "factors": held.factors, "methods": named}
        panels = charts.panels(spec["kind"], Material(held.runs, history, spec, held.scale == PAPER))
        what, around = ("line", "band") if any(panel["lines"] for panel in panels) else ("point", "bar")
        means = f"A {what} is the mean over seeds, its {around} one standard deviation"
        words = f"{about} {means}; each panel has a vertical scale of its own."
        entries = charts.entries(panels)
        yield {"kind": "charts", "key": _key(held), "words": words, "panels": panels, "entries": entries}
    elif spec:
        path = held.place / f"{held.name}.png"
        file = str(sweeps.scale_dir(Path(), held.scale) / path.name) if path.exists() else None
        yield {"kind": "picture", "about": about, "file": file}


def _lines(lines: list[list[str]]) -> dict:
    """A browser sets no mathematics: R_m stays R_m."""
    return {"kind": "lines", "lines": [[text.replace("$", "") for text in line] for line in lines]}


def _table(table: tables.Table) -> dict:
    lines = table.lines()
    body = [
        {"key": list(row), "labels": table.words(row), "cells": [_cell(cells.get(c)) for c in table.labels]}
        for row, cells in lines.items()
    ]
    return {
        "kind": "table",
        "compared": table.compared,
        "rows": table.rows,
        "heads": [*map(name, table.rows)],
        "across": name(table.columns),
        "columns": table.columns,
        "values": list(table.labels),
        "labels": list(table.labels.values()),
        "body": body,
    }


def _cell(cell: pd.Series | None) -> dict:
    """Texts; what is not there is left out, a hole has no `ours`; nothing is expected where there is no cell."""
    if cell is None:
        return {"n": 0, "of": 0}
    made = {"n": int(cell["n"]), "of": int(cell["expected"])}
    if cell["n"]:
        made["ours"] = tables.ours(cell)
    if paper := tables.papers(cell):
        made["paper"] = paper
    return made | ({"best": True} if cell["best"] else {})


def _runs(held: Committed) -> dict:
    """Every run; columns that are the same everywhere are said once."""
    runs = held.runs.drop(columns=[key for key in UNSHOWN if key in held.runs])
    if "git" in runs:
        runs["git"] = runs["git"].map(short, na_action="ignore")
    facts = [key for key in runs if key not in (*held.factors, "dataset", "id", "status")]
    whole = [key for key in facts if key not in MADE]  # those are left out of a row that has nothing to say
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
