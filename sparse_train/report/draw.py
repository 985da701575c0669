"""One artifact, from records to files."""

import hashlib
from pathlib import Path

import matplotlib
import pandas as pd

from sparse_train.report import schema, sweeps
from sparse_train.report.evidence.comparisons import listings
from sparse_train.report.figures import KINDS, style
from sparse_train.report.figures.kinds import Material
from sparse_train.report.files import held, write_figure, write_table, write_text
from sparse_train.report.results import COMPLETE, Records, Results, complete, mixtures
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views import lists, tables
from sparse_train.report.views.labels import ABOUT_D_ALONE, NAMES, methods_of, notes, picture, titled


def draw(sweep: Sweep, records: Records, results_dir: Path, replace: bool = False) -> str:
    """Commit the artifact's complete runs, write its table and figure; returns its page, as a terminal shows it.

    Files go to `results_dir`, those of a smaller scale to a directory of their own in it.

    Args:
        replace: of the artifact's runs keep those alone that `records` hold; else those committed before, too.

    Raises:
        ConfigError: for a directory that cannot be written, and an unknown metric.
    """
    with held(results_dir):
        return _draw(sweep, Results(results_dir, sweep.scale, records), replace)


def _draw(sweep: Sweep, results: Results, replace: bool) -> str:
    artifact, place = sweep.artifact, results.place
    selected = lists.caption(artifact["best"]["value"]) if artifact.get("best") else ""
    title = titled(artifact["title"] + selected, sweep.scale)
    if "hyperparameters" in artifact:
        parts = [tables.aligned(lists.hyperparameters(artifact["hyperparameters"], sweep.name))]
        return _page(place / f"{sweep.name}.md", title, parts)
    kind = (artifact.get("figure") or {}).get("kind")
    columns = KINDS[kind].needs if kind else None
    results.keep(sweep, columns, replace)
    runs, rows = results.runs(sweep), pd.DataFrame() if columns is None else results.rows(sweep)
    if len(complete(runs)):
        schema.check_metrics(sweeps.file_of(sweep.name), artifact, {*runs, *rows, *results.metrics(sweep), *NAMES})
    parts = [_count(runs), *(f"{note}\n" for note in notes(sweep))]
    if artifact.get("table"):
        table, caption = tables.Table(sweep, runs), f"{title}. {ABOUT_D_ALONE}" if methods_of(sweep) else title
        parts += [f"{table.explained}\n", tables.markdown(table)]
        write_text(place / f"{sweep.name}.tex", tables.latex(table, caption))
        write_table(place / f"{sweep.name}.csv", table.tidy)
    parts += [tables.aligned(lines) for lines in listings(sweep, runs)]
    if artifact.get("figure"):
        heading = title if sweeps.is_rehearsal(sweep.scale) else sweeps.reduced(sweep.scale)
        _picture(place / sweep.name, Material(sweep, runs, rows), heading)
        parts.append(picture(title, sweep.name))
    return _page(place / f"{sweep.name}.md", title, parts)


def _picture(path: Path, on: Material, heading: str) -> None:
    """Draw for a light page, for print and for a dark page, unless the files are those that the same material gives."""
    of, themes = KINDS[on.spec["kind"]], {"light": [".png", ".pdf"], "dark": ["-dark.png"]}
    files = {theme: [path.with_name(path.name + ending) for ending in endings] for theme, endings in themes.items()}

    def digests() -> list[str | None]:
        every = [file for made in files.values() for file in made]
        return [_sha256(file.read_bytes()) if file.exists() else None for file in every]

    def made() -> list[str | None]:
        for theme, wanted in files.items():
            with style.context(theme):
                figure = style.empty() if of.needs == () and on.rows.empty else of.draw(on)
                style.finish(figure, heading)
                for file in wanted:
                    write_figure(file, figure)
        return digests()

    contents = [_sha256(pd.util.hash_pandas_object(table).to_numpy().tobytes()) for table in (on.runs, on.rows)]
    columns = [[*map(str, table)] for table in (on.runs, on.rows)]
    asked = [on.sweep.name, on.sweep.scale, on.sweep.artifact, on.sweep.factors]
    key = ["picture", matplotlib.__version__, contents, columns, asked, heading]
    if sweeps.remembered(key, made) != digests():
        made()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _count(runs: pd.DataFrame) -> str:
    others = runs.loc[runs["status"] != COMPLETE, "status"].value_counts()
    words = "".join(f", {count} {status}" for status, count in others.items())
    done = complete(runs)
    return f"{len(done)} of {len(runs)} runs complete{words}. {mixtures(done)}".rstrip() + "\n"


def _page(path: Path, title: str, parts: list[str]) -> str:
    text = "\n".join([f"# {title}\n", *parts])
    write_text(path, text)
    return text
