"""The report page: what it says of records with known means, and, where there is a browser, how it behaves."""

import contextlib
import json
import re
import shutil
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from sparse_train.report import page, sweeps
from sparse_train.report.evidence import claims, verdicts
from sparse_train.report.figures import style
from sparse_train.report.page.content import explanation, view
from sparse_train.report.results import Results, scales_of
from support.records import commit, leave_records

HERE = Path(page.__file__).parent
REDUCED = {"table2": "cpu", "fig11": "cpu", "why-static": "cpu"}  # have records at a smaller scale
SHOWN = ["table1", "table2", "table4", "fig6", "fig10", "fig11", "quickstart", "why-static"]
PICTURE = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
HOSTILE = "</script><script>document.title='broken out'</script><img src=x onerror=\"document.title='broken out'\">"


def embedded(html: str) -> dict:
    """What the script of a page gets."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def blocks(one: dict, kind: str) -> list[dict]:
    return [block for block in one["blocks"] if block["kind"] == kind]


def leave(place: Path, names: list[str]) -> int:
    """Records of these artifacts, one in ten missing, accuracies by a formula and a draw; returns how many."""
    draw, noise = np.random.default_rng(0), {}

    def accuracy(cell):
        lost, error = noise.setdefault(cell.id, (draw.random() < 0.1, draw.normal(0, 0.4)))
        s, method = float(cell.factors.get("sparsity", 0.9)), cell.factors.get("optimizer", "sgd")
        return None if lost else 70 - 60 * abs(s - 0.9) + 2 * (method != "sgd") + np.log(max(cell.epochs, 2)) + error

    for name in names:
        stated = sweeps.artifact(name).get("at", "paper")
        for scale in dict.fromkeys((stated, REDUCED.get(name, stated))):
            if sweeps.load(name, scale).cells:
                leave_records(place, name, scale, accuracy)
    return len(noise)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    leave(place, SHOWN)
    Image.fromarray(PICTURE).save(place / "fig6.png")
    return place


@pytest.fixture(scope="module")
def data(results):
    return page.gather(SHOWN, results)


@pytest.fixture(scope="module")
def html(results, data):
    (results / "report.html").write_text(page.render(data, results))
    return (results / "report.html").read_text()


# --- what it says ---


def test_every_artifact_is_there_with_its_runs_and_the_command_for_the_missing(results, data):
    artifacts = {artifact["name"]: artifact for artifact in data["artifacts"]}
    assert list(artifacts) == SHOWN
    for name, artifact in artifacts.items():
        for one in artifact["views"]:
            if "expected" not in one:
                assert name == "table4"
                continue
            held = Results(results, one["scale"])
            sweep = held.shown(name)
            assert {cell.id for cell in sweeps.load(name, one["scale"]).cells} <= {cell.id for cell in sweep.cells}
            assert one["expected"] == len(sweep.cells) == len(one["runs"]["rows"])
            assert one["complete"] == len(held.complete(sweep)) > 0
            assert one["others"].get("missing", 0) == one["expected"] - one["complete"]
            assert one["command"] == sweeps.command(name, one["scale"])
            assert one["blocks"], "every artifact shows something besides its runs"
    assert [one["scale"] for one in artifacts["table2"]["views"]] == ["paper", "cpu"]


def test_an_artifact_without_records_is_all_holes(tmp_path):
    one = view("table1", "paper", tmp_path)
    assert (one["complete"], one["expected"], one["others"]) == (0, 36, {"missing": 36})
    assert "934 GPU-hours" in one["cost"]
    [table] = blocks(one, "table")
    assert all("ours" not in cell and cell["paper"] for row in table["body"] for cell in row["cells"])
    at = [scales_of(name, tmp_path) for name in ("table1", "why-static", "why-steps")]
    assert at == [["paper"], ["cpu"], ["size16"]], "the scale that the head of the sweep file names"


def test_means_differences_and_holes_are_those_of_the_records(tmp_path):
    accuracies = {"0": 60.0, "1": 61.0, "2": 62.0}
    leave_records(
        tmp_path, "table2", accuracy=lambda c: accuracies[c.factors["seed"]] if c.factors["epochs"] == "100" else None
    )
    [table] = blocks(view("table2", "paper", tmp_path), "table")
    [row] = [row for row in table["body"] if row["key"] == ["0.9", "sparseopt_ham"]]
    paper = {"paper": "61.64 ± 0.24, -0.64"}
    assert row["cells"][0] == {"n": 3, "of": 3, "ours": "61.00 ± 1.00", "best": True, **paper}
    [gain] = [row for row in table["body"] if row["key"] == ["0.9", "sparseopt_ham-ham"]]
    assert gain["cells"][0] == {"n": 3, "of": 3, "ours": "+0.00 [+0.00, +0.00]", "paper": "+0.84"}
    assert gain["labels"] == ["90%", "SparseOpt w/ HAM minus Baseline w/ HAM"]
    assert row["cells"][1] == {"n": 0, "of": 3, "paper": "63.37 ± 0.50"}
    assert row["labels"] == ["90%", "SparseOpt w/ HAM"]


def test_curves_are_means_and_spreads_over_seeds(tmp_path):
    leave_records(tmp_path, "quickstart", accuracy=lambda cell: 60.0 + int(cell.factors["seed"]))
    [charts] = blocks(view("quickstart", "paper", tmp_path), "charts")
    assert [panel["title"] for panel in charts["panels"]] == [f"Sparsity {s}%" for s in (0, 90, 97, 99)]
    [series] = [s for s in charts["panels"][1]["series"] if s["name"] == "SparseOpt"]
    assert series["x"] == list(range(1, 51))
    assert (series["y"][0], series["y"][-1], series["sd"][-1], series["n"][-1]) == (6.1, 61, 1, 3)
    assert series["facets"] == {"dst": "rigl", "optimizer": "sparseopt", "sparsity": "0.9"}


def test_a_reduced_scale_is_never_beside_the_papers_numbers(data):
    found = 0
    for artifact in data["artifacts"]:
        for one in (one for one in artifact["views"] if one["scale"] != "paper"):
            found += 1
            assert '"paper"' not in json.dumps(one["blocks"])
            assert f"SCALE={one['scale']}" in one["command"]
    assert found == len(REDUCED)
    assert "a tenth of the paper's epochs" in data["scales"]["cpu"]


def test_references_are_shown_where_they_were_run(tmp_path):
    leave_records(tmp_path, "fig11")
    offered = [cell for cell in sweeps.load("fig11", references=True).cells if cell.factors["dst"] == "dense"]
    commit(pd.DataFrame([{"id": cell.id, "test_acc": 70.0} for cell in offered]), tmp_path)
    one = view("fig11", "paper", tmp_path)
    assert one["expected"] == 72 + len(offered)
    for panel in blocks(one, "charts")[0]["panels"]:
        assert [series["y"] for series in panel["series"] if series["name"] == "Dense"] == [[70, 70, 70, 70]]


def test_a_data_set_counts_only_where_a_task_uses_one(data):
    facets = {artifact["name"]: artifact["views"][0]["facets"] for artifact in data["artifacts"]}
    assert (facets["fig6"], facets["table4"]) == ([{"dataset": "synthetic"}], [{"dataset": "cifar100"}])
    assert [one["dataset"] for one in facets["table1"]] == ["imagenet"] * 2 * 3 * 2


# --- the file ---


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_page_needs_nothing_but_itself(html):
    tags = Tags(html).found
    for tag, attributes in tags:
        assert tag not in ("link", "iframe", "object")
        assert attributes.get("src", "data:").startswith("data:")
    assert [attributes["src"][:22] for tag, attributes in tags if tag == "img"] == ["data:image/png;base64,"]
    [policy] = [attributes for tag, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy["content"]


def test_the_same_records_give_the_same_bytes(tmp_path):
    places = (tmp_path / "a" / "results", tmp_path / "somewhere else")
    for place in places:
        leave_records(place, "quickstart")
        page.write(["quickstart"], place)
    first, second = ((place / "report.html").read_bytes() for place in places)
    assert first == second
    assert str(tmp_path).encode() not in first


def test_the_command_writes_it(tmp_path, monkeypatch, capsys):
    from sparse_train.report.__main__ import main

    monkeypatch.setattr("sys.argv", ["report", "page", "table4", "fig6", "--results-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert re.search(r"report\.html: 2 artifacts, 1\.\d+ MB", capsys.readouterr().out)
    shown = [
        attributes["id"] for tag, attributes in Tags((tmp_path / "report.html").read_text()).found if tag == "article"
    ]
    assert shown == ["table4", "fig6"]


# --- what it is made of ---


def test_the_libraries_are_those_that_their_readme_names_and_the_page_carries_their_licences(html):
    readme = (HERE / "vendor" / "README.md").read_text()
    rows = re.findall(r"\| `(\S+)` \| (\S+) (\S+) \| MIT \| (\d+) \| `([0-9a-f]{64})` \|", readme)
    assert {name for name, *_ in rows} == {path.name for path in (HERE / "vendor").glob("*.js")}
    for name, _, version, size, digest in rows:
        held = (HERE / "vendor" / name).read_bytes()
        assert (len(held), sha256(held).hexdigest()) == (int(size), digest)
        assert version in held[:100].decode()
    assert readme in html
    assert html.count("Permission is hereby granted") == 2


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_in_both_themes(theme):
    css = (HERE / "page.css").read_text()
    tones = {name: pair[theme] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)}
    for name in ("ink", "soft", "link"):
        assert contrast(tones[name], tones["paper"]) >= 4.5, name
        assert contrast(tones[name], tones["raised"]) >= 4.5, name
    assert contrast(tones["warn-ink"], tones["warn"]) >= 4.5
    assert contrast(tones["focus"], tones["paper"]) >= 3
    for method in style.OPTIMIZERS:
        assert contrast(style.look(method).colour, tones["paper"]) >= 3, method
    assert contrast(style.GREY, tones["paper"]) >= 3
    looks = [style.look(method) for method in style.OPTIMIZERS]
    assert len({look.marker for look in looks}) == len(looks), "told apart without colour"


# --- in a browser ---


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    with api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed")
        started = playwright.chromium.launch(executable_path=path)
        yield started
        started.close()


@contextlib.contextmanager
def reading(browser, report: Path):
    """Opens pages from disk and without network; fails for one that leaves an error or asks for more."""
    contexts, problems, asked = [], [], []

    def open_page(path=report, **options):
        context = browser.new_context(offline=True, **{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(120_000)  # a page of thousands of runs, on a loaded machine
        tab = context.new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")
        tab.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
    assert [url for url in asked if not url.startswith(("data:", "blob:")) and not url.endswith("/report.html")] == []


@pytest.fixture
def opened(browser, results, html):
    with reading(browser, results / "report.html") as open_page:
        yield open_page


@pytest.fixture(scope="module")
def tab(browser, results, html):
    """The page opened once, for tests that only read it or change a figure that no other one of them reads."""
    with reading(browser, results / "report.html") as open_page:
        yield open_page()


def plot(tab, key: str):
    """One figure's charts, in sight and drawn."""
    one = tab.locator(f"#plot-{key}")
    one.scroll_into_view_if_needed()
    one.locator(".nsewdrag").first.wait_for()
    return one


