"""A reduced form of `make chaos`."""

import pytest

from support.chaos import struck


@pytest.mark.parametrize(("fault", "calls"), [("killed", [0, 4, 8, 14, -6, -2]), ("EIO", [2, -7]), ("ENOSPC", [16])])
def test_a_run_struck_at_one_of_its_calls_goes_on_to_the_same_end(fault, calls, tmp_path):
    outcome = struck(fault, tmp_path, calls)
    assert outcome.calls == len(calls)
    assert outcome.good, outcome
