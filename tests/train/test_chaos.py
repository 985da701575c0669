"""A reduced form of `make chaos`."""

from support.chaos import struck


def test_a_run_killed_at_one_of_its_calls_goes_on_to_the_same_end(tmp_path):
    outcome = struck("killed", tmp_path, [4, 14, -2])
    assert outcome.calls == 3
    assert outcome.good, outcome