def span(one) -> list[float]:
    """What the panels of a figure show of their horizontal axes, all the same."""
    shown = one.evaluate(
        "n => Object.entries(n._fullLayout).filter(([k]) => /^xaxis/.test(k)).map(([, axis]) => axis.range)"
    )
    assert shown == [shown[0]] * len(shown)
    return shown[0]


def hover(tab, one, x: float, panel: int = 0) -> str:
    """The values that are shown with the pointer at x."""
    at = one.evaluate(
        "(n, [x, i]) => { const axis = n._fullLayout[`xaxis${i ? i + 1 : ''}`]; return axis._offset + axis.d2p(x); }",
        [x, panel],
    )
    box, drawn = one.locator(".nsewdrag").nth(panel).bounding_box(), one.bounding_box()
    tab.mouse.move(drawn["x"] + at, box["y"] + box["height"] / 2)
    one.locator(".hoverlayer .legend, .hoverlayer .hovertext").first.wait_for()
    tab.wait_for_timeout(200)
    return "\n".join(one.locator(".hoverlayer text").all_text_contents())


def panels_of(data: dict, name: str, scale: int = 0) -> list[dict]:
    [artifact] = [artifact for artifact in data["artifacts"] if artifact["name"] == name]
    return blocks(artifact["views"][scale], "charts")[0]["panels"]


