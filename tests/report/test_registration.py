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


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository, and the revision of each of the `FILES`, with others that are none."""
    place = tmp_path_factory.mktemp("git")

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *identity, *arguments], cwd=place, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (place / "sweeps").mkdir()
    revisions = {"lost": "0" * 40, "an option": "--help", "none": "None"}
    for name, content in FILES.items():
        (place / "sweeps" / "study.yaml").write_text(yaml.safe_dump({"artifact": {"title": name, **content}}))
        git("add", "-A")
        git("commit", "-qm", name)
        revisions[name] = git("rev-parse", "HEAD")
    return place, revisions | {"dirty": f"{revisions['registered']}-dirty"}


@pytest.mark.parametrize(
    ("prediction", "runs", "made"),
    [
        (MADE, ["registered", "registered"], REGISTERED),
        (MADE, ["older", "registered"], REGISTERED),
        (MADE, ["before"], POST_HOC),
        (MADE, ["wider"], POST_HOC),
        (MADE, ["older, wider"], POST_HOC),
        (MADE, ["expects nothing"], POST_HOC),
        (MADE, ["registered", "before"], POST_HOC),
        (MADE, ["registered", "dirty"], POST_HOC),
        (MADE, [], ""),
        (MADE, ["lost"], UNKNOWN),
        (MADE, ["an option"], UNKNOWN),
        (MADE, ["none"], UNKNOWN),
        (MADE | {"says": "two settings agree, nearly"}, ["registered"], POST_HOC),
        (BOUNDED, ["older"], REGISTERED),
        (BOUNDED, ["registered"], REGISTERED),
        (BOUNDED | {"at_least": 0.0}, ["registered"], POST_HOC),
    ],
)
def test_the_revision_of_every_run_must_have_the_prediction(repository, monkeypatch, prediction, runs, made):
    place, revision_of = repository
    monkeypatch.setattr(registration, "ROOT", place)
    assert registration.registered("study", prediction, "test_acc", [revision_of[name] for name in runs]) == made


def test_a_prediction_stays_registered_when_a_key_of_its_settings_is_renamed(monkeypatch):
    then, now = (
        {"says": "x", "a": {key: "sgd"}, "b": {"optimizer": "sgd"}, "within": 1.0}
        for key in ("dst.rank_as", "dst.method.rank_as")
    )
    monkeypatch.setattr(registration, "predicted", lambda sweep, revision: [registration.form(then, "test_acc")])
    assert registration.registered("study", now, "test_acc", ["r"]) == REGISTERED
    assert registration.registered("study", now | {"says": "y"}, "test_acc", ["r"]) == POST_HOC


@pytest.mark.parametrize(("study", "count"), [("calibration", 3)])
def test_the_predictions_of_the_studies_that_run_now_were_registered_when_they_began(study, count):
    """Their runs name this revision, whose files have `predictions`."""
    shown = sweeps.artifact(study)
    made = [one for one in shown["comparisons"] if expected(one, shown["values"][0])]
    assert len(made) == count
    for one in made:
        assert registration.registered(study, one, shown["values"][0], ["f2b6a05"]) in (REGISTERED, UNKNOWN)
