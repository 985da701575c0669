"""What is said of our runs in words is what the drawn tables say."""

import re

import pytest

from sparse_train.report import sweeps

RESULTS = sweeps.ROOT / "results"
INTERVAL = re.compile(r"[+-]\d+\.\d\d\s\[[+-]\d+\.\d\d,\s[+-]\d+\.\d\d\]")
MEAN = re.compile(r"\d+\.\d\d ± \d+\.\d\d")


PAGE = RESULTS / "findings.md"
TABLES = [RESULTS / target for target in re.findall(r"\]\((cpu/[\w-]+\.md)", PAGE.read_text())]


@pytest.mark.parametrize("pattern", [INTERVAL, MEAN])
def test_every_number_of_the_findings_stands_in_a_table_that_they_link(pattern):
    quoted = {re.sub(r"\s", " ", text) for text in pattern.findall(PAGE.read_text())}
    assert quoted
    assert quoted - set(pattern.findall("\n".join(table.read_text() for table in TABLES))) == set()


def test_the_words_say_at_which_scale():
    assert "**REDUCED SCALE cpu.**" in PAGE.read_text()
    for table in TABLES:
        assert sweeps.reduced("cpu") in table.read_text().splitlines()[0]