def test_every_artifact_is_drawn(tab):
    assert sorted(tab.locator("article").evaluate_all("nodes => nodes.map((node) => node.id)")) == sorted(SHOWN)
    assert tab.locator("nav a").count() == len(SHOWN) + 3
    assert tab.locator("nav [data-of=why-static]").inner_text().startswith("SparseOpt and SGD with a static mask")
    assert tab.locator("#table1 .results td").count() == 36 + 18, "and what SparseOpt gains"
    assert "make reproduce-table1" in tab.locator("#table1 .count").inner_text()
    assert tab.locator("#table4 code").first.inner_text() == "batch_size"
    assert tab.locator("#table2 .reduced .tag").inner_text().startswith("REDUCED SCALE cpu: CIFAR-100 at 16x16")
    assert "paper 61.64" not in tab.locator("#table2 .reduced").inner_text()
    assert "paper 61.64" in tab.locator("#table2 .view").first.inner_text()
    tab.locator("#fig6 img").scroll_into_view_if_needed()
    assert tab.locator("#fig6 img").get_attribute("alt")
    labels = tab.locator("[role=region]").evaluate_all("nodes => nodes.map((node) => node.ariaLabel)")
    assert sorted(labels) == sorted(set(labels)), "every region has a name of its own"
    assert "REDUCED SCALE cpu" in hover(tab, plot(tab, "fig11-cpu"), 30)


def test_a_figure_without_runs_says_so(opened, tmp_path):
    page.write(["fig10", "fig11"], tmp_path)
    tab = opened(tmp_path / "report.html")
    fold = tab.locator("details.untrained", has_text="Figures without a run yet (2): fig10, fig11")
    assert not tab.locator("#fig10").is_visible()
    tab.evaluate("location.hash = '#fig10'")
    tab.locator("#fig10").wait_for()
    assert fold.get_attribute("open") is not None, "a link opens it"
    assert tab.locator("#fig10 figure .note").inner_text() == "No complete run of ours yet"
    assert "no complete run of ours yet" in plot(tab, "fig11").text_content(), "the paper's points are there"


