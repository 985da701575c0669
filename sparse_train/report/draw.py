"""One artifact, from records to files."""

from pathlib import Path

import pandas as pd

from sparse_train.report import settings, sweeps
from sparse_train.report.evidence import demonstration
from sparse_train.report.evidence.listings import listings
from sparse_train.report.figures import KINDS, style
from sparse_train.report.figures.kinds import Material
from sparse_train.report.records import collect, collected, mixtures
from sparse_train.report.records.collect import COMPLETE, Records
from sparse_train.report.records.results import held, write_figure, write_table, write_text
from sparse_train.report.sweeps import PAPER, Sweep
from sparse_train.report.views import best, hyperparameters, methods, tables
from sparse_train.report.views.labels import NAMES, titled

SHOWS = "What it shows, with 95% intervals over paired seeds:\n"


def draw(sweep: Sweep, records: Records, results_dir: Path, replace: bool = False) -> str:
    """Write the artifact's CSV, table and figure; returns its page, as a terminal shows it.

    Files go to `results_dir`, those of a smaller scale to a directory of their own in it.

    Args:
        replace: keep only what `records` hold; otherwise, keep complete runs of an earlier CSV too.

    Raises:
        ConfigError: for a directory that cannot be written, and a metric that nobody knows.
    """
    with held(results_dir):
        return _draw(sweep, records, sweeps.scale_dir(results_dir, sweep.scale), replace)


def _draw(sweep: Sweep, records: Records, place: Path, replace: bool) -> str:
    artifact = sweep.artifact
    selected = best.caption(artifact["best"]["value"]) if artifact.get("best") else ""
    title = titled(artifact["title"] + selected, sweep.scale)
    if "hyperparameters" in artifact:
        parts = [tables.aligned(hyperparameters.lines(artifact["hyperparameters"], sweep.name))]
        return _page(place / f"{sweep.name}.md", title, parts)
    runs, rows = _collected(sweep, records, place / "records", replace)
    if (runs["status"] == COMPLETE).any():
        settings.check_metrics(sweeps.file_of(sweep.name), artifact, {*runs, *rows, *NAMES})
    named = methods.words(sweep)
    parts = [_count(runs), *(f"{note}\n" for note in methods.notes(sweep))]
    if artifact.get("table"):
        compared = {"paper": artifact.get("paper"), "scale": sweep.scale}
        table = tables.make(runs, **artifact["table"], **compared, methods=named)
        parts += [f"{tables.explained(table)}\n", tables.markdown(table)]
        write_text(place / f"{sweep.name}.tex", tables.latex(table, f"{title}. {methods.ABOUT}" if named else title))
        write_table(place / f"{sweep.name}.csv", tables.tidy(table))
    parts += [tables.aligned(lines) for lines in listings(sweep, runs)]
    if artifact.get("figure"):
        spec = {**artifact["figure"], "factors": sweep.factors, "methods": named}
        with style.context():
            figure = KINDS[spec["kind"]].draw(Material(runs, rows, spec, sweep.scale == PAPER))
            style.finish(figure, title if sweeps.is_rehearsal(sweep.scale) else sweeps.reduced(sweep.scale))
            for ending in ("png", "pdf"):
                write_figure(place / f"{sweep.name}.{ending}", figure)
        parts.append(f"![{title}]({sweep.name}.png)\n")
    if artifact.get("shows"):
        said = demonstration.lines(runs, sweep.factors, **artifact["shows"])
        parts.append("\n".join([SHOWS, *(f"- {one}" for one in said), ""]))
    return _page(place / f"{sweep.name}.md", title, parts)


def _collected(sweep: Sweep, records: Records, place: Path, replace: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    path, ids = place / f"{sweep.name}.csv", {cell.id for cell in sweep.cells}
    runs = collect.runs(sweep, records)
    every = runs if replace else collected.kept(runs, path, sweep)
    write_table(path, every)
    runs = every[every["id"].isin(ids)] if len(every) else every
    kind = (sweep.artifact.get("figure") or {}).get("kind")
    columns = KINDS[kind].needs if kind else None
    rows = pd.DataFrame()
    if columns is not None:
        path = place / f"{sweep.name}.rows.csv"
        rows = collect.histories(sweep, records, columns)
        every = rows if replace else collected.kept_rows(rows, path, sweep)
        if len(every):
            write_table(path, every, "%.6g")
            rows = every[every["id"].isin(ids)]
    return runs, rows


def _count(runs: pd.DataFrame) -> str:
    others = runs.loc[runs["status"] != COMPLETE, "status"].value_counts()
    words = "".join(f", {count} {status}" for status, count in others.items())
    complete = runs[runs["status"] == COMPLETE]
    return f"{len(complete)} of {len(runs)} runs complete{words}. {mixtures.words(complete)}".rstrip() + "\n"


def _page(path: Path, title: str, parts: list[str]) -> str:
    text = "\n".join([f"# {title}\n", *parts])
    write_text(path, text)
    return text
