from math import prod

import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st

from sparse_train.errors import ConfigError
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.sparsity.density import counts, erk, uniform


def sparse_shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim > 1}


def total(shapes, densities):
    return sum(densities[name] * prod(shape) for name, shape in shapes.items())


def test_erk_by_hand():
    # raw densities 6/8 and 8/16: eps * (6 + 8) = 12, so eps = 6/7
    assert erk({"a": (2, 4), "b": (4, 4)}, 0.5) == pytest.approx({"a": 6 / 7 * 6 / 8, "b": 6 / 7 * 8 / 16})


def test_erk_makes_a_layer_dense_and_solves_again():
    # at density 0.8 eps is 0.8 * 216 / 34 and a's density 1.9: a is dense, b takes the rest of the budget
    densities = erk({"a": (2, 8), "b": (10, 20)}, 0.2)
    assert densities == pytest.approx({"a": 1.0, "b": (0.8 * 216 - 16) / 200})


def test_erk_of_resnet50():
    shapes = sparse_shapes(timm.create_model("resnet50"))
    densities = erk(shapes, 0.90)
    assert sum(map(prod, shapes.values())) == 25_502_912
    assert [name for name, density in densities.items() if density == 1] == ["layer1.0.conv1.weight"]
    assert total(shapes, densities) == pytest.approx(2_550_291.2)


@pytest.mark.parametrize("sparsity", [0.90, 0.95, 0.97])
def test_erk_of_resnet20(sparsity):
    shapes = sparse_shapes(ResNet20(100))
    densities = erk(shapes, sparsity)
    assert sum(map(prod, shapes.values())) == 297_136
    assert max(densities.values()) < 1
    assert total(shapes, densities) == pytest.approx((1 - sparsity) * 297_136)


def test_nothing_is_sparse_at_zero():
    shapes = {"a": (3, 5), "b": (40, 50), "c": (7, 7, 3, 3)}
    assert counts(shapes, erk(shapes, 0.0), 0.0) == {name: prod(shape) for name, shape in shapes.items()}


@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6),
    sparsity=st.floats(0, 0.99),
    distribution=st.sampled_from([erk, uniform]),
)
def test_counts_are_whole_near_their_density_and_meet_the_total(shapes, sparsity, distribution):
    shapes = {f"layer{i}": shape for i, shape in enumerate(shapes)}
    densities = distribution(shapes, sparsity)
    size = sum(map(prod, shapes.values()))
    assert all(0 < density <= 1 for density in densities.values())
    assert total(shapes, densities) == pytest.approx((1 - sparsity) * size)
    if min(densities[name] * prod(shape) for name, shape in shapes.items()) < 1:
        return  # a layer may end without a weight, which is refused
    whole = counts(shapes, densities, sparsity)
    assert sum(whole.values()) == round((1 - sparsity) * size)
    assert all(abs(whole[name] - densities[name] * prod(shape)) < 1.000001 for name, shape in shapes.items())


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("distribution", [erk, uniform])
def test_sparsity_outside_its_range(distribution, sparsity):
    with pytest.raises(ConfigError, match=r"sparsity=.*\[0, 1\)"):
        distribution({"a": (4, 4)}, sparsity)


def test_a_layer_without_weights_is_refused():
    with pytest.raises(ConfigError, match="leaves no weight in small"):
        shapes = {"small": (2, 2), "large": (1000, 1000)}
        counts(shapes, uniform(shapes, 0.99), 0.99)
