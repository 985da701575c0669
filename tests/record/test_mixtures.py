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
    line, runs = drawn(plain={"code": ONE, "processes": 1})
    assert line == "24 of 24 runs complete."
    assert set(runs["code"]) == {ONE}
    assert not {"processes", "mixture"} & set(runs)


def test_records_without_a_hash_are_collected_as_before(drawn):
    line, runs = drawn()
    assert line == "24 of 24 runs complete."
    assert "code" not in runs


def test_a_table_says_that_its_runs_were_made_by_several_versions_of_the_code(drawn):
    line, runs = drawn({"code": TWO}, {"code": TWO}, {}, plain={"code": ONE})
    assert line == (
        "24 of 24 runs complete. Made by 3 versions of the code: "
        f"{ONE} (21 runs), {TWO} (2 runs), not recorded (1 run)."
    )
    assert list(runs["code"][:2]) == [TWO, TWO]


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


def test_a_table_says_that_its_runs_were_made_by_several_numbers_of_processes(drawn):
    line, runs = drawn({"processes": 2})
    assert line == (
        "24 of 24 runs complete. Made by different numbers of processes, each normalizing its share of a batch: "
        "1 (23 runs), 2 (1 run)."
    )
    assert runs["processes"].sum() == 2


def test_a_table_says_which_of_several_processes_normalized_together(drawn, quickstart):
    config = OmegaConf.to_container(sweeps.configuration("quickstart", quickstart.cells[0].options), resolve=True)
    line, runs = drawn({"processes": 2, "config": config | {"sync_bn": True}}, {"processes": 2})
    assert line.endswith(
        "normalizing its share of a batch: 1 (22 runs), 2 (2 runs). "
        "Of these, normalizing over the whole batch (sync_bn): 1 run."
    )
    assert runs["sync_bn"].count() == 1


def test_a_table_says_that_some_of_its_runs_were_compiled(drawn, quickstart):
    config = OmegaConf.to_container(sweeps.configuration("quickstart", quickstart.cells[0].options), resolve=True)
    line, runs = drawn({"config": config | {"compile": True}})
    assert line == "24 of 24 runs complete. Made by torch.compile, which rounds differently: 1 of 24 runs."
    assert list(runs["compile"].dropna()) == [True]


def test_a_table_says_that_its_cpus_have_different_instructions(drawn):
    plain = {"hardware": {"device": "cpu", "instructions": "avx2"}}
    line, runs = drawn({"hardware": {"device": "cpu", "instructions": "avx2 avx512f"}}, plain=plain)
    assert line == (
        "24 of 24 runs complete. Made by CPUs with different instructions, which round differently: "
        "avx2 (23 runs), avx2 avx512f (1 run)."
    )
    assert runs["instructions"].value_counts().to_dict() == {"avx2": 23, "avx2 avx512f": 1}


def test_a_gpus_run_does_not_say_what_its_cpu_can_do(drawn):
    line, runs = drawn({"hardware": {"device": "a GPU", "instructions": "avx2"}})
    assert line == "24 of 24 runs complete."
    assert "instructions" not in runs
