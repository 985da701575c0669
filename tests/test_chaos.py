"""A reduced form of `make chaos`."""

import random

import pytest

from support.chaos import CONFIGURATIONS, chaos, injected


@pytest.mark.parametrize("configuration", CONFIGURATIONS[2::5], ids=" ".join)
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(configuration, tmp_path):
    outcome = chaos(configuration, 3, tmp_path, random.Random(0))
    assert outcome.kills == 3
    assert outcome.same


@pytest.mark.parametrize(("fault", "calls"), [("killed", [1, 4, 14, -6, -2]), ("EIO", [1, -7]), ("ENOSPC", [16])])
def test_a_run_struck_at_one_of_its_calls_goes_on_to_the_same_end(fault, calls, tmp_path):
    outcome = injected(fault, tmp_path, calls)
    assert outcome.calls == len(calls)
    assert outcome.good, outcome
