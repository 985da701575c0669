"""Claims judged on numbers whose verdict is known, and on the paper's own."""

import math
import re

import pandas as pd
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_ind_from_stats

from sparse_train.report import paper, sweeps
from sparse_train.report.evidence import claims, verdicts
from sparse_train.report.views import statistics
from support.records import leave_records

CLAIM = {
    "tables": ["table1"],
    "a": {"optimizer": "sparseopt"},
    "b": {"optimizer": "sgd"},
    "counts": 0.5,
}


@pytest.fixture(scope="module")
def on_the_papers():
    """Claim -> its cells, on the paper's numbers."""
    return {claim["id"]: claims.on_the_papers(claim) for claim in claims.stated()}


def test_all_published_cells_are_there_and_every_claim_names_the_effect_that_counts():
    tables = [paper.table(f"table{i}") for i in (1, 2, 3, 6, 7, 8, 9)]
    assert sum(len(table) for table in tables) == 252
    assert all(table["mean"].between(1, 100).all() for table in tables)
    for claim in claims.stated():
        assert (claim["counts"] < 0) == ("epochs" in claim["b"])
        assert abs(claim["counts"]) >= 0.5


@pytest.fixture(scope="module")
def against(on_the_papers):
    """Claim -> the words of the cells whose means point the other way, or tie."""
    return {name: {c.words for c in cells if c.found.mean <= 0} for name, cells in on_the_papers.items()}


CONTRADICTIONS = {
    "sparseopt-beats-baseline": {
        "imagenet SET 90% 180 epochs",
        "imagenet SET 90% 270 epochs",
        "imagenet SET 95% 270 epochs",
        "imagenet RigL 90% 270 epochs",
        "cifar100 SET 97% 500 epochs",
    },
    "ham-adds-to-sparseopt": {
        "cifar100 RigL 90% 500 epochs",
        "cifar100 RigL 97% 200 epochs",
        "cifar100 RigL 97% 300 epochs",
        "cifar100 SET 97% 100 epochs",
        "cifar100 SET 97% 500 epochs",
        "cifar100 SET 90% 500 epochs",
    },
}


@pytest.mark.parametrize("claim", CONTRADICTIONS)
def test_the_papers_own_contradictions_are_named(claim, against):
    assert against[claim] == CONTRADICTIONS[claim]


def test_rigl_does_not_beat_set_at_97_percent_on_imagenet(against):
    assert {f"imagenet 97% {epochs} epochs" for epochs in (90, 270)} <= against["rigl-beats-set"]
    assert len([words for words in against["rigl-beats-set"] if words.startswith("cifar100")]) >= 9
    assert len(against["ham-adds-to-baseline"]) >= 4


def test_claims_that_the_papers_means_bear_out(on_the_papers, against):
    for claim in ("renormalized", "renormalized-ham", "exploration"):
        assert against[claim] == set()
        assert verdicts.overall(on_the_papers[claim]) == "holds"


def test_two_hundredths_of_a_point_are_no_contradiction(on_the_papers):
    """Within the paper's means, the smaller of them neither holds nor fails."""
    cells = {c.words: c for c in on_the_papers["sparseopt-beats-baseline"]}
    assert cells["imagenet SET 90% 180 epochs"].found.mean == -0.02
    assert cells["imagenet SET 90% 180 epochs"].verdict == "too small to count"
    assert verdicts.overall(list(cells.values())) == "open"
    assert "fails" in {c.verdict for c in on_the_papers["rigl-beats-set"]}


def test_what_stands_beyond_the_papers_spread(on_the_papers):
    """Tables 8 and 9 in every cell, Tables 2 and 3 in none, by scipy's own test and by hand."""
    words = {name: verdicts.beyond_spread(cells) for name, cells in on_the_papers.items()}
    assert words["renormalized"] == "for it in 24 of 24 (table8 12 of 12, table9 12 of 12)"
    assert words["sparseopt-beats-baseline"] == "for it in 0 of 24 (table2 0 of 12, table3 0 of 12)"
    assert words["exploration"] == "no spread given"
    [cell] = [c for c in on_the_papers["sparseopt-beats-baseline"] if c.words == "cifar100 RigL 97% 100 epochs"]
    expected = ttest_ind_from_stats(53.95, 0.40, 3, 52.53, 0.35, 3, equal_var=False).pvalue
    assert cell.found.p == pytest.approx(expected)
    p = [c.found.p for c in on_the_papers["sparseopt-beats-baseline"] if not math.isnan(c.found.p)]
    assert (len(p), sum(value < 0.05 for value in p)) == (24, 7), "before the adjustment some look certain"
    assert cell.adjusted == pytest.approx(statistics.holm(p)[p.index(cell.found.p)])


