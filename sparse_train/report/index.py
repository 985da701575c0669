"""What has been measured: `results/README.md` over all scales, and a gallery for each smaller one."""

from pathlib import Path

import pandas as pd

from sparse_train.record.segments import short
from sparse_train.report import sweeps
from sparse_train.report.evidence import claims
from sparse_train.report.files import held, write_text
from sparse_train.report.results import Results, complete
from sparse_train.report.sweeps import PAPER
from sparse_train.report.views.labels import picture, titled
from sparse_train.report.views.tables import aligned

DRAWN = "<!-- From here on drawn from the records; what stands above is kept. -->"
HEAD = ["Artifact", "Scale", "Runs", "Seeds", "Date", "Revision", "Hardware", "Threads", "Hours", "Command"]


def write(results_dir: Path) -> None:
    """Write both kinds of page, from what `results_dir` holds."""
    with held(results_dir):
        found = {scale: measured(results_dir, scale) for scale in sweeps.every_scale()}
        for scale, here in found.items():
            if here and scale != PAPER:
                write_text(results_dir / scale / "README.md", _gallery(here, scale))
        path = results_dir / "README.md"
        above, mark, _ = (path.read_text() if path.exists() else "").partition(DRAWN)
        judged = _verdicts(results_dir, [s for s in found if s == PAPER or (found[s] and not sweeps.is_rehearsal(s))])
        write_text(path, (above if mark else "# Results\n\n") + DRAWN + "\n\n" + _index(found, judged))


def measured(results_dir: Path, scale: str) -> dict[str, pd.DataFrame]:
    """Artifact -> its runs, for all that are drawn and have a complete run, in the order of the paper."""
    results = Results(results_dir, scale)
    drawn = filter(results.drawn, sweeps.names() if results.committed else ())
    found = {name: results.runs(sweeps.load(name, scale)) for name in drawn}
    return {name: runs for name, runs in found.items() if len(complete(runs))}


def _line(name: str, scale: str, runs: pd.DataFrame, up: str = "") -> list[str]:
    """An artifact's line of the index; `up` leads from the page to the artifact's own."""
    done = complete(runs)
    dates = sorted(done["started"].str[:10].unique())
    return [
        f"[{name}]({up}{name}.md)",
        scale,
        f"{len(done)} of {len(runs)}",
        str(done["seed"].nunique() if "seed" in done else 1),
        " to ".join(dict.fromkeys((dates[0], dates[-1]))),
        _several(done["git"].dropna().map(short).unique()) if "git" in done else "",
        _several(done["device"].unique()),
        _several(done["threads"].astype(int).unique()),
        f"{done['seconds'].sum() / 3600:.2f}",
        f"`{sweeps.command(name, scale)}`",
    ]


def _index(found: dict[str, dict[str, pd.DataFrame]], judged: list[list[str]]) -> str:
    ups = {scale: "" if scale == PAPER else f"{scale}/" for scale in found}
    lines = [_line(name, scale, runs, ups[scale]) for scale, here in found.items() for name, runs in here.items()]
    whole = {name for name, runs in found[PAPER].items() if len(complete(runs)) == len(runs)}
    owed = [name for name in sweeps.names() if name not in whole and "hyperparameters" not in sweeps.artifact(name)]
    notes = [f"- `{scale}`: {about['note']}" for scale, about in sweeps.scales().items()]
    return "\n".join(
        [
            "## Measured\n",
            "Each line by its command, drawn from the records under `records/`.",
            "A scale other than `paper` is a rehearsal or a study at reduced size, not the paper's experiment:\n",
            *notes,
            "",
            aligned([HEAD, *lines]),
            "## The paper's claims\n",
            "Its own numbers are in [paper/](paper/README.md). A claim holds if it holds in every cell, and fails if",
            "it fails in one. [claims.md](claims.md) has the rules for cells, and how large an effect must be.\n",
            aligned(judged),
            "## Not measured at the paper's scale, or not all of it\n",
            (", ".join(owed) or "nothing") + ".\n",
        ]
    )


def _verdicts(results_dir: Path, scales: list[str]) -> list[list[str]]:
    """A head; one row per claim: its verdicts on the paper's numbers and on ours at each scale, linked to its cells.

    They are read from the CSV of `make claims`, since judging takes seconds; without one a claim is "not judged".
    """
    paths = {scale: sweeps.scale_dir(results_dir, scale) / "claims.csv" for scale in scales}
    tables = {scale: pd.read_csv(path, dtype=str) for scale, path in paths.items() if path.exists()}
    judged = {scale: table.set_index("claim").to_dict("index") for scale, table in tables.items()}
    columns = [(PAPER, "on the paper's means"), (PAPER, "beyond its spread"), *((scale, "on ours") for scale in scales)]
    made = [["Claim", "Where", *(f"{words.capitalize()} {sweeps.reduced(scale)}".rstrip() for scale, words in columns)]]
    for claim in claims.stated():
        row = [claim["id"], claim["where"]]
        for scale, words in columns:
            said = judged.get(scale, {}).get(claim["id"], {}).get(words)
            page = sweeps.scale_dir(Path(), scale) / "claims.md"
            row.append(f"[{said}]({page}#{claim['id']})" if said else "not judged")
        made.append(row)
    return made


def _gallery(here: dict[str, pd.DataFrame], scale: str) -> str:
    pictures = []
    for name in here:
        artifact = sweeps.artifact(name)
        title = titled(artifact["title"], scale)
        pictures += [f"## {title}\n", f"[{name}]({name}.md): `{sweeps.command(name, scale)}`\n"]
        if artifact.get("figure"):
            pictures.append(picture(title, name))
    head = f"# Gallery {sweeps.reduced(scale)}".rstrip()
    lines = [_line(name, scale, runs) for name, runs in here.items()]
    return "\n".join([f"{head}\n", aligned([HEAD, *lines]), *pictures])


def _several(values) -> str:
    """A few values, or how many there are."""
    texts = sorted(map(str, values))
    return ", ".join(texts) if len(texts) <= 3 else f"{len(texts)} of them"
