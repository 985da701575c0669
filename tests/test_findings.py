"""What is said of our runs in words is what the drawn tables say."""

import re

import pytest

from sparse_train.report import collected, family, statistics, sweeps

RESULTS = sweeps.ROOT / "results"
INTERVAL = re.compile(r"[+-]\d+\.\d\d\s\[[+-]\d+\.\d\d,\s[+-]\d+\.\d\d\]")
MEAN = re.compile(r"\d+\.\d\d ± \d+\.\d\d")


PAGE = RESULTS / "findings.md"
LINKED = [RESULTS / target for target in re.findall(r"\]\(([\w/-]+\.md)", PAGE.read_text())]
TABLES = [path for path in LINKED if path.name != "theory.md"]


@pytest.mark.parametrize("pattern", [INTERVAL, MEAN])
def test_every_number_of_the_findings_stands_in_a_table_that_they_link(pattern):
    quoted = {re.sub(r"\s", " ", text) for text in pattern.findall(PAGE.read_text())}
    assert quoted
    assert quoted - set(pattern.findall("\n".join(table.read_text() for table in TABLES))) == set()


def test_the_words_say_at_which_scale():
    assert "**REDUCED SCALE cpu.**" in PAGE.read_text()
    reduced = [path for path in TABLES if path.parent.name == "cpu"]
    assert len(reduced) > 3
    for table in reduced:
        assert sweeps.reduced("cpu") in table.read_text().splitlines()[0]


def test_what_is_said_of_the_papers_protocol_is_in_its_records():
    runs = collected.load(RESULTS / "records" / "protocol.csv", sweeps.load("protocol").factors)
    done = runs[(runs["status"] == "complete") & runs["renorm"].isna()].set_index(["optimizer", "seed"])
    (sgd, ours), seed = (done.loc[name, "0"] for name in ("sgd", "sparseopt")), 1
    text = PAGE.read_text()
    assert f"| {sgd['test_acc']:.2f} | {seed} | paper |" in text
    assert f"| {ours['test_acc'] - sgd['test_acc']:+.2f} | {seed} | paper |" in text
    assert f"| {100 * (ours['itop_rate'] - sgd['itop_rate']):+.2f} | {seed} | paper |" in text


def test_the_family_of_effects_is_that_of_the_records():
    page = (RESULTS / "cpu" / "effects.md").read_text()
    assert page == family.markdown(RESULTS, "cpu")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| why-")]
    p, adjusted = ([float(row[place]) for row in rows] for place in (5, 6))
    assert len(rows) > 10
    assert p == sorted(p)
    assert adjusted == pytest.approx(statistics.holm(p), abs=2e-3)
    assert family.markdown(RESULTS / "nowhere", "cpu") == ""