@pytest.mark.slow
def test_600_runs_fit_into_3_megabytes_and_are_interactive_within_2_seconds(opened, tmp_path):
    tables = [f"table{i}" for i in (1, 2, 3, 8, 9)]
    assert leave(tmp_path, tables) >= 600
    page.write(tables, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    times = []
    while len(times) < 3 and min(times, default=2000) >= 2000:
        tab = opened(tmp_path / "report.html")
        times.append(tab.evaluate("performance.getEntriesByName('interactive')[0].startTime"))
        answered = tab.evaluate(
            "() => { const start = performance.now(); $('sparsity').value = '0.95'; filter();"
            " document.body.offsetHeight; return performance.now() - start; }"
        )
        assert answered < 1000
    assert min(times) < 2000, times


def test_filters_and_search(opened):
    tab = opened()
    shown = tab.locator("#shown")
    tab.select_option("#sparsity", "0.95")
    rows = tab.locator("#table1 .results tbody tr:visible")
    assert rows.count() == 4 + 2
    assert set(rows.locator("th:first-child").all_inner_texts()) == {"95%"}
    tab.select_option("#optimizer", "sparseopt")
    tab.select_option("#dst", "set")
    assert rows.count() == 1
    assert tab.locator("#table2").is_hidden(), "Table 2 is RigL's"
    assert tab.locator("#fig11").is_hidden()
    tab.select_option("#dst", "rigl")
    one = plot(tab, "fig11")
    assert one.locator(".annotation").all_text_contents() == ["Sparsity 95%"]
    legend = tab.locator("#fig11 .view:not(.reduced) .legend button:visible")
    words = [text.rpartition("\n")[2] for text in legend.all_inner_texts()]
    assert words == ["SparseOpt", "paper, SparseOpt"]
    tab.select_option("#scale", "cpu")
    assert tab.locator("article:visible .view:not(.reduced):visible").count() == 0
    assert tab.locator("#table2 .reduced").is_visible()
    tab.click("#reset")
    assert shown.inner_text() == f"{len(SHOWN)} of {len(SHOWN)} artifacts shown"
    claims = tab.locator(".claim:visible")
    every = claims.count()
    tab.fill("#text", "balance equation")
    assert tab.locator("article:visible").evaluate_all("nodes => nodes.map((node) => node.id)") == ["fig6"]
    assert tab.locator("nav li:visible").count() == 4
    assert claims.count() == 0
    tab.fill("#text", "Update frequency")
    assert tab.locator("article:visible").evaluate_all("nodes => nodes.map((node) => node.id)") == ["table4"], (
        "its rows"
    )
    tab.fill("#text", "no such thing")
    assert tab.get_by_text("No artifact matches").is_visible()
    tab.click("#reset")
    tab.select_option("#dataset", "imagenet")
    assert tab.locator("#claim-sparseopt-beats-baseline").is_visible()
    assert 0 < claims.count() < every
    assert tab.locator("#claim-ham-adds-to-baseline").is_hidden(), "its tables are CIFAR's"


@pytest.mark.parametrize(
    ("name", "x", "head"),
    [("quickstart", 40, "Epoch"), ("fig11", 300, "Total training epochs"), ("fig10", 95, "Sparsity (%)")],
)
def test_values_under_the_pointer_are_those_of_the_records(tab, data, name, x, head):
    """One chart of each kind: lines with bands, points over the length of training, points over sparsity."""
    one = plot(tab, name)
    text = hover(tab, one, x)
    words, at = text.splitlines()[0].rsplit(" ", 1)
    assert (words, float(at)) == (head, pytest.approx(x, abs=2))
    x = float(at)
    lines = panels_of(data, name)[0]["series"]
    assert any("sd" in line for line in lines)
    for line in lines:
        if x in line["x"]:
            assert f"{line['name']}: {line['y'][line['x'].index(x)]:.2f}" in text
    [words, *_] = [line["name"] for line in lines if line["name"].startswith("SparseOpt")]
    tab.mouse.move(0, 0)
    tab.locator(f"#{name} .view:not(.reduced)").get_by_role("button", name=words, exact=True).click()
    without = hover(tab, one, x)
    assert f"\n{words}: " not in without
    assert "Baseline" in without


def test_panels_zoom_together_and_show_all_again(opened):
    one = plot(tab := opened(), "fig11")
    whole = span(one)
    box = one.locator(".nsewdrag").first.bounding_box()
    tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 50, steps=3)
    tab.mouse.up()
    low, high = span(one)
    assert high - low == pytest.approx(0.3 * (whole[1] - whole[0]), rel=0.1)
    one.get_by_role("button", name="Reset").click()
    assert span(one) == whole


def test_everything_works_by_keys(opened):
    tab = opened()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    one = plot(tab, "fig11")
    one.focus()
    tab.keyboard.press("ArrowRight")
    assert one.evaluate("node => getComputedStyle(node).outlineStyle") == "solid", "focus is visible"
    spoken = tab.locator("#fig11 figure [role=status]").first
    assert spoken.inner_text().startswith("Sparsity 90%; Total training epochs 100; ")
    tab.keyboard.press("ArrowRight")
    assert "Total training epochs 200; " in spoken.inner_text()
    tab.keyboard.press("ArrowDown")
    assert spoken.inner_text().startswith("Sparsity 95%; Total training epochs 200; ")
    whole = span(one)
    one.get_by_role("button", name="Zoom in").focus()
    tab.keyboard.press("Enter")
    assert span(one) != whole
    button = tab.locator("#fig11 .legend button").first
    button.focus()
    tab.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "false"
    tab.locator("#table2 .results").first.scroll_into_view_if_needed()
    tab.locator("#table2 .results [role=button]").nth(2).focus()
    tab.keyboard.press("Enter")
    tab.locator("#table2 .results [aria-sort=descending]").first.wait_for()


