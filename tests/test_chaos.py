"""A reduced form of `make chaos`."""

import random

import pytest

from chaos import CONFIGURATIONS, chaos


@pytest.mark.parametrize("configuration", CONFIGURATIONS[2::5], ids=" ".join)
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(configuration, tmp_path):
    outcome = chaos(configuration, 3, tmp_path, random.Random(0))
    assert outcome.kills == 3
    assert outcome.same
