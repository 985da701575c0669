"""A finished run that is launched again: by whose code, and is all of it still there?"""

import json
import shutil
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from sparse_train import source
from sparse_train.__main__ import main
from sparse_train.record import integrity
from sparse_train.record.files import write_json
from sparse_train.report.results import Records
from sparse_train.source import training_code
from support.runs import notices, only, record, run_here

TINY = ("model=mlp", "dataset.train_images=64", "epochs=4", "sparsity=0.5", "lr=0.01", "threads=1", "update_every=3")
EXPORTS = ("model.safetensors", "masks.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One complete run."""
    runs_dir = tmp_path_factory.mktemp("made")
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["sparse_train", *TINY, f"runs_dir={runs_dir}"])
        main()
    return only(runs_dir)


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
    code, out, err = asked()
    assert (code, out.splitlines()[-1], err) == (0, str(done), "")
    assert files(done) == before


def test_a_run_of_other_code_is_returned_with_one_line(done, asked):
    in_every_segment(done, code="0123456789ab", git="f0f7966f0ab36cd3e48b1168bdbe2579fd8ed781")
    before = files(done)
    code, out, err = asked()
    assert (code, out.splitlines()[-1]) == (0, str(done))
    assert err == (
        f"{done}: made by other code (revision f0f7966f, hash 0123456789ab; now {training_code()});"
        " resume=fresh trains it again\n"
    )
    assert files(done) == before
    code, _, err = asked("resume=fresh")
    assert code == 0
    assert "other code" not in err
    assert record(done)["code"] == training_code()


def test_an_edited_method_is_other_code(done, asked, tmp_path, monkeypatch):
    """The example: RigL's score turned around in our own file."""
    edited = shutil.copytree(source.PACKAGE, tmp_path / "edited", ignore=shutil.ignore_patterns("__pycache__"))
    growth = edited / "sparsity" / "methods" / "rigl.py"
    growth.write_text(growth.read_text().replace("return layer.gradient.abs()", "return -layer.gradient.abs()"))
    assert source._hash(edited, [growth.relative_to(edited)]) != source._hash(
        source.PACKAGE, [growth.relative_to(edited)]
    )
    monkeypatch.setattr(source, "PACKAGE", edited)
    training_code.cache_clear()
    try:
        assert asked()[2].count(f"{done}: made by other code (revision ") == 1
    finally:
        training_code.cache_clear()


def test_a_diverged_run_of_other_code_says_so_too(done, asked):
    in_every_segment(done, code="0123456789ab")
    change(done, status="diverged", reason="the loss is not finite at step 3")
    code, _, err = asked()
    assert code == 1
    assert "made by other code" in err
    assert "the loss is not finite at step 3" in err


@pytest.mark.parametrize(("git", "said"), [(None, False), ("f0f7966f", False), ("f0f7966f-dirty", True)])
def test_a_record_without_a_hash_speaks_by_its_revision(done, asked, git, said):
    """A clean revision, or none, stands for itself: NUMERICS vouches for what came between."""
    content = {key: value for key, value in record(done).items() if key not in ("code", "segments", "files")}
    write_json(done / "record.json", {**content, "git": git})
    code, _, err = asked()
    assert code == 0
    assert ("made by uncommitted code" in err) == said
    assert err.count("\n") == said


# --- what is still there ---


def test_a_complete_record_has_the_digest_of_every_file(made):
    assert record(made)["files"] == integrity.digests(made)
    assert set(record(made)["files"]) == {"history.jsonl", "checkpoint.pt", *EXPORTS}


def cut_history(run_dir, length):
    path = run_dir / "history.jsonl"
    path.write_bytes(path.read_bytes()[:length])


def first_lines(run_dir, count):
    path = run_dir / "history.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))


def forge(run_dir, part):
    content = record(run_dir)
    content[part]["test_acc"] = 99.0
    write_json(run_dir / "record.json", content)


def forge_history(run_dir):
    path = run_dir / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["test_acc"] = 99.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    change(run_dir, final=rows[-1], best=rows[-1])


