from functools import partial
from math import prod

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_train.errors import ConfigError
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.sparsity.density import counts, erk, uniform


def total(shapes, densities):
    return sum(densities[name] * prod(shape) for name, shape in shapes.items())


def test_erk_by_hand():
    # raw densities 6/8 and 8/16: eps * (6 + 8) = 12, so eps = 6/7
    assert erk({"a": (2, 4), "b": (4, 4)}, 0.5) == pytest.approx({"a": 6 / 7 * 6 / 8, "b": 6 / 7 * 8 / 16})


def test_erk_makes_a_layer_dense_and_solves_again():
    # at density 0.8 eps is 0.8 * 216 / 34 and a's density 1.9: a is dense, b takes the rest of the budget
    densities = erk({"a": (2, 8), "b": (10, 20)}, 0.2)
    assert densities == pytest.approx({"a": 1.0, "b": (0.8 * 216 - 16) / 200})


@pytest.mark.parametrize(
    ("make", "sparsity", "weights", "dense"),
    [
        (partial(timm.create_model, "resnet50"), 0.90, 25_502_912, ["layer1.0.conv1.weight"]),
        (partial(ResNet20, 100), 0.97, 297_136, []),
    ],
)
def test_erk_of_resnets(make, sparsity, weights, dense):
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in make().named_parameters() if p.ndim > 1}
    densities = erk(shapes, sparsity)
    assert sum(map(prod, shapes.values())) == weights
    assert [name for name, density in densities.items() if density == 1] == dense
    assert total(shapes, densities) == pytest.approx((1 - sparsity) * weights)


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


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("distribution", [erk, uniform])
def test_sparsity_outside_its_range(distribution, sparsity):
    with pytest.raises(ConfigError, match=r"sparsity=.*\[0, 1\)"):
        distribution({"a": (4, 4)}, sparsity)


def test_a_layer_without_weights_is_refused():
    with pytest.raises(ConfigError, match="leaves no weight in small"):
        shapes = {"small": (2, 2), "large": (1000, 1000)}
        counts(shapes, uniform(shapes, 0.99), 0.99)