def test_a_table_is_sorted_and_searched_and_keeps_its_filters(opened):
    tab = opened()
    tab.evaluate("location.hash = '#table2'")
    table = tab.locator("#table2 .view:not(.reduced) .results")
    table.locator("[role=button]").nth(2).click()
    table.locator("[aria-sort=descending]").wait_for()
    texts = table.locator("tbody tr td:nth-of-type(1)").all_inner_texts()
    shown = [float(text.split()[0]) for text in texts if text[0].isdigit()]
    assert len(shown) > 8
    assert shown == sorted(shown, reverse=True)
    tab.select_option("#sparsity", "0.95")
    assert set(table.locator("tbody tr:visible th:first-child").all_inner_texts()) == {"95%"}
    tab.click("#reset")
    tab.locator("#table1 summary", has_text="Runs and their configuration (36)").click()
    runs = tab.locator("#table1 [data-rows] .scroll tbody tr")
    runs.nth(35).wait_for()  # the fold draws its table in an event of its own
    assert runs.locator("td:first-child").all_inner_texts() == [cell.id for cell in sweeps.load("table1").cells]
    tab.locator("#table1 [data-rows] .dt-search input").fill("sparseopt 0.97")
    assert 0 < runs.count() < 36
    tab.locator("#table1 [data-rows] .dt-search input").fill("")
    tab.select_option("#sparsity", "0.95")
    assert tab.locator("#table1 [data-rows] .scroll tbody tr:visible").count() == 12


def test_claims_open(tab, data, results):
    tab.locator("#table1 summary", has_text="Claims judged on it (7)").click()
    tab.locator("#table1 a", has_text="gap-shrinks").click()
    claim = tab.locator("#claim-gap-shrinks")
    claim.locator("tbody tr").first.wait_for()
    [judged] = [one for one in data["claims"] if one["id"] == "gap-shrinks"]
    [stated] = [one for one in claims.stated() if one["id"] == "gap-shrinks"]
    for scale, side in judged["ours"].items():
        assert side["said"] == verdicts.said(claims.on_ours(stated, results, scale)), "as `make claims` judges it"
    cells = len(judged["paper"]["cells"]) + sum(len(side["cells"]) for side in judged["ours"].values())
    assert claim.locator("tbody tr").count() == min(cells, 50)
    assert judged["ours"]["paper"]["said"] in claim.locator("summary").inner_text()
    assert judged["paper"]["spread"] in claim.locator("summary").inner_text()


@pytest.mark.parametrize("preference", ["light", "dark"])
def test_the_theme_follows_the_reader_and_the_button(opened, preference):
    ground = "getComputedStyle(document.body).backgroundColor"
    turned = "getComputedStyle(document.querySelector('#fig6 img')).filter !== 'none'"
    shades = {"light": ("rgb(255, 255, 255)", False), "dark": ("rgb(20, 23, 26)", True)}
    tab = opened(color_scheme=preference)
    one = plot(tab, "fig11")
    assert (tab.evaluate(ground), tab.evaluate(turned)) == shades.pop(preference)
    tab.click("#theme")
    [other] = shades.values()
    assert (tab.evaluate(ground), tab.evaluate(turned)) == other
    assert one.locator(".main-svg").first.evaluate("n => getComputedStyle(n).backgroundColor") == other[0]
    tab.emulate_media(media="print")
    assert (tab.evaluate(ground), tab.evaluate(turned)) == ("rgb(255, 255, 255)", False)


def test_a_phone_scrolls_down_only(opened):
    tab = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert tab.evaluate("document.documentElement.scrollHeight") < 7000, "it begins with titles"
    assert not tab.locator("#plot-fig10").is_visible()
    tab.evaluate("location.hash = '#fig10'")
    plot(tab, "fig10")
    tab.locator("#fig6 > details > summary").tap()
    tab.locator("#fig6 .enlarge").tap()
    shown = tab.locator("#large img")
    assert shown.bounding_box()["width"] > 900, "a picture is enlarged by a tap"
    assert shown.get_attribute("src") == tab.locator("#fig6 img").get_attribute("src")
    tab.locator("#large button").tap()
    assert shown.is_hidden()
    wide = tab.evaluate(
        "[...document.querySelectorAll('body *')].filter((node) => !node.closest('.scroll, .skip, svg')"
        " && node.getBoundingClientRect().right > 391).map((node) => node.outerHTML.slice(0, 80))"
    )
    assert wide == [], "only tables are wider than the screen, and they scroll in themselves"
    assert tab.locator("#choices").is_hidden()
    tab.locator("#filters summary").tap()
    tab.select_option("#dataset", "imagenet")
    assert tab.locator("#table2 .view").first.is_hidden()


