"""timm's loop trains as ours does, over a restart from its own checkpoint. `make trainers` has the other loops."""

import pytest

from trainers.__main__ import KINDS, compared, judged
from trainers.loops import LOOPS
from trainers.problem import parts, reference


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOOPS)
def test_a_foreign_loop_ends_where_ours_does(name, kind):
    pytest.importorskip(name)
    line, agrees = judged(name, kind)
    assert agrees, line


def test_what_is_compared_can_differ():
    ours, untrained = reference("SparseSGD"), parts("SparseSGD")
    difference, masks = compared(untrained, ours)
    assert difference > 1e-3
    assert not masks
