"""Valid combinations of the configuration's groups and keys, at random: each composes, is accepted, and is built.

`EXAMPLES=1000 pytest tests/options/test_space.py` draws as many, anew each time.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_train import config
from sparse_train.errors import ConfigError
from sparse_train.options.targets import PLACES, instantiate
from sparse_train.train.build import build

EXAMPLES = int(os.environ.get("EXAMPLES", 0))
SECTIONS = [place for place in PLACES if "." not in place]


def numbers(low, high):
    return st.floats(low, high, allow_nan=False).map(lambda value: float(f"{value:.3g}"))


def words(*options):
    return st.sampled_from(options)


# A key at the top level, and values it may have.
TOP = {
    "sparsity": numbers(0.05, 0.99),
    "seed": st.integers(0, 2**31),
    "init": words("dense_fan_in", "lecun_normal", "own_fan_in", "over_sqrt_c"),
    "epochs": st.integers(1, 500),
    "batch_size": st.integers(2, 500),
    "lr": numbers(0, 10),
    "momentum": numbers(0, 0.99),
    "weight_decay": numbers(0, 0.1),
    "weight_decay_on": words("all", "weights"),
    "one_dimensional_lr": numbers(0, 10),
    "label_smoothing": numbers(0, 0.9),
    "s_avg": words("layer", "global", "none"),
    "drop_fraction": numbers(0, 1),
    "update_every": st.integers(1, 1000),
    "amp": words("none", "bf16"),
    "tf32": words("true", "false"),
    "channels_last": words("true", "false"),
    "deterministic": words("true", "false"),
    "checkpoint_minutes": numbers(0.1, 100),
    "checkpoint_steps": words("null", "1", "100"),
    "topology.distribution": words("erk", "uniform"),
    "lr_schedule.warmup_epochs": numbers(0, 20),
    "lr_schedule.end": numbers(0, 0.01),
    "lr_schedule.reference_batch": words("null", "256"),
    "dataset.train_images": st.integers(500, 1000),
    "dataset.validation": words("0", "50"),
    "dataset.flip": words("true", "false"),
}
# The options of a group, each with keys of its own.
DST = {
    "dst.stop_fraction": numbers(0, 1),
    "dst.decay": words("cosine", "constant"),
    "dst.method.gradient": words("raw", "corrected"),
    "dst.skip_step": words("true", "false"),
    "dst.method.rank_as": words("weights", "invariant"),
}
PRECONDITION = {
    "optimizer.precondition.layers": words("all", "normalized"),
    "optimizer.precondition.scale_decay": words("true", "false"),
}
MIRROR = {"optimizer.mirror.alpha": numbers(0, 100), "optimizer.mirror.beta": numbers(0, 1)}
GROUPS = {
    "model": {
        "mlp": {"model.hidden": words("[8]", "[8,4]", "[]"), "model.norm": words("batch", "layer", "none")},
        "resnet20": {
            "model.width": words("0.25", "0.5"),
            "model.shortcut": words("conv3x3", "conv1x1", "pad"),
            "topology.exclude": words("[]", "['*conv1.weight']"),
        },
    },
    "dst": {"rigl": DST, "set": {**DST, "dst.method.gradient": words("raw")}, "static": {}, "dense": {}},
    "optimizer": {
        "equal_angle": {"optimizer.precondition.radians": numbers(0.001, 1)},
        "sgd": {},
        "sparseopt": PRECONDITION,
        "ham": MIRROR,
        "sparseopt_ham": {**PRECONDITION, **MIRROR},
    },
    "renorm": {
        "none": {},
        "unit": {"optimizer.renorm.max_norm": numbers(0.1, 10), "optimizer.renorm.over": words("dense", "masked")},
    },
    "logger": {"none": {}, "wandb": {"logger.mode": words("offline", "disabled"), "logger.tags": words("[]", "[a]")}},
}


@st.composite
def overrides(draw):
    """A choice of every group, and values for some of the keys that there are then."""
    keys, chosen = dict(TOP), []
    for group, options in GROUPS.items():
        option = draw(st.sampled_from(list(options)))
        chosen.append(f"{group}={option}")
        keys |= options[option]
        if (group, option) == ("dst", "dense"):
            del keys["sparsity"]
    said = draw(st.lists(st.sampled_from(sorted(keys)), unique=True, max_size=12))
    return [*chosen, *(f"{key}={draw(keys[key])}" for key in said)]


@settings(max_examples=EXAMPLES or 20, derandomize=not EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=overrides())
def test_every_combination_of_valid_choices_is_built(said, compose_config):
    cfg = compose_config(*said)
    config.check(cfg)
    assert len(config.run_id(cfg)) == 12
    for section in SECTIONS:
        assert cfg[section] is None or callable(instantiate(cfg, section))
    corrects_normalized = {"optimizer=equal_angle", "optimizer.precondition.layers=normalized"} & set(said)
    if corrects_normalized and {"model.norm=none", "model.hidden=[]"} & set(said):
        with pytest.raises(ConfigError, match="the model has no layer that is normalized"):
            build(cfg)
        return
    run = build(cfg)
    assert run.epochs == cfg.epochs
    assert run.metadata["config"]["seed"] == cfg.seed
    assert run.optimizer.param_groups[0]["momentum"] == cfg.momentum
    assert (run.updater is None) == (cfg.dst is None)
    if cfg.sparsity and cfg.topology.distribution == "uniform" and not cfg.topology.exclude:
        assert abs(run.topology.sparsity() - cfg.sparsity) < 0.05
    assert run.optimizer.param_groups[0]["lr"] == cfg.lr
