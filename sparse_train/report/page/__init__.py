"""The report page: one file that shows all committed records, and needs nothing but a browser."""

import base64
import io
import json
import re
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from sparse_train.report import screen, sweeps
from sparse_train.report.evidence import statements
from sparse_train.report.files import held, write_text
from sparse_train.report.page.explain import explanation
from sparse_train.report.page.records import FACETS, scales_of
from sparse_train.report.page.verdicts import verdicts
from sparse_train.report.page.views import view
from sparse_train.report.sweeps import PAPER
from sparse_train.report.views.labels import label

HERE = Path(__file__).parent
PARTS = {
    "library_licence": "vendor/LICENSE",
    "library_style": "vendor/uPlot.min.css",
    "library": "vendor/uPlot.iife.min.js",
    "style": "page.css",
    "explain": "explain.js",
    "take": "take.js",
    "script": "page.js",
}
LIMIT = 4_800_000  # bytes; pictures that do not fit are linked
COLOURS = 256  # of an embedded picture: a palette makes a drawing three to four times smaller


def write(names: list[str], results_dir: Path) -> str:
    """Write `report.html` of these artifacts; returns a line that says what it holds.

    Raises:
        ConfigError: for records that cannot be read, and for a directory that cannot be written.
    """
    path = results_dir / "report.html"
    with held(results_dir):
        page = render(gather(names, results_dir), results_dir)
        write_text(path, page)
    return f"{path}: {len(names)} artifacts, {len(page.encode()) / 1e6:.2f} MB"


def gather(names: list[str], results_dir: Path) -> dict:
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
        "statements": board(results_dir),
        "explanation": explanation(results_dir),
        "options": {facet: _options(facet, views) for facet in FACETS},
        "claims": verdicts(results_dir, [scale for scale in scales if not sweeps.is_rehearsal(scale)]),
        "artifacts": artifacts,
    }


def board(results_dir: Path) -> list[dict]:
    """The first screen: what we found, by verdict, each with its numbers as text and as points."""
    return [
        asdict(one) | {"heading": one.heading, "meaning": one.meaning, "ours": one.words, "published": one.published}
        for one in statements.stated(results_dir)
    ]


def _options(facet: str, views: list[dict]) -> dict[str, str]:
    """The values to filter by, each with its word."""
    found = {facets[facet] for one in views for facets in one["facets"] if facet in facets}
    order = sorted(found, key=float) if facet == "sparsity" else sorted(found)
    return {value: label(facet, value) for value in order}


def render(data: dict, results_dir: Path) -> str:
    """The page: template, style, library and script in one file, and the data as JSON that cannot end its element."""
    template = (HERE / "page.html").read_text()
    parts = {key: (HERE / file).read_text() for key, file in PARTS.items()}
    room = LIMIT - len(template) - sum(map(len, parts.values())) - len(_json(data).encode())
    parts["data"] = _json(data | {"images": _images(data, results_dir, room)})
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], template)


def _images(data: dict, results_dir: Path, room: int) -> dict[str, str]:
    """The pictures that fit into so many bytes, by file name; those of a smaller scale come last."""
    views = [one for artifact in data["artifacts"] for one in artifact["views"]]
    views = sorted(views, key=lambda one: sweeps.every_scale().index(one["scale"]))
    images = {}
    for file in [block["file"] for one in views for block in one["blocks"] if block.get("file")]:
        image = "data:image/png;base64," + base64.b64encode(_small(results_dir / file)).decode()
        if len(image) + 100 <= room:
            images[file] = image
            room -= len(image) + 100
    return images


def _small(path: Path) -> bytes:
    """The picture with a palette, as PNG."""
    made = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(made, "PNG", optimize=True)
    return made.getvalue()


def _json(data: dict) -> str:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
