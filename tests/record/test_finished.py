"""A finished run that is launched again: by whose code, and is all of it still there?"""

import shutil

import pytest

from sparse_train.record import integrity
from sparse_train.record.files import write_json, write_json_lines
from sparse_train.report.results import Records
from sparse_train.source import training_code
from support.runs import TINY, notices, only, record, rows, run_here, trained

EXPORTS = ("model.safetensors", "masks.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One complete run."""
    return trained(*TINY, f"runs_dir={tmp_path_factory.mktemp('made')}")


@pytest.fixture
def done(made, tmp_path):
    """A copy of it, to be spoiled."""
    return shutil.copytree(made, tmp_path / made.name)


@pytest.fixture
def asked(done, monkeypatch, capsys):
    """The same command once more: exit status, stdout, stderr."""

    def again(*more):
        code, out, err = run_here(monkeypatch, capsys, *TINY, f"runs_dir={done.parent}", *more)
        return code, out, notices(err)

    return again


def files(run_dir):
    return {path.name: path.read_bytes() for path in run_dir.iterdir()}


def change(run_dir, **changes):
    write_json(run_dir / "record.json", {**record(run_dir), **changes})


def in_every_segment(run_dir, **changes):
    """As if all of the run had been made so."""
    change(run_dir, **changes, segments=[{**one, **changes} for one in record(run_dir).get("segments", [])])


# --- whose code ---


def test_a_run_of_this_code_is_returned_without_a_word(done, asked):
    before = files(done)
    assert asked() == (0, f"{done}\n", "")
    assert files(done) == before


def test_a_run_of_other_code_is_returned_with_one_line(done, asked):
    in_every_segment(done, code="0123456789ab", git="f0f7966f0ab36cd3e48b1168bdbe2579fd8ed781")
    before = files(done)
    code, out, err = asked()
    assert (code, out) == (0, f"{done}\n")
    assert err == (
        f"{done}: made by other code (revision f0f7966f, hash 0123456789ab; now {training_code()});"
        " resume=fresh trains it again\n"
    )
    assert files(done) == before
    code, _, err = asked("resume=fresh")
    assert code == 0
    assert "other code" not in err
    assert record(done)["code"] == training_code()


def test_a_diverged_run_of_other_code_says_so_too(done, asked):
    in_every_segment(done, code="0123456789ab")
    change(done, status="diverged", reason="the loss is not finite at step 3")
    code, _, err = asked()
    assert code == 1
    assert "made by other code" in err
    assert "the loss is not finite at step 3" in err


# --- what is still there ---


def test_a_complete_record_has_the_digests_of_its_results(made):
    assert record(made)["files"] == integrity.digests(made)
    assert set(record(made)["files"]) == {"history.jsonl", *EXPORTS}


def cut_history(run_dir, length):
    path = run_dir / "history.jsonl"
    path.write_bytes(path.read_bytes()[:length])


def forge(run_dir, part):
    content = record(run_dir)
    content[part]["test_acc"] = 99.0
    write_json(run_dir / "record.json", content)


def forge_history(run_dir):
    forged = [{**row, "test_acc": 99.0} for row in rows(run_dir)]
    write_json_lines(run_dir / "history.jsonl", forged)
    change(run_dir, final=forged[-1], best=forged[-1])


NUMBERS = {
    "history empty": lambda run_dir: cut_history(run_dir, 0),
    "history cut in its last line": lambda run_dir: cut_history(run_dir, -20),
    "history gone": lambda run_dir: (run_dir / "history.jsonl").unlink(),
    "best forged": lambda run_dir: forge(run_dir, "best"),
    "history and final forged": forge_history,
}


@pytest.mark.parametrize("how", NUMBERS)
def test_changed_numbers_are_named_and_do_not_count(how, done, asked, monkeypatch):
    """Nothing is trained or written."""
    monkeypatch.setattr("sparse_train.train.loop.train", None)
    NUMBERS[how](done)
    before = files(done)
    code, out, err = asked()
    assert (code, out) == (1, "")
    assert err.startswith(f"error: resume=auto: {done}: history.jsonl ")
    assert err.endswith("; resume=fresh trains it again\n")
    assert err.count("\n") == 1
    assert files(done) == before
    [(_, found)] = Records([done.parent]).found.values()
    assert found["status"] == "damaged"
    assert found["reason"].startswith("history.jsonl ")


def test_changed_weights_are_named(done, asked):
    data = bytearray((done / EXPORTS[0]).read_bytes())
    data[len(data) // 2] ^= 1
    (done / EXPORTS[0]).write_bytes(data)
    code, out, err = asked()
    assert (code, out) == (1, "")
    words = "model.safetensors is not as the run left it; resume=fresh trains it again"
    assert err == f"error: resume=auto: {done}: {words}\n"


@pytest.mark.parametrize("names", [["checkpoint.pt"], [*EXPORTS, "checkpoint.pt"]], ids=" ".join)
def test_files_that_were_deleted_to_save_space_leave_a_finished_run(names, done, asked):
    """Numbers are all that a table needs."""
    for name in names:
        (done / name).unlink()
    code, out, err = asked()
    assert (code, out.splitlines()[-1]) == (0, str(done))
    gone = " and ".join(name for name in EXPORTS if name in names)
    assert err == (f"{done}: {gone} deleted since; the results stand, resume=fresh trains it again\n" if gone else "")
    [(_, found)] = Records([done.parent]).found.values()
    assert found["status"] == "complete"


def test_a_measurement_is_verified_as_well(tmp_path, monkeypatch, capsys):
    overrides = ["task=balance", f"runs_dir={tmp_path}", "threads=1"]
    assert run_here(monkeypatch, capsys, *overrides)[0] == 0
    run_dir = only(tmp_path)
    assert set(record(run_dir)["files"]) == {"history.jsonl"}
    code, _, err = run_here(monkeypatch, capsys, *overrides)
    assert (code, notices(err)) == (0, "")
    cut_history(run_dir, -20)
    code, _, err = run_here(monkeypatch, capsys, *overrides)
    assert code == 1
    assert "history.jsonl is not as the run left it; resume=fresh trains it again" in err
    [(_, found)] = Records([tmp_path]).found.values()
    assert found["status"] == "damaged"


@pytest.mark.parametrize("final", [None, [], {"epoch": "many"}, {"epoch": 2, "test_acc": {}}])
def test_a_record_whose_results_make_no_sense_is_damaged(final, done):
    change(done, final=final, best={"epoch": []})
    assert integrity.changed(done, record(done))
