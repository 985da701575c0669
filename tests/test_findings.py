"""What is said of our runs in words is what the drawn tables say."""

import re
from pathlib import Path

import pytest

from sparse_train.report import sweeps

RESULTS = sweeps.ROOT / "results"
INTERVAL = re.compile(r"[+-]\d+\.\d\d\s\[[+-]\d+\.\d\d,\s[+-]\d+\.\d\d\]")
MEAN = re.compile(r"\d+\.\d\d ± \d+\.\d\d")


def linked(page: Path) -> str:
    """All tables that the page links."""
    return "\n".join(
        (page.parent / target).read_text() for target in re.findall(r"\]\((cpu/[\w-]+\.md)", page.read_text())
    )


@pytest.mark.parametrize("pattern", [INTERVAL, MEAN])
def test_every_number_of_the_findings_stands_in_a_table_that_they_link(pattern):
    page = RESULTS / "findings.md"
    quoted = {re.sub(r"\s", " ", text) for text in pattern.findall(page.read_text())}
    assert quoted
    assert quoted - set(pattern.findall(linked(page))) == set()


def test_the_words_say_at_which_scale():
    assert "**REDUCED SCALE cpu.**" in (RESULTS / "findings.md").read_text()
    for table in re.findall(r"\]\((cpu/[\w-]+\.md)", (RESULTS / "findings.md").read_text()):
        assert sweeps.reduced("cpu") in (RESULTS / table).read_text().splitlines()[0]
