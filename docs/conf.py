"""The documentation site: every page of the repository in Markdown, the gallery of methods and the API (`make docs`).

REPOSITORY is the repository's address on GitHub. Links to code lead there; without it they download the file.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import gallery  # noqa: E402

project, author, html_title = "sparse_train", "the authors of sparse_train", "sparse_train"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc, html_theme, html_show_copyright = "README", "furo", False
include_patterns = ["*.md", "docs/**.md", "results/**.md"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("docs", "results")]
exclude_patterns += ["results/mine", "results/smoke"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # drawn pages begin at a level of their own
default_role = "code"  # for `names` of docstrings that two lines share
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
highlight_language = "none"  # docstrings have formulas
repository = os.environ.get("REPOSITORY", "")

CONTENTS = """

```{toctree}
:hidden:
:caption: Documentation
:glob:

docs/training
docs/sweeps
docs/from-a-trained-model
docs/*your*
docs/methods/index
docs/api
docs/*
```

```{toctree}
:hidden:
:caption: Results

results/findings
results/studies
results/README
```

```{toctree}
:hidden:
:caption: The project

ARCHITECTURE
CONTRIBUTING
CHANGELOG
SECURITY
```
"""
RESULTS = """

```{toctree}
:hidden:
:glob:

*
*/*
```
"""

LINK = re.compile(r'(?:href|src|srcset)="(?![a-z]+:)([^"#?]+)')  # within the site
REPORT = ROOT / "results" / "report.html"  # as `make report` leaves it
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        *(["report.html"] if REPORT.exists() else []),
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}


class Links(SphinxTransform):
    """A link to a file or directory of the repository that is no page leads to the repository."""

    default_priority = 999

    def apply(self) -> None:
        here = ROOT.joinpath(self.env.docname).parent
        for node in [*self.document.findall(download_reference), *self.document.findall(pending_xref)]:
            path = here.joinpath(node["reftarget"]).resolve()
            file = isinstance(node, download_reference) and path.is_file()
            if node.get("reftype") != "myst" or not (file or path.is_dir()):
                continue
            words = [child for element in node.children for child in (element.children or [element])]
            if repository:
                address = f"{repository}/blob/HEAD/{path.relative_to(ROOT)}"
                node.replace_self(nodes.reference("", "", *words, refuri=address, internal=False))
            elif not file:
                node.replace_self(words)


def contents(app: Sphinx, name: str, source: list[str]) -> None:
    """The README is the first page, so the site's contents are added to it; the index of results has its pages."""
    source[0] += {root_doc: CONTENTS, "results/README": RESULTS}.get(name, "")


def docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Ours are plain text with `code` in it: escape what reStructuredText would read; indented formulas are literal."""
    text, literal, before = [], False, "x"
    for place, line in enumerate(lines):
        inside = line.startswith("    ") and not lines[place - 1] and not before.startswith(" ")
        if not literal and inside:
            text += ["::", ""]
        literal = inside or (literal and (line.startswith(" ") or not line))
        text.append(line if literal or line.lstrip().startswith((">>>", "...")) else _escaped(line))
        before = line or before
    lines[:] = text


def _escaped(line: str) -> str:
    words = []
    for place, part in enumerate(re.split(r"(`[^`]+`|\*\w+\*)", line)):  # at odd places: `code`, *emphasis*
        if place % 2:
            words.append(f"`{part}`" if part.startswith("`") else part)
        else:
            apart = r"\ " if place and re.match(r"\w", part) else ""  # `Layer`s
            words.append(apart + re.sub(r"[*|\\]|_(?!\w)", r"\\\g<0>", part))
    return "".join(words)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Copy what pages refer to by a path: the first page, pictures, the report. Then check the links in the site."""
    if error is None:
        out = Path(app.outdir)
        shutil.copy(out / f"{root_doc}.html", out / "index.html")
        for directory in {page.parent.relative_to(out) for page in out.glob("results/**/*.html")}:
            for path in [*ROOT.joinpath(directory).glob("*.png"), *ROOT.joinpath(directory).glob("*.svg")]:
                shutil.copy(path, out / directory)  # a <picture> names one for each theme
        if REPORT.exists():
            shutil.copy(REPORT, out)
        pages = [page for page in out.rglob("*.html") if page.name != REPORT.name]
        links = [(page, link) for page in pages for link in LINK.findall(page.read_text())]
        dead = {
            f"{page.relative_to(out)}: {link}" for page, link in links if not (page.parent / unquote(link)).exists()
        }
        if dead:
            raise ExtensionError(f"links to files that do not exist: {', '.join(sorted(dead))}")


def setup(app: Sphinx) -> None:
    gallery.write(ROOT / "docs" / "methods")
    app.add_transform(Links)
    app.connect("source-read", contents)
    app.connect("autodoc-process-docstring", docstring, priority=400)  # before napoleon reads its sections
    app.connect("build-finished", finish)
