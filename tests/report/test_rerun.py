"""A run that was made again is compared with the committed one: where it ran decides how close it must be."""

import pandas as pd
import pytest

from sparse_train.report.launch.rerun import verdict

BEFORE = {"test_acc": 70.0, "device": "one CPU", "instructions": "avx2", "torch": "2", "threads": 1}


def judged(before: dict, **after) -> tuple[bool, str]:
    return verdict(pd.Series(before), pd.Series(BEFORE | after), spread=0.5)


def test_in_the_same_place_every_bit_counts():
    assert judged(BEFORE) == (True, "the same to the bit")
    assert judged(BEFORE, test_acc=70.01) == (False, "test_acc 70.0 committed, 70.01 now")


@pytest.mark.parametrize(("accuracy", "fine"), [(70.9, True), (71.1, False)])
def test_other_instructions_of_a_cpu_of_the_same_name_are_another_place(accuracy, fine):
    found, told = judged(BEFORE, test_acc=accuracy, instructions="avx2 avx512f")
    assert found is fine
    assert "; made with instructions avx2, not avx2 avx512f; test accuracy" in told


def test_instructions_that_were_not_recorded_excuse_nothing():
    older = {key: value for key, value in BEFORE.items() if key != "instructions"}
    assert judged(older) == (True, "the same to the bit")
    found, told = judged(older, test_acc=70.01)
    assert not found
    assert told.endswith("; the committed record does not name its CPU's instructions, which may be others")


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [("cudnn", 91900, 92600), ("processes", None, 4), ("environment", "ONEDNN_MAX_CPU_ISA=AVX2", None)],
)
def test_another_cudnn_number_of_processes_or_choice_of_kernels_is_another_place(key, before, after):
    found, told = judged(BEFORE | {key: before}, test_acc=70.9, **{key: after})
    assert found
    assert f"; made with {key} {before}, not {after}; test accuracy within" in told


def test_a_measurement_of_another_place_has_no_spread_to_lie_in():
    found, _ = verdict(pd.Series({"loss": 1.0, "threads": 1}), pd.Series({"loss": 1.1, "threads": 2}), None)
    assert not found