def flip(run_dir, name):
    data = bytearray((run_dir / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run_dir / name).write_bytes(data)


NUMBERS = {
    "history empty": lambda run_dir: cut_history(run_dir, 0),
    "history cut in its first line": lambda run_dir: cut_history(run_dir, 20),
    "history cut in its last line": lambda run_dir: cut_history(run_dir, -20),
    "history cut at the end of a line": lambda run_dir: first_lines(run_dir, 3),
    "history gone": lambda run_dir: (run_dir / "history.jsonl").unlink(),
    "final forged": lambda run_dir: forge(run_dir, "final"),
    "best forged": lambda run_dir: forge(run_dir, "best"),
    "history and final forged": forge_history,
}
OTHERS = {
    "weights gone": lambda run_dir: (run_dir / EXPORTS[0]).unlink(),
    "masks gone": lambda run_dir: (run_dir / EXPORTS[1]).unlink(),
    "weights changed": lambda run_dir: flip(run_dir, EXPORTS[0]),
}


@pytest.mark.parametrize("how", NUMBERS | OTHERS)
def test_what_is_damaged_is_mended_from_the_checkpoint(how, done, asked, monkeypatch):
    """Nothing is trained: all files are to the byte what they were."""
    monkeypatch.setattr("sparse_train.train.loop.train", None)
    before = files(done)
    (NUMBERS | OTHERS)[how](done)
    assert files(done) != before
    code, out, err = asked()
    assert (code, out.splitlines()[-1]) == (0, str(done)), err
    assert f"{done}: mended without training: " in err
    assert err.count("\n") == 1
    assert files(done) == before
    assert asked()[2] == "", "and that is that"


@pytest.mark.parametrize("how", ["history empty", "history cut at the end of a line", "final forged"])
def test_a_record_from_before_there_were_digests_is_mended_too(how, done, asked):
    content = {key: value for key, value in record(done).items() if key != "files"}
    write_json(done / "record.json", content)
    before = files(done)
    NUMBERS[how](done)
    code, _, err = asked()
    assert code == 0
    assert "mended without training" in err
    assert files(done)["history.jsonl"] == before["history.jsonl"]
    assert record(done)["final"] == content["final"]


LOST = [how for how in NUMBERS | OTHERS if not how.startswith(("final", "best"))]  # of which the history tells


@pytest.mark.parametrize(
    ("how", "checkpoint"), [*((how, "gone") for how in LOST[2:]), (LOST[0], "changed"), (LOST[-1], "changed")]
)
def test_what_cannot_be_mended_is_named(how, checkpoint, done, asked):
    flip(done, "checkpoint.pt")
    if checkpoint == "gone":
        (done / "checkpoint.pt").unlink()
    (NUMBERS | OTHERS)[how](done)
    before = files(done)
    code, out, err = asked()
    assert (code, out) == (1, "")
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: resume=auto: {done}: ")
    assert ("history.jsonl" if how in NUMBERS else EXPORTS["masks" in how]) in line
    assert line.endswith(", and cannot be mended; resume=fresh trains it again")
    assert files(done) == before


def test_a_finished_run_does_without_its_checkpoint(done, asked):
    (done / "checkpoint.pt").unlink()
    assert asked()[0::2] == (0, "")
    forge(done, "final")
    code, _, err = asked()
    assert code == 0, "the history is whole"
    assert "history.jsonl has a different test_acc from record.json" in err
    assert record(done)["final"]["test_acc"] < 99


def test_a_changed_checkpoint_is_not_taken_for_the_runs_own(done, asked):
    flip(done, "checkpoint.pt")
    code, _, err = asked()
    assert code == 1
    assert "checkpoint.pt is not as the run left it, and cannot be mended" in err
    assert "delete it, or resume=fresh trains it again" in err


@pytest.mark.parametrize("how", NUMBERS)
def test_a_run_with_damaged_numbers_does_not_count_as_complete(how, done):
    NUMBERS[how](done)
    [(_, found)] = Records([done.parent]).found.values()
    assert found["status"] == "damaged"
    assert found["reason"].startswith("history.jsonl ")


def test_a_record_that_was_copied_without_weights_counts(done):
    """Numbers are all that a table needs."""
    for name in (*EXPORTS, "checkpoint.pt"):
        (done / name).unlink()
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
    assert "history.jsonl is not as the run left it, and cannot be mended; resume=fresh trains it again" in err
    [(_, found)] = Records([tmp_path]).found.values()
    assert found["status"] == "damaged"


@pytest.mark.parametrize("final", [None, 5, [], {"epoch": "many"}, {"epoch": 4, "test_acc": {}}, {"test_acc": 99.0}])
def test_a_record_whose_results_make_no_sense_is_damaged(final, done):
    change(done, final=final)
    assert integrity.numbers(done, record(done)) is not None