def test_nothing_in_the_records_can_become_markup(opened, stated):
    """The device of every run of that page is `HOSTILE`."""
    text, scripts = stated.read_text(), (HERE / "page.html").read_text().count("<script")
    assert HOSTILE in embedded(text)["rows"]["runs-table2"]["caption"]
    tags = [tag for tag, _ in Tags(text).found]
    assert (tags.count("script"), tags.count("img")) == (scripts, 0)
    tab = opened(stated)
    tab.locator("#table2 summary", has_text="Runs and their configuration").first.click()
    assert HOSTILE in tab.locator("#table2 [data-rows] .caption").first.inner_text()
    assert "broken" not in tab.title()
    assert tab.locator("script").count() == scripts


# --- the first screen, and rehearsals ---

SPARSEOPT, SGD = ({"sparsity": 0.97, "epochs": 100, "optimizer": name} for name in ("sparseopt", "sgd"))
PAIR = {"at": "table2", "a": SPARSEOPT, "b": SGD}
STATEMENTS = [
    {
        "says": "it gains",
        "verdict": "agrees",
        "claim": "sparseopt-beats-baseline",
        "paper": {"a": {"table": "table2", **SPARSEOPT}, "b": {"table": "table2", **SGD}},
        "sure": "so",
        "ours": [PAIR | {"under": "ours"}, PAIR | {"scale": "smoke"}],
    },
    {"says": "it fades", "verdict": "disagrees", "paper": "Section 3", "sure": "so"}
    | {"ours": "in 300 steps", "n": 3, "measured": "a toy", "at": "fig11"},
    {"says": "it loses much", "verdict": "new", "paper": "-40", "sure": "so"}
    | {"ours": [{"at": "table2", "a": SGD | {"sparsity": 0.9}, "b": SGD}]},
]
VERDICT = [
    {"question": "Reproduced?", "answer": "Not <yet>: it gains."}
    | {"number": PAIR | {"says": "the gain", "where": "on a toy"}},
    {"question": "Why?", "answer": "One seed."},
]


def gaining(cell) -> float:
    """SparseOpt gains 1, 2 and 3 points in its three seeds."""
    return 60.0 + (1 + int(cell.factors["seed"])) * (cell.factors["optimizer"] == "sparseopt")


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    """A page of two artifacts with claims, records at the paper's scale and a rehearsal's, and what can be tried."""
    place = tmp_path_factory.mktemp("stated")
    (place / "records").mkdir()
    for task in ("bn_gradient", "amplification"):
        shutil.copy(sweeps.RESULTS / "records" / f"{task}.rows.csv", place / "records")
    (place / "statements.yaml").write_text(yaml.safe_dump(STATEMENTS))
    (place / "verdict.yaml").write_text(yaml.safe_dump(VERDICT))
    for scale in ("paper", "smoke"):
        for name in ("table2", "fig11"):
            leave_records(place, name, scale, gaining, device=HOSTILE)
    page.write(["table2", "fig11"], place, page.Links("https://forge.example/us/it", "us/sparse"))
    return place / "report.html"


def test_the_page_begins_with_the_verdict(opened, stated):
    tab = opened(stated, viewport={"width": 1440, "height": 900})
    first, second = tab.locator("#verdict > div").all()
    lines = ["Reproduced?", "Not <yet>:", "+2.00 [−0.48, +4.48]", "the gain; n = 3, on a toy", "it gains."]  # noqa: RUF001
    assert first.inner_text().split("\n\n") == lines
    assert second.inner_text().split("\n\n") == ["Why?", "One seed."]
    sizes = [float(one.evaluate("n => parseFloat(getComputedStyle(n).fontSize)")) for one in first.locator("p").all()]
    assert sizes[1] > 2 * max(sizes[0], *sizes[2:]), "the number is large"
    assert tab.locator("#found").bounding_box()["y"] > first.bounding_box()["y"]


def test_a_rehearsal_has_no_best_cell_and_judges_no_claim(opened, stated):
    views = {scale: view("table2", scale, stated.parent) for scale in ("paper", "smoke")}
    assert {scale: "best" in json.dumps(one["blocks"]) for scale, one in views.items()} == {
        "paper": True,
        "smoke": False,
    }
    sides = opened(stated).locator("#claim-sparseopt-beats-baseline .sides").text_content()
    assert "paper" in sides
    assert "smoke" not in sides


def test_runs_are_counted_by_what_they_are_evidence_of(tmp_path):
    names = {"table1": "accuracy", "table8": "accuracy", "fig1": "theory", "fig9": "theory", "quickstart": "theory"}
    assert {name: view(name, "paper", tmp_path)["kind"] for name in names} == names
    assert view("why-renorm", "cpu", tmp_path)["kind"] == "reduced"
    assert view("table2", "smoke", tmp_path)["kind"] == view("fig1", "smoke", tmp_path)["kind"] == "rehearsal"


