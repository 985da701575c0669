import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import get_method
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import OmegaConf

from sparse_train import config
from sparse_train.__main__ import CONF
from sparse_train.config import run_id
from sparse_train.errors import ConfigError
from sparse_train.options.names import PRESETS, called, run_name
from sparse_train.options.targets import OF_THE_RUN, instantiate, make

SLOTS = ("optimizer/precondition", "optimizer/mirror")
GROUPS = {
    group: sorted(p.stem for p in (CONF / group).glob("*.yaml") if not p.stem.startswith("_"))
    for group in ("task", "dataset", "model", "dst", "optimizer", "renorm", "recipe", "scale", "logger", *SLOTS)
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]


def test_the_groups_hold_what_the_paper_needs():
    assert {"cifar100", "digits", "imagenet", "mnist"} <= set(GROUPS["dataset"])
    assert {"mlp", "resnet20", "resnet50"} <= set(GROUPS["model"])
    assert {"dense", "rigl", "rigl_corrected", "set", "static"} <= set(GROUPS["dst"])
    assert GROUPS["optimizer"] == ["equal_angle", "ham", "sgd", "sparseopt", "sparseopt_ham"]
    assert GROUPS["renorm"] == ["none", "unit"]
    assert {"paper", "cpu", "smoke"} <= set(GROUPS["scale"])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_instantiates(compose_config, group, option):
    overrides = [f"{group}={option}"]
    if option == "cpu":  # images of 16x16, which digits do not have
        overrides.append("dataset=cifar100")
    cfg = compose_config(*overrides)
    config.check(cfg)
    for key in ("task", "dataset", "model", "topology", "dst", "optimizer", "lr_schedule", "logger"):
        if cfg[key] is not None:
            assert callable(instantiate(cfg, key))


# What the run gives to the constructor of each section: how many arguments by position, and which by name.
GIVEN = {
    "task": (2, ()),
    "dataset": (1, ()),
    "model": (0, ("num_classes", "in_channels")),
    "topology": (1, ()),
    "lr_schedule": (0, ("base_lr", "batch_size", "steps_per_epoch", "epochs")),
    "optimizer": (2, ("lr",)),
    "dst": (2, ("total_steps", "seed")),
    "logger": (2, ()),
}


def constructed(value, path=""):
    """(path, its mapping) wherever there is a `_target_`."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path, value
        for key, item in value.items():
            yield from constructed(item, f"{path}.{key}".lstrip("."))


def bind(path, mapping):
    """Raise TypeError unless `_target_` could be called with these keys and what the run gives."""
    keys = {key: value for key, value in mapping.items() if key not in ("_target_", "_partial_")}
    count, names = GIVEN.get(path, (0, ()))
    inspect.signature(get_method(mapping["_target_"])).bind(*range(count), **dict.fromkeys(names), **keys)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_constructors_take_the_keys_of_every_option_and_no_others(compose_config, group, option):
    cfg = compose_config(f"{group}={option}", *(["dataset=cifar100"] if option == "cpu" else []))
    sections = dict(constructed(OmegaConf.to_container(cfg, resolve=True)))
    assert {"task", "dataset", "model", "topology", "optimizer", "lr_schedule"} <= set(sections)
    for path, mapping in sections.items():
        for key in OF_THE_RUN.get(path, ()):
            del mapping[key]
        bind(path, mapping)
        assert mapping.get("_partial_", False) is (path in GIVEN), "a partial where the run gives the rest"
        for key in set(mapping) - {"_target_", "_partial_"}:
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{key}s'"):
                bind(path, {**mapping, f"{key}s": mapping[key]})


def test_timms_models_refuse_a_misspelt_key(compose_config):
    cfg = compose_config("model=resnet50", "+model.zero_init_lasts=true")
    with pytest.raises(ConfigError, match=r"model.zero_init_lasts=True: no such key; did you mean zero_init_last\?"):
        make(cfg, "model", num_classes=10, in_channels=3)


@pytest.mark.parametrize("renorm", GROUPS["renorm"])
@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        ("sgd", set()),
        ("sparseopt", {"precondition"}),
        ("ham", {"mirror"}),
        ("sparseopt_ham", {"precondition", "mirror"}),
        ("equal_angle", {"precondition"}),
    ],
)
def test_every_preset_has_exactly_its_slots(compose_config, small_net, optimizer, slots, renorm):
    from sparse_train.sparsity.topology import Topology

    model = small_net()
    cfg = compose_config(f"optimizer={optimizer}", f"renorm={renorm}")
    topology = Topology(model, 0.5)
    topology.example = torch.zeros(1, 3, 6, 6)
    built = hydra_instantiate(cfg.optimizer)(model.parameters(), topology, lr=cfg.lr)
    filled = {slot for slot in ("precondition", "renorm", "mirror") if getattr(built, slot) is not None}
    assert filled == slots | ({"renorm"} if renorm == "unit" else set())


@pytest.mark.parametrize(
    ("preset", "precondition", "mirror"),
    [
        ("sparseopt", "sparseopt", "none"),
        ("ham", "none", "ham"),
        ("sparseopt_ham", "sparseopt", "ham"),
        ("equal_angle", "equal_angle", "none"),
    ],
)
def test_a_preset_is_sgd_with_options_of_its_slots(compose_config, preset, precondition, mirror):
    """To the id; and a preset's slot can be chosen anew."""
    slots = f"optimizer/precondition={precondition}", f"optimizer/mirror={mirror}"
    assert run_id(compose_config("optimizer=sgd", *slots)) == run_id(compose_config(f"optimizer={preset}"))
    emptied = compose_config(f"optimizer={preset}", *(f"optimizer/{slot}=none" for slot in ("precondition", "mirror")))
    assert run_id(emptied) == run_id(compose_config("optimizer=sgd"))


