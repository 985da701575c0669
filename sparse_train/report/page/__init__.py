"""The report page: one file that shows all committed records, and needs nothing but a browser.

Python fills `page.html`, a template; Plotly draws its charts and DataTables sorts its tables (`vendor/`); `page.js`
connects them with the filters.
"""

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from PIL import Image

from sparse_train.report import screen, sweeps
from sparse_train.report.evidence import statements
from sparse_train.report.files import held, write_text
from sparse_train.report.page.content import FACETS, explanation, verdicts, view
from sparse_train.report.results import COMPLETE, Results, scales_of
from sparse_train.report.sweeps import PAPER
from sparse_train.report.views.labels import label, titled
from sparse_train.report.views.tables import GAINS

HERE = Path(__file__).parent
COLOURS = 256  # of an embedded picture: a palette makes a drawing three to four times smaller
KINDS = {
    "accuracy": "Accuracy at the paper's protocol",
    "theory": "Theory, and experiments of another kind than the paper's accuracies",
    "reduced": "Studies at reduced scale",
    "rehearsal": "Rehearsals, evidence of nothing; hidden until asked for",
}
FILTERS = {
    "dataset": "Data set",
    "dst": "DST method",
    "sparsity": "Sparsity",
    "optimizer": "Optimizer",
    "scale": "Scale",
}
RUN = ("id", "status", "scale", "dataset", "dst", "sparsity", "optimizer", "renorm", "epochs", "seed", "test_acc")
SIGNS = {"holds": "✓", "fails": "✗", "too small to count": "≈"}  # every other verdict is none
DASHES = {
    "-": ("solid", ""),
    "--": ("dash", "7 4"),
    "-.": ("dashdot", "8 3 2 3"),
    ":": ("dot", "2 3"),
}  # Plotly's, SVG's
MARKERS = {"o": "●○", "s": "■□", "^": "▲△", "D": "◆◇", "v": "▼▽", "P": "✚✚"}  # ours, the paper's


@dataclass(frozen=True)
class Links:
    """Where the page leads besides itself.

    Attributes:
        repository: its address; without one, a run's record is linked beside the page.
        wandb: `entity/project` that runs were uploaded to. There a run has the id that it has here.
    """

    repository: str | None = None
    wandb: str | None = None

    def record(self, scale: str, line: int) -> str:
        """A run's line in the committed table."""
        path = (sweeps.scale_dir(Path(), scale) / "records" / "runs.csv").as_posix()
        return f"{self.repository}/blob/HEAD/results/{path}?plain=1#L{line}" if self.repository else path

    def uploaded(self, run: str) -> str | None:
        """A run's page at W&B."""
        return f"https://wandb.ai/{self.wandb}/runs/{run}" if self.wandb else None


NOWHERE = Links()


def write(names: list[str], results_dir: Path, links: Links = NOWHERE) -> str:
    """Write `report.html` of these artifacts; returns a line with its size.

    Raises:
        ConfigError: for records that cannot be read, and for a directory that cannot be written.
    """
    path = results_dir / "report.html"
    with held(results_dir):
        page = render(gather(names, results_dir, links), results_dir)
        write_text(path, page)
    return f"{path}: {len(names)} artifacts, {len(page.encode()) / 1e6:.2f} MB"


def gather(names: list[str], results_dir: Path, links: Links = NOWHERE) -> dict:
    """Everything the page shows, as plain values."""
    artifacts = []
    for name in screen.progress(names, "reading artifacts"):
        scales = scales_of(name, results_dir)
        views = [view(name, scale, results_dir) for scale in scales]
        shown = sweeps.artifact(name)
        artifacts.append({"name": name, "title": shown["title"], "about": shown.get("about", ""), "views": views})
    views = [one for artifact in artifacts for one in artifact["views"]]
    scales = [scale for scale in sweeps.every_scale() if scale == PAPER or any(v["scale"] == scale for v in views)]
    notes = {scale: "" if scale == PAPER else sweeps.scales()[scale]["note"] for scale in scales}
    return {
        "scales": notes,
        "rehearsals": [scale for scale in scales if sweeps.is_rehearsal(scale)],
        "repository": links.repository,
        "verdict": statements.verdict(results_dir),
        "board": board(results_dir),
        "every_run": every_run(artifacts, results_dir, links),
        "explanation": explanation(results_dir),
        "options": {facet: _options(facet, views) for facet in FACETS},
        "claims": verdicts(results_dir, [scale for scale in scales if not sweeps.is_rehearsal(scale)]),
        "artifacts": artifacts,
    }