def test_the_scoreboard_has_a_row_a_claim_with_its_scales_on_one_axis(opened, stated):
    tab = opened(stated, viewport={"width": 1440, "height": 900})
    said = "Accuracy at the paper's protocol: 48 of 48 numbers of its tables so far, up to 3 seeds each."
    assert tab.locator("#found + p strong").inner_text() == said
    rows = tab.locator(".board tbody tr")
    assert rows.locator("th").all_inner_texts() == ["it gains\nso", "it fades\nso", "it loses much\nso"], (
        "as in the file"
    )
    assert rows.locator(".verdict").all_inner_texts() == ["agrees", "disagrees", "not in the paper"]
    theirs, ours, rehearsed = rows.first.locator(".measure").all()
    assert theirs.inner_text() == "+1.42 [+0.56, +2.28] the paper"
    assert ours.inner_text() == "+2.00 [−0.48, +4.48] n=3, the paper's protocol, ours; table2"  # noqa: RUF001
    assert rehearsed.locator(".tag").inner_text() == "REDUCED smoke"
    per = 160 / 8  # of a point on the axis, which ends beyond the widest interval, at 7.85

    def points(one, kind: str = "circle", ends: tuple[str, ...] = ("cx",)) -> list[float]:
        return [(float(one.locator(f"svg {kind}").first.get_attribute(end)) - 170) / per for end in ends]

    assert points(theirs) == pytest.approx([1.42])
    assert points(theirs, ".interval", ("x1", "x2")) == pytest.approx([0.56, 2.28])
    assert points(ours) == pytest.approx([2.0])
    assert points(ours, ".interval", ("x1", "x2")) == pytest.approx([-0.48, 4.48], abs=0.01)
    assert 1.4 * per * ours.locator("svg").bounding_box()["width"] / 340 > 15, "pixels that 1.4 points take"
    beyond = rows.last.locator(".measure").first
    assert (beyond.locator("svg circle").count(), beyond.locator("svg text").text_content()) == (0, "◁")
    assert rows.nth(1).locator("svg").count() == 0
    assert rows.nth(1).locator("a").get_attribute("href") == "#fig11"
    assert tab.locator("#claim-sparseopt-beats-baseline .sides").inner_text().endswith("scoreboard: agrees, so")
    tab.select_option("#sparsity", "0.9")
    assert rows.locator("visible=true").locator("th").all_inner_texts() == ["it fades\nso", "it loses much\nso"]
    tab.select_option("#sparsity", "0.95")
    tab.select_option("#optimizer", "sgd")
    assert rows.locator("visible=true").locator("th").all_inner_texts() == ["it fades\nso"], "Figure 11 has such runs"
    tab.click("#reset")
    tab.select_option("#scale", "smoke")
    assert (ours.is_visible(), rehearsed.is_visible()) == (False, True)
    tab.fill("#text", "nothing of that")
    assert tab.get_by_text("No claim matches").is_visible()


def test_one_table_has_every_run_with_its_record_and_its_page_at_wandb(opened, stated):
    tab = opened(stated)
    assert tab.locator(".top a", has_text="Repository").get_attribute("href") == "https://forge.example/us/it"
    tab.locator("[data-rows=runs] summary").click()
    rows = tab.locator("[data-rows=runs] tbody tr")
    rows.first.wait_for()
    made = json.loads(tab.evaluate("JSON.stringify(data.rows.runs)"))
    known = {(scale, cell.id) for scale in ("paper", "smoke") for cell in sweeps.load("table2", scale).cells}
    assert {(row[2], row[0]) for row in made["rows"]} == known, "a run of two artifacts stands once"
    assert "table2, fig11" in {row[-1] for row in made["rows"]}
    record, uploaded = rows.first.locator("a").all()
    run, scale = made["rows"][0][0], made["rows"][0][2]
    assert scale == "paper"
    line = int(record.get_attribute("href").rpartition("#L")[2])
    assert (stated.parent / "records" / "runs.csv").read_text().splitlines()[line - 1].startswith(run)
    assert record.get_attribute("href").startswith(
        "https://forge.example/us/it/blob/HEAD/results/records/runs.csv?plain=1"
    )
    assert uploaded.get_attribute("href") == f"https://wandb.ai/us/sparse/runs/{run}"
    assert page.Links().record("cpu", 3) == "cpu/records/runs.csv"


def test_a_rehearsal_is_hidden_until_it_is_asked_for(opened, stated):
    tab = opened(stated)
    rehearsal = tab.locator("#table2 .reduced")
    assert not rehearsal.is_visible()
    tab.check("#rehearsals")
    assert rehearsal.is_visible()
    assert rehearsal.locator(".tag").inner_text().startswith("REHEARSAL smoke: 500 handwritten digits")
    assert rehearsal.locator(".caption").first.inner_text().startswith("[REHEARSAL smoke: 500 handwritten digits")
    tab.click("#reset")
    assert not rehearsal.is_visible()
    tab.select_option("#scale", "smoke")
    assert rehearsal.is_visible()
    counts = tab.locator("section:has(> #overview) li").all_inner_texts()
    assert counts[0].startswith("Accuracy at the paper's protocol: 144 of 144 distinct runs")
    assert counts[1].startswith("Rehearsals, evidence of nothing")