def test_a_run_is_called_by_its_preset_or_by_its_slots(compose_config):
    cfg = compose_config("optimizer=ham", "optimizer/precondition=equal_angle")
    options = {"dataset": "digits", "optimizer": "ham", "optimizer/mirror": "ham"}
    name = run_name(cfg, {**options, "optimizer/precondition": "equal_angle"})
    assert name == "digits ham equal_angle 0.9 seed 0"
    assert run_name(cfg, options) == "digits ham 0.9 seed 0"
    cfg.topology.sparsity = None
    assert run_name(cfg, options) == "digits ham own densities seed 0"
    cfg = compose_config("model=timm", "model.name=vgg11_bn")
    assert run_name(cfg, {"dataset": "digits", "model": "timm"}) == "digits vgg11_bn 0.9 seed 0"


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        (("sparseopt", "none", "none"), "sgd"),
        (("sgd", "sparseopt", "none"), "sparseopt"),
        (("sparseopt", "sparseopt", "ham"), "sparseopt_ham"),
        (("ham", "equal_angle", "ham"), "equal_angle_ham"),
        (("mine", "none", "none"), "mine"),
    ],
)
def test_a_record_calls_a_preset_with_other_slots_by_those(taken, name):
    groups = dict(zip(("optimizer", "optimizer/precondition", "optimizer/mirror"), taken, strict=True))
    assert called({**groups, "hydra/launcher": "basic"}) == {**groups, "optimizer": name}
    assert called({"optimizer": "theirs", "dataset": "digits"}) == {"optimizer": "theirs", "dataset": "digits"}


def test_every_preset_of_the_optimizer_is_called_by_its_slots():
    assert set(PRESETS) == set(GROUPS["optimizer"])


def test_table_4_is_the_default_of_cifar(compose_config):
    cfg = compose_config("dataset=cifar100", "model=resnet20", "dst=rigl", "optimizer=ham")
    assert cfg.batch_size == 256
    assert (cfg.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.1, 0.9, 5e-4)
    assert cfg.optimizer.nesterov is False
    assert cfg.weight_decay_on == "all"
    assert cfg.topology.distribution == "erk"
    assert (cfg.dst.drop_fraction, cfg.dst.every, cfg.dst.stop_fraction) == (0.3, 100, 0.75)
    assert (cfg.dst.decay, cfg.dst.skip_step, cfg.dst.method.gradient) == ("cosine", True, "raw")
    assert (cfg.optimizer.mirror.alpha, cfg.optimizer.mirror.beta) == (80, 0)
    schedule = cfg.lr_schedule
    assert (schedule.warmup_epochs, schedule.init, schedule.end) == (5, 0.0, 1e-6)
    assert schedule.reference_batch is None
    assert (cfg.model.width, cfg.model.shortcut) == (1, "conv3x3")


def test_table_5_is_the_default_of_imagenet(compose_config):
    cfg = compose_config("dataset=imagenet", "model=resnet50", "dst=set")
    assert (cfg.batch_size, cfg.weight_decay_on) == (128, "weights")
    assert (cfg.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.1, 0.9, 1e-4)
    assert (cfg.dst.drop_fraction, cfg.dst.every) == (0.3, 100)
    schedule = cfg.lr_schedule
    assert (schedule.warmup_epochs, schedule.init, schedule.end, schedule.reference_batch) == (5, 1e-5, 1e-5, 256)
    assert cfg.model.zero_init_last is False


# --- ids ---

GOLDEN = {
    (): "25f06204526b",
    ("dataset=cifar100", "sparsity=0.95"): "1bbb6c4be283",
    ("dataset=cifar100", "dst=set", "optimizer=sparseopt_ham", "renorm=unit", "seed=2", "epochs=200"): "01dad057fa3e",
    ("dataset=imagenet", "model=resnet50", "optimizer=sgd", "sparsity=0.97", "epochs=270"): "dd9402917f7e",
    ("dataset=mnist", "model=mlp", "dst=dense"): "f3819179ec2b",
    ("dataset=cifar100", "scale=cpu", "dst=static"): "0e093f75c52c",
}


