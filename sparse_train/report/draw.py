"""One artifact, from records to files."""

from pathlib import Path

import pandas as pd

from sparse_train.errors import ConfigError
from sparse_train.report import collect, dynamics, figures, hyperparameters, mixtures, studies, sweeps, tables, theory
from sparse_train.report.collect import COMPLETE, Records
from sparse_train.report.listings import listings
from sparse_train.report.sweeps import PAPER, Sweep

# kind of figure -> (how to draw it, the columns of the history it needs: none named, all; None, no history)
KINDS = figures.KINDS | theory.KINDS | dynamics.KINDS | studies.KINDS


def draw(sweep: Sweep, records: Records, results_dir: Path) -> str:
    """Write the artifact's CSV, table and figure; returns its page, as a terminal shows it.

    Files go to `results_dir`, those of a smaller scale to a directory of their own in it.

    Raises:
        ConfigError: for a directory that cannot be written.
    """
    place = sweeps.place(results_dir, sweep.scale)
    try:
        return _draw(sweep, records, place)
    except OSError as error:
        raise ConfigError("results_dir", str(place), f"cannot be written ({error.strerror})") from error


def _draw(sweep: Sweep, records: Records, place: Path) -> str:
    (place / "records").mkdir(parents=True, exist_ok=True)
    artifact, title = sweep.artifact, sweep.artifact["title"] + sweeps.reduced(sweep.scale)
    if "hyperparameters" in artifact:
        parts = [tables.aligned(hyperparameters.lines(artifact["hyperparameters"], sweep.name))]
        return _page(place / f"{sweep.name}.md", title, parts)
    runs, rows = _collected(sweep, records, place / "records")
    parts = [_count(runs)]
    if artifact.get("table"):
        table = tables.make(runs, **artifact["table"], paper=artifact.get("paper"), scale=sweep.scale)
        parts.append(tables.markdown(table))
        (place / f"{sweep.name}.tex").write_text(tables.latex(table, title))
        tables.tidy(table).to_csv(place / f"{sweep.name}.csv", index=False)
    parts += [tables.aligned(lines) for lines in listings(sweep, runs)]
    if artifact.get("figure"):
        spec = artifact["figure"]
        draw_figure, _ = KINDS[spec["kind"]]
        figure = draw_figure(runs, rows, spec, title, sweep.scale == PAPER)
        for ending in ("png", "pdf"):
            figure.savefig(place / f"{sweep.name}.{ending}", metadata=_without_date(ending))
        parts.append(f"![{title}]({sweep.name}.png)\n")
    return _page(place / f"{sweep.name}.md", title, parts)


def _collected(sweep: Sweep, records: Records, place: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    path = place / f"{sweep.name}.csv"
    runs = collect.kept(collect.runs(sweep, records), path, sweep)
    runs.to_csv(path, index=False)
    kind = (sweep.artifact.get("figure") or {}).get("kind")
    columns = KINDS[kind][1] if kind else None
    rows = pd.DataFrame()
    if columns is not None:
        path = place / f"{sweep.name}.rows.csv"
        rows = collect.kept_rows(collect.histories(sweep, records, columns), path, sweep)
        if len(rows):
            rows.to_csv(path, index=False, float_format="%.6g")
    return runs, rows


def _count(runs: pd.DataFrame) -> str:
    others = runs.loc[runs["status"] != COMPLETE, "status"].value_counts()
    words = "".join(f", {count} {status}" for status, count in others.items())
    complete = runs[runs["status"] == COMPLETE]
    return f"{len(complete)} of {len(runs)} runs complete{words}. {mixtures.words(complete)}".rstrip() + "\n"


def _page(path: Path, title: str, parts: list[str]) -> str:
    text = "\n".join([f"# {title}\n", *parts])
    path.write_text(text)
    return text


def _without_date(ending: str) -> dict:
    """Drawn again from the same records, a file stays the same to the byte."""
    return {"CreationDate": None} if ending == "pdf" else {"Software": None}
