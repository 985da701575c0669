"""A prediction counts as registered only if git had it before its runs."""

import subprocess

import pytest
import yaml

from sparse_train.report.evidence import comparisons

PAIR = {"says": "two settings agree", "a": {"optimizer": "sgd"}, "b": {"optimizer": "sparseopt"}}
WITHIN = {"test_acc": 1.0}


@pytest.fixture
def revision_of(tmp_path, monkeypatch):
    """Revisions of a sweep file: without the prediction, with a wider margin, and as it is judged."""
    monkeypatch.setattr(comparisons, "ROOT", tmp_path)
    comparisons.predicted.cache_clear()

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "sweeps").mkdir()
    revisions = {}
    for name, predictions in {
        "before": None,
        "wider": {"equal": [PAIR], "within": {"test_acc": 2.0}},
        "registered": {"equal": [PAIR], "within": WITHIN},
    }.items():
        text = yaml.safe_dump({"artifact": {"title": name, **({"predictions": predictions} if predictions else {})}})
        (tmp_path / "sweeps" / "study.yaml").write_text(text)
        git("add", "-A")
        git("commit", "-qm", name)
        revisions[name] = git("rev-parse", "HEAD")
    yield revisions
    comparisons.predicted.cache_clear()


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (["registered", "registered"], comparisons.REGISTERED),
        (["before"], comparisons.POST_HOC),
        (["wider"], comparisons.POST_HOC),
        (["registered", "before"], comparisons.POST_HOC),
        ([], ""),
    ],
)
def test_the_revision_of_every_run_must_have_it(revision_of, runs, said):
    assert comparisons.registered("study", PAIR, WITHIN, [revision_of[name] for name in runs]) == said


def test_a_changed_prediction_is_post_hoc(revision_of):
    changed = PAIR | {"says": "two settings agree, nearly"}
    assert comparisons.registered("study", changed, WITHIN, [revision_of["registered"]]) == comparisons.POST_HOC


def test_a_prediction_stays_registered_when_a_key_of_its_settings_is_renamed(monkeypatch):
    then, now = (
        {"says": "x", "a": {key: "sgd"}, "b": {"optimizer": "sgd"}} for key in ("dst.rank_as", "dst.method.rank_as")
    )
    monkeypatch.setattr(comparisons, "predicted", lambda sweep, revision: {"equal": [then], "within": WITHIN})
    assert comparisons.registered("study", now, WITHIN, ["r"]) == comparisons.REGISTERED
    assert comparisons.registered("study", now | {"says": "y"}, WITHIN, ["r"]) == comparisons.POST_HOC


def test_a_dirty_tree_registers_nothing(revision_of):
    dirty = [revision_of["registered"], revision_of["registered"] + "-dirty"]
    assert comparisons.registered("study", PAIR, WITHIN, dirty) == comparisons.POST_HOC


@pytest.mark.parametrize("revision", ["0" * 40, "--help", "None"])
def test_a_revision_that_git_does_not_have_is_unknown(revision_of, revision):
    assert comparisons.registered("study", PAIR, WITHIN, [revision]) == comparisons.UNKNOWN