@pytest.mark.parametrize("overrides", GOLDEN)
def test_ids_of_committed_records_stay(compose_config, overrides):
    assert run_id(compose_config(*overrides)) == GOLDEN[overrides]


@pytest.mark.parametrize(
    "override",
    [
        "runs_dir=/elsewhere",
        "data_dir=/elsewhere",
        "device=cpu",
        "threads=7",
        "workers=0",
        "logger=wandb",
        "download=false",
        "resume=fresh",
        "deterministic=false",
        "backend=gloo",
        "tf32=true",
        "+artifact.title=Table",
        "dataset=digits",
        "dst.every=20",
        "lr=0.10",
        "one_dimensional_lr=1",
        "dataset.validation=0",
        "label_smoothing=0",
        "model.width=1.0",
    ],
)
def test_what_leaves_the_result_leaves_the_id(compose_config, override):
    assert run_id(compose_config(override)) == run_id(compose_config())


@pytest.mark.parametrize(
    "override",
    [
        "sparsity=0.91",
        "seed=1",
        "epochs=51",
        "batch_size=32",
        "lr=0.2",
        "lr_schedule.warmup_epochs=3",
        "amp=bf16",
        "tf32=false",
        "channels_last=true",
        "scale=cpu",
        "init=own_fan_in",
        "weight_decay_on=weights",
        "one_dimensional_lr=4",
        "topology.distribution=uniform",
        "topology.exclude=[conv1.weight]",
        "dst=set",
        "dst.skip_step=false",
        "dst.method.gradient=corrected",
        "optimizer=sgd",
        "s_avg=none",
        "optimizer.precondition.average=global",
        "optimizer.precondition.scale_decay=true",
        "renorm=unit",
        "model.shortcut=pad",
        "dataset.train_images=400",
        "dataset.validation=100",
        "label_smoothing=0.1",
        "init=lecun_normal",
        "topology.initial=dense",
        "dst=mest",
        "dst=srigl",
    ],
)
def test_what_changes_the_result_changes_the_id(compose_config, override):
    assert run_id(compose_config(override)) != run_id(compose_config())


def test_a_name_alone_is_a_list_of_one(compose_config):
    for key in ("exclude", "include"):
        alone, listed = (compose_config(f"topology.{key}={words}") for words in ("fc.weight", "[fc.weight]"))
        assert run_id(alone) == run_id(listed)
        assert run_id(OmegaConf.to_container(alone, resolve=True)) == run_id(listed), "and in a record"
        assert alone.topology[key] == "fc.weight"


def test_what_changes_only_the_last_bits_keeps_the_id(compose_config):
    assert run_id(compose_config("compile=true")) == run_id(compose_config())
    assert run_id(compose_config("threads=1")) == run_id(compose_config())


def test_the_code_may_move_without_orphaning_records(compose_config):
    cfg = compose_config()
    moved = cfg.copy()
    moved.model._target_ = "sparse_train.elsewhere.ResNet20"
    assert run_id(moved) == run_id(cfg)
    moved.model._target_ = "sparse_train.models.resnet_cifar.ResNet32"
    assert run_id(moved) != run_id(cfg)


def test_a_new_key_at_its_old_behaviour_keeps_the_id(compose_config, monkeypatch):
    cfg = compose_config()
    newer = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(cfg)), {"dst": {"noise": 0.0}})
    assert run_id(newer) != run_id(cfg)
    monkeypatch.setattr(config, "AS_BEFORE", {"dst.noise": 0.0, "optimizer.mirror.other": 1})
    assert run_id(newer) == run_id(cfg)
    newer.dst.noise = 0.5
    assert run_id(newer) != run_id(cfg)


def test_a_record_older_than_a_key_keeps_its_id(compose_config, monkeypatch):
    """The configurations of records lack keys that were added later, and must still give their ids."""
    cfg = OmegaConf.create(OmegaConf.to_container(compose_config(), resolve=True))
    monkeypatch.setattr(config, "AS_BEFORE", {"label_smoothing": 0.0})
    expected = run_id(cfg)
    del cfg.label_smoothing
    assert run_id(cfg) == expected


def test_a_change_of_the_numerics_changes_every_id(compose_config, monkeypatch):
    before = run_id(compose_config())
    monkeypatch.setattr(config, "NUMERICS", 1000)
    assert run_id(compose_config()) != before


def test_ids_name_a_directory_and_nothing_else(compose_config):
    assert Path(run_id(compose_config())).name.isalnum()


def test_the_table_of_renamed_ids_is_one_to_one():
    """Old and new ids of the committed records: no two runs have become one, and none has another run's old id."""
    lines = (CONF.parent / "results" / "renamed_ids.csv").read_text().split()
    old, new = zip(*(line.split(",") for line in lines[1:]), strict=True)
    assert lines[0] == "old,new"
    assert len({*old, *new}) == 2 * len(old)