def board(results_dir: Path) -> list[dict]:
    """The scoreboard: a claim a row, by importance, each with all its measurements."""
    made = []
    for claim in statements.scoreboard(results_dir):
        word, meaning = statements.VERDICTS[claim["verdict"]]
        measured = [one | {"facets": _of_filters(one["facets"])} for one in claim["ours"]]
        made.append(claim | {"word": word, "meaning": meaning, "at": measured[0]["at"], "measured": measured})
    return made


def _of_filters(settings: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    return [{key: setting[key] for key in FACETS if key in setting} for setting in settings]


def every_run(artifacts: list[dict], results_dir: Path, links: Links) -> dict:
    """One row a run, whichever artifacts ask for it; complete ones first. `links`: of a row, to its record and W&B."""
    asked: dict[tuple[str, str], dict] = {}
    for name, one in [(artifact["name"], one) for artifact in artifacts for one in artifact["views"] if "runs" in one]:
        for row in one["runs"]["rows"]:
            known = one["runs"]["shared"] | {k: v for k, v in zip(one["runs"]["columns"], row, strict=True) if v != ""}
            run = asked.setdefault((one["scale"], known["id"]), known | {"scale": one["scale"], "artifacts": []})
            run["artifacts"].append(name)
    lines = {scale: _lines_of(Results(results_dir, scale)) for scale in dict.fromkeys(scale for scale, _ in asked)}
    runs = sorted(asked.items(), key=lambda item: item[1]["status"] != COMPLETE)
    found = []
    for (scale, run), _ in runs:
        line = lines[scale].get(run)
        found.append([None, None] if line is None else [links.record(scale, line), links.uploaded(run)])
    rows = [[row.get(key) for key in RUN] + [", ".join(row["artifacts"])] for _, row in runs]
    complete = sum(row["status"] == COMPLETE for _, row in runs)
    caption = f"{complete} of {len(rows)} runs are complete. The id of a complete run leads to its committed record."
    return {"caption": caption, "head": [*RUN, "artifacts"], "rows": rows, "links": found}


def _lines_of(results: Results) -> dict[str, int]:
    """Run -> its line in the committed table, whose head is line 1."""
    return {run: line for line, run in enumerate(results.committed, 2)}


def _options(facet: str, views: list[dict]) -> dict[str, str]:
    """The values to filter by, each with its word."""
    found = {facets[facet] for one in views for facets in one["facets"] if facet in facets}
    order = sorted(found, key=lambda value: (float(value), value)) if facet == "sparsity" else sorted(found)
    words = {label(facet, value): value for value in reversed(order)}  # 0 and 0.0 are one
    return {value: text for text, value in reversed(words.items())}


# --- from plain values to the page ---


def render(data: dict, results_dir: Path) -> str:
    """The page: the template with the data, the libraries and the script in one file."""
    page = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.tests["has"] = lambda values, value: value in values
    page.filters["tojson"] = _json
    page.globals |= {name: globals()[name] for name in ("FILTERS", "SIGNS", "DASHES", "MARKERS")}
    page.globals |= {"FULL": PAPER, "zip": zip, "file": _file, "code": _code, "signed": signed}
    page.globals |= {"labelled": titled, "scale_name": lambda scale: _scale_name(scale, data)}
    shown = {**_summaries(data), "data": Markup(_json(_of_script(data))), "images": _images(data, results_dir)}
    return page.get_template("page.html").render(data | shown)


def _summaries(data: dict) -> dict:
    """What the template shows of several artifacts at once."""
    artifacts = data["artifacts"]
    for artifact in artifacts:
        artifact["measured"] = any(
            "expected" not in one or (one["complete"] and one["scale"] not in data["rehearsals"])
            for one in artifact["views"]
        )
    views = [one for artifact in artifacts for one in artifact["views"] if "runs" in one]
    totals = []
    for kind, words in KINDS.items():
        status = {row[0]: row[1] for one in views if one["kind"] == kind for row in one["runs"]["rows"]}
        totals += [(words, *_count(status))] if status else []
    groups = {"Tables": [], "Figures": [], "More": []}
    for artifact in artifacts:
        kind = artifact["name"].rstrip("0123456789")
        groups[{"table": "Tables", "fig": "Figures"}.get(kind, "More")].append(artifact)
    effects = [
        abs(v) for one in data["board"] for v in (*one["spread"], *(e for m in one["measured"] for e in m["effect"]))
    ]
    scale = {one: one if one != PAPER else "full (paper)" for one in data["scales"]}
    kinds = {one: "rehearsal" if one in data["rehearsals"] else "reduced" for one in scale}
    return {
        "totals": totals,
        "compared": compared(views),
        "groups": {title: members for title, members in groups.items() if members},
        "reach": math.ceil(max([1.0, *effects])),  # points, at either end of the axis that all effects share
        "scales_of_board": [
            s for s in data["scales"] if any(m["scale"] == s for one in data["board"] for m in one["measured"])
        ],
        "options": data["options"]
        | {"scale": {one: text if one == PAPER else f"{text} ({kinds[one]})" for one, text in scale.items()}},
        "claims": [claim | {"sides": _sides(claim)} for claim in data["claims"]],
    }


def compared(views: list[dict]) -> dict:
    """Of the paper's tables: `cells`, those `done`, by up to how many `seeds`, and the `runs` behind: complete, all."""
    views = [one for one in views if one["scale"] == PAPER and any(b.get("compared") for b in one["blocks"])]
    rows = [row for one in views for b in one["blocks"] if b["kind"] == "table" for row in b["body"]]
    cells = [cell for row in rows if row["key"][-1] not in GAINS for cell in row["cells"] if "paper" in cell]
    ours = [cell["n"] for cell in cells if "ours" in cell]
    runs = _count({row[0]: row[1] for one in views for row in one["runs"]["rows"]})
    return {"done": len(ours), "cells": len(cells), "seeds": max(ours, default=0), "runs": runs}


def _count(status: dict[str, str]) -> tuple[int, int]:
    """Complete runs, and all of them."""
    return sum(word == COMPLETE for word in status.values()), len(status)


def _sides(claim: dict) -> dict[str, dict]:
    """What is judged: the paper's means, ours, and ours at each reduced scale that has any."""
    ours = {scale: side for scale, side in claim["ours"].items() if scale == PAPER or side["cells"]}
    named = {"ours" if scale == PAPER else f"ours at REDUCED SCALE {scale}": side for scale, side in ours.items()}
    return {"the paper's means": claim["paper"], **named}


def _of_script(data: dict) -> dict:
    """What the script needs: charts, the rows of tables that a reader opens, and files to take along."""
    charts, rows, files = {}, {}, {}
    for artifact in data["artifacts"]:
        for one in artifact["views"]:
            for block in one["blocks"]:
                if block.get("entries"):
                    charts[block["key"]] = {"panels": block["panels"], "tag": _tag(one["scale"], data)}
                    charts[block["key"]]["caption"] = titled(f"{artifact['title']}. {block['words']}", one["scale"])
                files |= block.get("files", {})
            if "runs" in one:
                rows[f"runs-{one['key']}"] = _runs(artifact["name"], one)
    for claim in data["claims"]:
        rows[f"claim-{claim['id']}"] = _judged(claim)
    scales = [scale for scale in data["scales"] if scale not in data["rehearsals"]]
    made = [{one["scale"]: one for one in artifact["views"] if "runs" in one} for artifact in data["artifacts"]]
    far = [[f"{v[s]['complete']} of {v[s]['expected']}" if s in v else "" for s in scales] for v in made]
    rows["runs"] = data["every_run"]
    rows["progress"] = {
        "caption": "Complete runs of every artifact, by scale",
        "head": ["Artifact", *("full scale" if scale == PAPER else _tag(scale, data) for scale in scales)],
        "rows": [[one["name"], *cells] for one, cells in zip(data["artifacts"], far, strict=True) if any(cells)],
    }
    looks = {"dashes": {dash: name for dash, (name, _) in DASHES.items()}}
    more = {key: data[key] for key in ("rehearsals", "explanation")}
    return {"charts": charts, "rows": rows, "files": files, "looks": looks, **more}


def _runs(name: str, one: dict) -> dict:
    same = ", ".join(f"{key}={value}" for key, value in one["runs"]["shared"].items())
    place = "runs/X" if one["scale"] == PAPER else f"runs/{one['scale']}/X"
    words = [
        f"Runs of {name}.",
        f"Of all runs: {same}." if same else "",
        f"Factors are the sweep file's; this scale replaces {one['replaced']}." if one["replaced"] else "",
        f"A run with id X is made in {place}; its record.json holds every key.",
    ]
    caption = titled(" ".join(filter(None, words)), one["scale"])
    return {"caption": caption, "head": one["runs"]["columns"], "rows": one["runs"]["rows"]}


def _judged(claim: dict) -> dict:
    rows = []
    for whose, side in _sides(claim).items():
        ours = whose != "the paper's means"  # whose numbers have no seeds
        for cell, effect, low, high, adjusted, n, word in side["cells"]:
            reach = "" if low is None else f"{signed(low)} to {signed(high)}"
            known = (n, "") if ours else ("", "" if adjusted is None else adjusted)
            rows.append([whose, cell, signed(effect), reach, *known, f"{SIGNS.get(word, '○')} {word}"])
    head = ["Whose", "Cell", "Effect (points)", "95% interval", "Paired seeds", "p (Holm)", "Verdict"]
    return {"caption": f"{claim['id']}: its cells", "head": head, "rows": rows}


def signed(value: float) -> str:
    """`+1.20`, `−0.31`, with the sign of mathematics."""
    return f"{value:+.2f}".replace("-", "−")  # noqa: RUF001


def _tag(scale: str, data: dict) -> str:
    return "" if scale == PAPER else f"{'REHEARSAL' if scale in data['rehearsals'] else 'REDUCED SCALE'} {scale}"


def _scale_name(scale: str, data: dict) -> str:
    return "full scale" if scale == PAPER else f"{_tag(scale, data)}: {data['scales'][scale]}"


def _code(text: str) -> str:
    """A text between backticks is code; all else is text."""
    return Markup(f"<code>{escape(text[1:-1])}</code>") if text[:1] == text[-1:] == "`" != text else escape(text)


def _file(name: str) -> str:
    return Markup((HERE / name).read_text())


def _images(data: dict, results_dir: Path) -> dict[str, str]:
    """The pictures, by file name."""
    blocks = [block for artifact in data["artifacts"] for one in artifact["views"] for block in one["blocks"]]
    files = [block["file"] for block in blocks if block.get("file")]
    return {file: "data:image/png;base64," + base64.b64encode(_small(results_dir / file)).decode() for file in files}


def _small(path: Path) -> bytes:
    """The picture with a palette, as PNG."""
    made = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(made, "PNG", optimize=True)
    return made.getvalue()


def _json(data: object) -> str:
    """JSON that cannot end its element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
