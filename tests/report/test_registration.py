"""A prediction counts as registered only if git had it before its runs."""

import subprocess

import pytest
import yaml

from sparse_train.report import sweeps
from sparse_train.report.evidence import registration
from sparse_train.report.evidence.registration import POST_HOC, REGISTERED, UNKNOWN
from sparse_train.report.schema import expected

PAIR = {"says": "two settings agree", "a": {"optimizer": "sgd"}, "b": {"optimizer": "sparseopt"}}
MADE = PAIR | {"within": 1.0}
BOUNDED = PAIR | {"says": "the first is no worse", "at_least": -0.5}
FILES = {  # `older` and `older, wider` as files were before they had one list of comparisons
    "before": {},
    "older": {"predictions": {"values": ["test_acc"], "within": {"test_acc": 1.0}, "equal": [PAIR, BOUNDED]}},
    "older, wider": {"predictions": {"values": ["test_acc"], "within": {"test_acc": 2.0}, "equal": [PAIR]}},
    "wider": {"values": ["test_acc"], "comparisons": [PAIR | {"within": 2.0}]},
    "registered": {"values": ["test_acc"], "comparisons": [MADE, BOUNDED]},
    "expects nothing": {"values": ["test_acc"], "comparisons": [PAIR]},
}


@pytest.fixture
def revision_of(tmp_path, monkeypatch):
    """The revision of each of the `FILES`."""
    monkeypatch.setattr(registration, "ROOT", tmp_path)
    registration.predicted.cache_clear()

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "sweeps").mkdir()
    revisions = {}
    for name, content in FILES.items():
        (tmp_path / "sweeps" / "study.yaml").write_text(yaml.safe_dump({"artifact": {"title": name, **content}}))
        git("add", "-A")
        git("commit", "-qm", name)
        revisions[name] = git("rev-parse", "HEAD")
    yield revisions
    registration.predicted.cache_clear()


@pytest.mark.parametrize(
    ("runs", "made"),
    [
        (["registered", "registered"], REGISTERED),
        (["older"], REGISTERED),
        (["older", "registered"], REGISTERED),
        (["before"], POST_HOC),
        (["wider"], POST_HOC),
        (["older, wider"], POST_HOC),
        (["expects nothing"], POST_HOC),
        (["registered", "before"], POST_HOC),
        ([], ""),
    ],
)
def test_the_revision_of_every_run_must_have_it(revision_of, runs, made):
    revisions = [revision_of[name] for name in runs]
    assert registration.registered("study", MADE, "test_acc", revisions) == made


@pytest.mark.parametrize("file", ["older", "registered"])
def test_a_bound_is_registered_without_a_margin(revision_of, file):
    revisions = [revision_of[file]]
    assert registration.registered("study", BOUNDED, "test_acc", revisions) == REGISTERED
    assert registration.registered("study", BOUNDED | {"at_least": 0.0}, "test_acc", revisions) == POST_HOC


def test_a_changed_prediction_is_post_hoc(revision_of):
    changed = MADE | {"says": "two settings agree, nearly"}
    assert registration.registered("study", changed, "test_acc", [revision_of["registered"]]) == POST_HOC


def test_a_prediction_stays_registered_when_a_key_of_its_settings_is_renamed(monkeypatch):
    then, now = (
        {"says": "x", "a": {key: "sgd"}, "b": {"optimizer": "sgd"}, "within": 1.0}
        for key in ("dst.rank_as", "dst.method.rank_as")
    )
    monkeypatch.setattr(registration, "predicted", lambda sweep, revision: [registration.form(then, "test_acc")])
    assert registration.registered("study", now, "test_acc", ["r"]) == REGISTERED
    assert registration.registered("study", now | {"says": "y"}, "test_acc", ["r"]) == POST_HOC


def test_a_dirty_tree_registers_nothing(revision_of):
    dirty = [revision_of["registered"], revision_of["registered"] + "-dirty"]
    assert registration.registered("study", MADE, "test_acc", dirty) == POST_HOC


@pytest.mark.parametrize("revision", ["0" * 40, "--help", "None"])
def test_a_revision_that_git_does_not_have_is_unknown(revision_of, revision):
    assert registration.registered("study", MADE, "test_acc", [revision]) == UNKNOWN


@pytest.mark.parametrize("study", ["calibration", "why-dead"])
def test_the_predictions_of_the_studies_that_run_now_were_registered_when_they_began(study):
    """Their runs name this revision, whose files have `predictions`."""
    shown = sweeps.artifact(study)
    made = [one for one in shown["comparisons"] if expected(one, shown["values"][0])]
    assert len(made) == {"calibration": 3, "why-dead": 5}[study]
    for one in made:
        assert registration.registered(study, one, shown["values"][0], ["f2b6a05"]) in (REGISTERED, UNKNOWN)
