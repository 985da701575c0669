"""What made a run, from start to end."""

import pytest

from sparse_train.record import segments
from sparse_train.record.record import Record

ONE = {"git": "aaaaaaaaaaaa", "code": "one", "versions": {"torch": "2.11"}, "threads": 1, "processes": 1}
ONE |= {"hardware": {"device": "cpu", "cpu": "EPYC"}}


def row(epoch):
    return {"epoch": epoch, "test_acc": 50.0, "seconds": 1.0}


@pytest.fixture
def stretches(tmp_path):
    """Make a run of stretches, each (epochs and steps it goes on after, epochs it does, facts); its record at last."""

    def made(*parts, end="complete"):
        for after, steps, epochs, facts in parts:
            record = Record(str(tmp_path), "run")
            record.start([row(epoch + 1) for epoch in range(after)], steps, name="x", **facts)
            for epoch in range(epochs):
                record.append(row(after + epoch + 1))
        record.finish(end)
        return Record(str(tmp_path), "run").content

    return made


def places(content):
    return [(one["after"]["epochs"], one["after"]["steps"], one["code"]) for one in content["segments"]]


def test_what_changed_on_the_way_stays_on_record(stretches, capsys):
    """Begun on one thread and process, ended on two and two, by other code and another torch."""
    two = ONE | {"code": "two", "threads": 2, "processes": 2, "git": "bbbbbbbbbbbb", "versions": {"torch": "2.12"}}
    content = stretches((0, 0, 1, ONE), (1, 5, 1, two))
    assert places(content) == [(0, 0, "one"), (1, 5, "two")]
    assert [one["threads"] for one in content["segments"]] == [1, 2]
    assert content["threads"] == 2
    mixed = "code one then two, threads 1 then 2, processes 1 then 2, torch 2.11 then 2.12"
    assert segments.mixture(content) == mixed
    assert segments.codes(content) == ["one", "two"]
    assert "resuming with different code (revision aaaaaaaa, hash one; now two)" in capsys.readouterr().err


def test_variables_that_choose_other_kernels_are_a_change(stretches):
    content = stretches((0, 0, 1, ONE | {"environment": {"ATEN_CPU_CAPABILITY": "avx2"}}), (1, 0, 1, ONE))
    assert segments.mixture(content) == "environment ATEN_CPU_CAPABILITY=avx2 then default"


def test_a_stretch_that_was_lost_is_no_segment(stretches):
    """Killed before its first checkpoint, or going on from one before it."""
    other = ONE | {"code": "lost"}
    assert places(stretches((0, 0, 1, ONE), (1, 3, 0, other), (1, 3, 1, ONE))) == [(0, 0, "one"), (1, 3, "one")]
    assert places(stretches((0, 0, 1, other), (0, 0, 2, ONE))) == [(0, 0, "one")], "back to the start"


def test_the_same_again_is_no_mixture(stretches, capsys):
    content = stretches((0, 0, 1, ONE), (1, 0, 1, ONE | {"git": "bbbbbbbbbbbb"}))
    assert places(content) == [(0, 0, "one"), (1, 0, "one")]
    assert segments.mixture(content) == "", "another revision with the same training code"
    assert "other code" not in capsys.readouterr().err


def test_who_only_wrote_the_end_made_nothing(stretches):
    """Killed between the last epoch and the last word; what the record says of the machine is the trainer's."""
    content = stretches((0, 0, 2, ONE), (2, 0, 0, ONE | {"code": "two", "threads": 2}))
    assert places(content) == [(0, 0, "one")]
    assert (content["code"], content["threads"]) == ("one", 1)


def test_a_record_from_before_there_were_segments_counts_as_one(tmp_path):
    record = Record(str(tmp_path), "run")
    before = {key: value for key, value in ONE.items() if key != "code"}
    record.content = {"id": "run", "status": "running", "started": "2026-01-01T00:00:00+00:00", **before}
    record.start([row(1)], 0, **ONE | {"threads": 2})
    assert record.content["segments"][0]["started"] == "2026-01-01T00:00:00+00:00"
    assert segments.mixture(record.content) == "threads 1 then 2, code not recorded then one"
    assert segments.codes(record.content) == ["one"]