def numbers(*pairs):
    """Runs of one cell of Table 1: (sparseopt, sgd) per seed."""
    cell = {"dataset": "imagenet", "dst": "rigl", "sparsity": "0.9", "renorm": "none", "epochs": "90"}
    both = [
        dict(cell, seed=str(i), optimizer=o, value=v)
        for i, p in enumerate(pairs)
        for o, v in zip(("sparseopt", "sgd"), p, strict=True)
    ]
    return pd.DataFrame(both)


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(71, 70), (72, 71), (73.1, 72)], "holds"),
        ([(70, 71), (71, 72), (72, 73.1)], "fails"),
        ([(71, 70), (70, 71), (72, 71)], "open"),
        ([(70.04, 70), (71.05, 71), (72.03, 72)], "too small to count"),  # certain, and of no account
        ([(70.2, 70), (71.4, 71), (72.6, 72)], "open"),  # the mean is too small, the interval is not
        ([(65, 71)], "one seed, not judged"),
    ],
)
def test_verdicts_follow_the_interval_over_paired_seeds(pairs, verdict):
    cells = claims.judge(CLAIM, numbers(*pairs), claims.over_seeds)
    [known] = [cell for cell in cells if cell.known]
    assert (known.verdict, known.found.n) == (verdict, len(pairs))
    differences = pd.Series([a - b for a, b in pairs])
    assert known.found.mean == pytest.approx(differences.mean())
    if len(pairs) > 1:
        half = student_t.ppf(0.975, len(pairs) - 1) * differences.std() / len(pairs) ** 0.5
        assert known.found[1:3] == pytest.approx((differences.mean() - half, differences.mean() + half))
        assert f"judged: 1 of {len(cells)} ({verdict} in 1)" in verdicts.said(cells)
    else:
        assert verdicts.said(cells) == f"one seed: {differences[0]:+.2f}, not judged"
    whole = {"fails": "fails", "one seed, not judged": "one seed, not judged"}.get(verdict, "open")
    assert verdicts.overall(cells) == whole, "other cells are missing"
    assert verdicts.overall([known]) == ("holds" if verdict == "holds" else whole)


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(70, 70.2), (71, 71.3), (72, 72.2)], "holds"),  # as good, up to half a point
        ([(70, 70.2), (71, 71.9), (72, 72.1)], "open"),
    ],
)
def test_a_negative_effect_that_counts_says_how_much_less_is_as_good(pairs, verdict):
    cells = claims.judge(CLAIM | {"counts": -0.5}, numbers(*pairs), claims.over_seeds)
    assert [cell.verdict for cell in cells if cell.known] == [verdict]


def test_several_single_seeds_are_counted_and_not_judged():
    one, two = numbers((71, 70)), numbers((71, 70)).assign(sparsity="0.95")
    assert (
        verdicts.said(claims.judge(CLAIM, pd.concat([one, two]), claims.over_seeds))
        == "one seed in 2 cells, not judged"
    )


def test_a_reduced_scale_says_so_and_a_rehearsal_judges_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "stated", lambda: [CLAIM | {"id": "x", "says": "x", "where": "x"}])
    leave_records(tmp_path, "table1", "smoke", lambda cell: 9.0 if cell.factors["optimizer"] == "sparseopt" else 1.0)
    page = claims.write(tmp_path, "smoke")
    assert "REHEARSAL smoke" in page.splitlines()[0]
    assert (tmp_path / "smoke" / "claims.md").read_text() == page
    ours = pd.read_csv(tmp_path / "smoke" / "claims.csv").set_index("claim")["on ours"]
    assert set(ours) == {"a rehearsal: not judged"}
    paper_page = claims.write(tmp_path, sweeps.PAPER)
    assert "REDUCED" not in paper_page
    assert paper_page.count("no runs yet") == len(claims.stated())


@pytest.mark.parametrize("scale", [sweeps.PAPER, "cpu"])
def test_the_committed_verdicts_are_those_of_the_records(scale):
    results = sweeps.ROOT / "results"
    place = sweeps.scale_dir(results, scale)
    (_, *lines), page = claims.pages(results, scale)
    assert (place / "claims.md").read_text() == page
    assert not re.search(r"; but\n\n(?!- )", page), "a head announces exceptions that do not follow"
    assert pd.read_csv(place / "claims.csv", dtype=str).to_numpy().tolist() == lines
