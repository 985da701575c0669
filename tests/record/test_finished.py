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


# --- what is still there ---


def test_a_complete_record_has_the_digests_of_its_results(made):
    assert record(made)["files"] == integrity.digests(made)
    assert set(record(made)["files"]) == {"history.jsonl", *EXPORTS}


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
    "history cut in its last line": lambda run_dir: cut_history(run_dir, -20),
    "history cut at the end of a line": lambda run_dir: first_lines(run_dir, 3),
    "history gone": lambda run_dir: (run_dir / "history.jsonl").unlink(),
    "final forged": lambda run_dir: forge(run_dir, "final"),
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
    flip(done, EXPORTS[0])
    code, out, err = asked()
    assert (code, out) == (1, "")
    words = "model.safetensors is not as the run left it; resume=fresh trains it again"
    assert err == f"error: resume=auto: {done}: {words}\n"


@pytest.mark.parametrize("names", [["checkpoint.pt"], EXPORTS[:1], [*EXPORTS, "checkpoint.pt"]], ids=" ".join)
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


@pytest.mark.parametrize("final", [None, 5, [], {"epoch": "many"}, {"epoch": 4, "test_acc": {}}])
def test_a_record_whose_results_make_no_sense_is_damaged(final, done):
    change(done, final=final, best={"epoch": []})
    assert integrity.changed(done, record(done))
