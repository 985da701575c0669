"""Runs that were not all made alike are shown as such."""

import pytest
from omegaconf import OmegaConf

from sparse_train.report import sweeps
from sparse_train.report.draw import draw
from sparse_train.report.launch import reproduce
from sparse_train.report.results import Records, Results
from sparse_train.source import training_code
from support.records import leave_record

ONE, TWO = "0123456789ab", "1234567e8901"  # the second could be read as a number


@pytest.fixture(scope="module")
def quickstart():
    return sweeps.load("quickstart")


@pytest.fixture
def drawn(quickstart, tmp_path):
    """Leave a record of each cell, the first ones changed; the line under the title, and the collected runs."""

    def made(*changes, plain=None):
        for place, cell in enumerate(quickstart.cells):
            more = changes[place] if place < len(changes) else (plain or {})
            leave_record(tmp_path / "runs", "quickstart", cell, **more)
        page = draw(quickstart, Records([tmp_path / "runs"]), tmp_path / "results")
        return page.splitlines()[2], Results(tmp_path / "results").runs(quickstart)

    return made


def segment(**facts):
    return {"started": "", "after": {"epochs": 0, "steps": 0}, "threads": 1, **facts}


def test_runs_of_one_kind_are_not_remarked_on(drawn):
    """A GPU's run does not say what its CPU can do."""
    gpu = {"hardware": {"device": "a GPU", "instructions": "avx2"}}
    line, runs = drawn({"code": ONE, "processes": 1} | gpu, plain={"code": ONE, "processes": 1})
    assert line == "24 of 24 runs complete."
    assert set(runs["code"]) == {ONE}
    assert not {"processes", "mixture", "instructions"} & set(runs)


def test_a_table_says_what_its_runs_differ_in(drawn, quickstart):
    composed = (sweeps.configuration("quickstart", cell.options) for cell in quickstart.cells[:2])
    one, two = (OmegaConf.to_container(cfg, resolve=True) for cfg in composed)
    cpu, other = ({"device": "cpu", "instructions": name} for name in ("avx2", "avx2 avx512f"))
    line, runs = drawn(
        {"code": TWO, "processes": 2, "config": one | {"sync_bn": True}},
        {"code": TWO, "processes": 2, "config": two | {"compile": True}},
        {"hardware": other, "code": None},
        plain={"code": ONE, "hardware": cpu},
    )
    assert line == (
        "24 of 24 runs complete. Made by 3 versions of the code: "
        f"{ONE} (21 runs), {TWO} (2 runs), not recorded (1 run). "
        "Made by different numbers of processes, each normalizing its share of a batch: 1 (22 runs), 2 (2 runs). "
        "Of these, normalizing over the whole batch (sync_bn): 1 run. "
        "Made by torch.compile, which rounds differently: 1 of 24 runs. "
        "Made by CPUs with different instructions, which round differently: avx2 (21 runs), avx2 avx512f (1 run)."
    )
    assert list(runs["code"][:2]) == [TWO, TWO]
    assert runs["instructions"].value_counts().to_dict() == {"avx2": 21, "avx2 avx512f": 1}


def test_a_table_says_which_runs_changed_on_the_way(drawn, quickstart):
    mixed = {"code": TWO, "segments": [segment(code=ONE), segment(code=TWO, threads=2)], "threads": 2}
    line, runs = drawn(mixed, plain={"code": TWO, "segments": [segment(code=TWO), segment(code=TWO)]})
    first = quickstart.cells[0].id
    assert f"Made by 2 versions of the code: {TWO} (23 runs), {ONE}+{TWO} (1 run)." in line
    assert line.endswith(f"Not made in one way: {first} (code {ONE} then {TWO}, threads 1 then 2).")
    assert runs["mixture"].notna().sum() == 1


def test_reproducing_says_that_other_code_made_what_is_there(drawn, quickstart, tmp_path):
    drawn({"code": ONE}, {}, {"status": "failed", "code": ONE}, plain={"code": training_code()})
    said = reproduce.made_before(quickstart, Records([tmp_path / "runs"]))
    assert said.startswith(f"quickstart: other code than this (hash {training_code()}) made 1 of 23 complete runs; ")
    leave_record(tmp_path / "runs", "quickstart", quickstart.cells[0], code=training_code())
    assert reproduce.made_before(quickstart, Records([tmp_path / "runs"])) is None