def test_the_address_holds_the_filters_so_that_a_view_can_be_shared(opened, stated):
    tab = opened(stated)
    tab.select_option("#sparsity", "0.95")
    tab.check("#rehearsals")
    assert tab.evaluate("location.hash") == "#?sparsity=0.95&rehearsals=true"
    tab.locator("nav a", has_text="Table 2.").click()
    tab.wait_for_url(lambda url: url.endswith("#table2?sparsity=0.95&rehearsals=true"))
    shared = opened(Path(f"{stated}"))
    shared.evaluate("location.hash = '#table2?sparsity=0.95&scale=nonsense'")
    shared.wait_for_selector("#sparsity option[value='0.95']:checked", state="attached")
    assert shared.locator("#scale").input_value() == ""
    rows = shared.locator("#table2 .view:not(.reduced) .results tbody tr:visible")
    assert rows.count() == 4 + 2
    shared.reload()
    shared.wait_for_selector("html[data-ready]", state="attached")
    assert shared.locator("#sparsity").input_value() == "0.95"
    shared.click("#reset")
    assert shared.evaluate("location.hash") == "#table2"


# --- the explanation, and figures to take along ---


def test_the_explanation_has_the_committed_measurements(tmp_path):
    assert explanation(tmp_path) is None
    found = explanation(sweeps.RESULTS)
    for sparsity, ratio in found["measured"]:
        assert ratio == pytest.approx((1 - sparsity) ** -0.5, rel=0.03)
    assert list(found["exponents"]) == ["0", "299"]
    at_start, later = (dict(points) for points in found["exponents"].values())
    assert list(at_start) == list(later) == [0.9, 0.95, 0.97]
    for sparsity in at_start:
        assert at_start[sparsity] == pytest.approx(-0.5, abs=0.1)
        assert later[sparsity] > at_start[sparsity] + 0.2, "it fades"


def test_the_explanation_can_be_played_with(opened, stated):
    tab = opened(stated)
    says = tab.locator(".try .says")
    kept, plain, corrected = told(says.inner_text())
    assert kept[-1] == 144
    for count, ratio in zip(kept[:2], reversed(plain), strict=True):
        assert ratio == pytest.approx((144 / count) ** 0.5, abs=0.01), "Eq. 10"
    assert len(corrected) == 1, "Eq. 12 gives all neurons of the layer one length"
    tab.locator(".try input[type=radio]").nth(1).check()
    kept, plain, corrected = told(says.inner_text())
    exponent = dict(explanation(sweeps.RESULTS)["exponents"]["299"])[0.9]
    assert plain[-1] / plain[0] == pytest.approx((kept[1] / kept[0]) ** abs(exponent), rel=0.02)
    assert corrected[1] / corrected[0] == pytest.approx((kept[1] / kept[0]) ** (0.5 + exponent), rel=0.02)
    assert plain[0] <= 1 <= plain[-1], "a slope is measured, so lengths are relative to the layer's mean"
    tab.locator("#try-sparsity").focus()
    tab.keyboard.press("Home")
    assert says.inner_text().startswith("The neurons keep 144 of 144 weights each.")
    assert tab.evaluate("$('try-plot').data[0].x.length") == 0, "no weight is masked"


def told(text: str) -> list[list[float]]:
    """The numbers of each part of what the explanation says: weights, gradients, gradients with Eq. 12."""
    parts = re.split(r"Their gradients are|, and", text)
    return [
        [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?! *\d*Eq)", part.replace("Eq. 12", ""))]
        for part in parts
    ]


def test_figures_and_tables_can_be_taken_along(opened, data):
    from playwright.sync_api import TimeoutError as LateError

    tab = opened()

    def taken(name: str, again: bool = True):
        try:
            with tab.expect_download(timeout=15_000) as given:
                tab.get_by_role("button", name=name, exact=True).click()
        except LateError:  # Chromium may drop one of many downloads
            if again:
                return taken(name, again=False)
            raise
        return given.value

    plot(tab, "fig11")
    csv = taken("CSV of fig11")
    assert csv.suggested_filename == "fig11.csv"
    rows = pd.read_csv(csv.path())
    expected = [
        (panel["title"], series["name"], x, y)
        for panel in panels_of(data, "fig11")
        for series in panel["series"]
        for x, y in zip(series["x"], series["y"], strict=True)
    ]
    found = rows[["panel", "series", "Total training epochs", "mean"]]
    assert list(found.itertuples(index=False, name=None)) == expected
    with Image.open(taken("PNG of fig11").path()) as made:
        assert made.width > 1000
        inks = {colour for _, colour in made.convert("RGB").getcolors(2**24)}
        assert tuple(int(style.BLUE[i : i + 2], 16) for i in (1, 3, 5)) in inks, "SparseOpt's line is drawn on it"
    table = pd.read_csv(taken("Download table2.csv").path())
    assert len(table) > 48
    assert {"mean", "n", "paper_mean"} <= set(table)
    assert r"\begin{tabular}" in Path(taken("Download table2.tex").path()).read_text()
    tab.locator("#why-static .lines").first.scroll_into_view_if_needed()
    study = pd.read_csv(taken("CSV of why-static-cpu-1").path())
    assert list(study.columns[:2]) == ["Method", "Setting"]
    written = Path(taken("LaTeX of why-static-cpu-1").path()).read_text()
    assert written.count(r"\\") == len(study) + 1
    assert r"$\pm$" in written
