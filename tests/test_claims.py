"""Claims judged on numbers whose verdict is known, and on the paper's own."""

import pandas as pd
import pytest
from scipy.stats import t as student_t

from sparse_train.report import claims, paper, sweeps

CLAIM = {"kind": "better", "tables": ["table1"], "a": {"optimizer": "sparseopt"}, "b": {"optimizer": "sgd"}}


@pytest.fixture(scope="module")
def on_the_papers():
    """Claim -> the words of the cells that speak against it, on the paper's numbers."""
    judged = {claim["id"]: claims.on_the_papers(claim) for claim in claims.stated()}
    return {name: {c.words for c in cells if c.verdict == claims.FAILS} for name, cells in judged.items()}


def test_all_published_cells_are_there():
    tables = [paper.table(f"table{i}") for i in (1, 2, 3, 6, 7, 8, 9)]
    assert sum(len(table) for table in tables) == 252
    assert all(table["mean"].between(1, 100).all() for table in tables)


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
def test_the_papers_own_contradictions_are_named(claim, on_the_papers):
    assert on_the_papers[claim] == CONTRADICTIONS[claim]


def test_rigl_does_not_beat_set_at_97_percent_on_imagenet(on_the_papers):
    assert {f"imagenet 97% {epochs} epochs" for epochs in (90, 270)} <= on_the_papers["rigl-beats-set"]
    assert len([words for words in on_the_papers["rigl-beats-set"] if words.startswith("cifar100")]) >= 9
    assert len(on_the_papers["ham-adds-to-baseline"]) >= 4


def test_claims_that_the_papers_numbers_bear_out(on_the_papers):
    for claim in ("sparseopt-beats-baseline-shortest", "renormalized", "exploration"):
        assert on_the_papers[claim] == set()


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
        ([(71, 70), (70, 71), (72, 71)], "not enough data"),
        ([(71, 70)], "holds"),
        ([(70, 70)], "fails"),
        ([(70, 71)], "fails"),
    ],
)
def test_verdicts_follow_the_interval_over_paired_seeds(pairs, verdict):
    cells = claims.judge(CLAIM, numbers(*pairs))
    [known] = [cell for cell in cells if cell.effect is not None]
    assert known.verdict == verdict
    assert known.n == len(pairs)
    differences = pd.Series([a - b for a, b in pairs])
    assert known.effect == pytest.approx(differences.mean())
    if len(pairs) > 1:
        half = student_t.ppf(0.975, len(pairs) - 1) * differences.std() / len(pairs) ** 0.5
        assert (known.low, known.high) == pytest.approx((differences.mean() - half, differences.mean() + half))
    assert claims.overall(cells) == ("fails" if verdict == "fails" else "not enough data"), "other cells are missing"


def test_seeds_are_paired():
    """The methods move together over seeds: the difference is certain, though the spread of each is not small."""
    [known] = [c for c in claims.judge(CLAIM, numbers((60, 59), (70, 69.01), (80, 78.99))) if c.effect is not None]
    assert known.low > 0.9


def test_a_reduced_scale_says_so(tmp_path):
    page = claims.write(tmp_path, "smoke")
    assert "REDUCED SCALE smoke" in page.splitlines()[0]
    assert (tmp_path / "smoke" / "claims.md").read_text() == page
    assert page.count("no runs yet") == len(claims.stated())
    assert "REDUCED" not in claims.write(tmp_path, sweeps.PAPER)
