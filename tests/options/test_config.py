"""What the groups compose to, what a run is called, and its id."""

import pytest
from omegaconf import OmegaConf

from sparse_train import config
from sparse_train.__main__ import CONF
from sparse_train.config import run_id
from sparse_train.options.names import PRESETS, called, run_name
from sparse_train.options.targets import instantiate
from sparse_train.train.build import build
from support.groups import options, side_by_side

GROUPS = ("dataset", "model", "dst", "optimizer", "renorm", "logger", "optimizer/precondition", "optimizer/mirror")


@pytest.mark.parametrize("words", [*side_by_side(*GROUPS), *side_by_side("task", "scale")], ids=" ".join)
def test_constructors_take_the_keys_of_every_option(compose_config, words):
    images = [] if any(word.startswith("dataset=") for word in words) else ["dataset=cifar100"]
    cfg = compose_config(*images, *words)
    config.check(cfg)
    for key in ("task", "dataset", "model", "topology", "dst", "optimizer", "lr_schedule", "logger"):
        assert cfg[key] is None or callable(instantiate(cfg, key))


@pytest.mark.parametrize(
    "words",
    [
        "model=mlp model.hidden=[8,4] model.norm=layer dst=set optimizer=ham renorm=unit init=own_fan_in amp=bf16",
        "model=mlp model.hidden=[] dst=dense optimizer=sgd weight_decay_on=weights nesterov=true batch_size=500",
        "model.width=0.25 model.shortcut=pad dst=srigl optimizer=sparseopt_ham s_avg=global channels_last=true",
        "model.width=0.25 model.shortcut=conv1x1 dst=rigl_corrected renorm=unit optimizer.renorm.over=masked",
        "model.width=0.25 topology.distribution=uniform dst=rigl_invariant optimizer=equal_angle one_dimensional_lr=3",
        "model=wideresnet model.width=0.25 dst=granet dataset.validation=50 lr_schedule.warmup_epochs=0 momentum=0",
    ],
)
def test_combinations_of_options_are_built(compose_config, words):
    cfg = compose_config(*words.split())
    config.check(cfg)
    run = build(cfg)
    group, dense = run.optimizer.param_groups[0], cfg.dst is None
    assert (group["lr"], group["momentum"]) == (cfg.lr, cfg.momentum)
    assert (run.updater is None) == dense
    assert dense or abs(run.topology.sparsity() - (0 if run.topology.initial == "dense" else cfg.sparsity)) < 0.05


def test_a_preset_is_sgd_with_options_of_its_slots(compose_config):
    """To the id; and a preset's slot can be chosen anew."""
    sgd = run_id(compose_config("optimizer=sgd"))
    slots = {
        "sparseopt": ("sparseopt", "none"),
        "ham": ("none", "ham"),
        "sparseopt_ham": ("sparseopt", "ham"),
        "equal_angle": ("equal_angle", "none"),
    }
    assert {"sgd", *slots} == {*PRESETS} == {*options("optimizer")}
    for preset, (precondition, mirror) in slots.items():
        chosen = f"optimizer/precondition={precondition}", f"optimizer/mirror={mirror}"
        assert run_id(compose_config("optimizer=sgd", *chosen)) == run_id(compose_config(f"optimizer={preset}")) != sgd
    emptied = "optimizer=sparseopt_ham", "optimizer/precondition=none", "optimizer/mirror=none"
    assert run_id(compose_config(*emptied)) == sgd


def test_a_run_is_called_by_its_preset_or_by_its_slots(compose_config):
    cfg = compose_config("optimizer=ham", "optimizer/precondition=equal_angle")
    taken = {"dataset": "digits", "optimizer": "ham", "optimizer/mirror": "ham"}
    name = run_name(cfg, {**taken, "optimizer/precondition": "equal_angle"})
    assert name == "digits ham equal_angle 0.9 seed 0"
    assert run_name(cfg, taken) == "digits ham 0.9 seed 0"
    cfg.topology.sparsity = None
    assert run_name(cfg, taken) == "digits ham own densities seed 0"
    cfg = compose_config("model=timm", "model.name=vgg11_bn")
    assert run_name(cfg, {"dataset": "digits", "model": "timm"}) == "digits vgg11_bn 0.9 seed 0"


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        (("sparseopt", "none", "none"), "sgd"),
        (("ham", "equal_angle", "ham"), "equal_angle_ham"),
        (("mine", "none", "none"), "mine"),
    ],
)
def test_a_record_calls_a_preset_with_other_slots_by_those(taken, name):
    groups = dict(zip(("optimizer", "optimizer/precondition", "optimizer/mirror"), taken, strict=True))
    assert called({**groups, "hydra/launcher": "basic"}) == {**groups, "optimizer": name}


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


def test_resnet20_on_cifar100_has_a_reading_of_its_own(compose_config):
    """Chosen on the baseline alone; no other pair has it, nor the studies of all layers at 16x16."""
    assert compose_config("dataset=cifar100").topology.exclude == ["*.shortcut.*"]
    for words in (
        "dataset=cifar100 model=wideresnet",
        "dataset=cifar10",
        "dataset=cifar100 scale=cpu",
        "dataset=digits",
    ):
        assert compose_config(*words.split()).topology.exclude == []
    assert compose_config("dataset=cifar100", "topology.exclude=[fc.weight]").topology.exclude == ["fc.weight"]


def test_table_5_is_the_default_of_imagenet(compose_config):
    cfg = compose_config("dataset=imagenet", "model=resnet50", "dst=set")
    assert (cfg.batch_size, cfg.weight_decay_on) == (128, "weights")
    assert (cfg.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.1, 0.9, 1e-4)
    assert (cfg.dst.drop_fraction, cfg.dst.every) == (0.3, 100)
    schedule = cfg.lr_schedule
    assert (schedule.warmup_epochs, schedule.init, schedule.end, schedule.reference_batch) == (5, 1e-5, 1e-5, 256)
    assert cfg.model.zero_init_last is False


# --- ids ---

BF16 = ("amp=bf16", "channels_last=true")
ELSEWHERE = ("seed=2", "epochs=200", "topology.exclude=[]")
GOLDEN = {
    (): "25f06204526b",
    ("dataset=cifar100", "sparsity=0.95", "topology.exclude=[]"): "1bbb6c4be283",
    ("dataset=cifar100", "sparsity=0.95", "optimizer=sgd", *BF16): "6d9e44d0205d",
    ("dataset=cifar100", "dst=set", "optimizer=sparseopt_ham", "renorm=unit", *ELSEWHERE): "01dad057fa3e",
    ("dataset=imagenet", "model=resnet50", "optimizer=sgd", "sparsity=0.97", "epochs=270"): "dd9402917f7e",
    ("dataset=mnist", "model=mlp", "dst=dense"): "f3819179ec2b",
    ("dataset=cifar100", "scale=cpu", "dst=static"): "0e093f75c52c",
}


@pytest.mark.parametrize("overrides", GOLDEN)
def test_ids_of_committed_records_stay(compose_config, overrides):
    assert run_id(compose_config(*overrides)) == GOLDEN[overrides]


def test_what_leaves_the_result_leaves_the_id(compose_config):
    """Machines and places, what changes only the last bits, and a key at its default."""
    machine = ["runs_dir=/elsewhere", "data_dir=/elsewhere", "device=cpu", "backend=gloo", "threads=7", "workers=0"]
    machine += ["logger=wandb", "download=false", "resume=fresh", "checkpoint_steps=3", "+artifact.title=Table"]
    rounding = ["compile=true", "deterministic=false"]
    default = ["dataset=digits", "dst.every=20", "lr=0.10", "one_dimensional_lr=1", "model.width=1.0", "tf32=true"]
    default += ["dataset.validation=0", "label_smoothing=0"]
    assert run_id(compose_config(*machine, *rounding, *default)) == run_id(compose_config())


DECIDES = {
    "sparsity": 0.91,
    "seed": 1,
    "epochs": 51,
    "batch_size": 32,
    "lr": 0.2,
    "lr_schedule.warmup_epochs": 3,
    "amp": "bf16",
    "tf32": False,
    "channels_last": True,
    "scale": "cpu",
    "init": "own_fan_in",
    "weight_decay_on": "weights",
    "one_dimensional_lr": 4.0,
    "label_smoothing": 0.1,
    "topology.distribution": "uniform",
    "topology.initial": "dense",
    "topology.exclude": ["conv1.weight"],
    "dst": None,
    "dst.skip_step": False,
    "dst.method.gradient": "corrected",
    "s_avg": "none",
    "optimizer.precondition.scale_decay": True,
    "optimizer.mirror": {"alpha": 1},
    "model.shortcut": "pad",
    "model._target_": "sparse_train.models.resnet_cifar.ResNet32",
    "dataset.train_images": 400,
    "dataset.validation": 100,
}


def test_what_changes_the_result_changes_the_id(compose_config):
    cfg = compose_config()
    OmegaConf.set_struct(cfg, False)
    ids = {run_id(cfg): ["the default"]}
    for key, value in DECIDES.items():
        changed = cfg.copy()
        OmegaConf.update(changed, key, value)
        ids.setdefault(run_id(changed), []).append(key)
    assert [keys for keys in ids.values() if len(keys) > 1] == []


def test_a_name_alone_is_a_list_of_one(compose_config):
    for key in ("exclude", "include"):
        alone, listed = (compose_config(f"topology.{key}={words}") for words in ("fc.weight", "[fc.weight]"))
        assert run_id(alone) == run_id(listed)
        assert run_id(OmegaConf.to_container(alone, resolve=True)) == run_id(listed), "and in a record"


def test_the_code_may_move_without_orphaning_records(compose_config):
    cfg = compose_config()
    before = run_id(cfg)
    cfg.model._target_ = "sparse_train.elsewhere.ResNet20"
    assert run_id(cfg) == before


def test_a_key_added_later_keeps_the_ids_of_older_records(compose_config, monkeypatch):
    """Records lack it; at the value that means as before it does not count."""
    cfg = OmegaConf.create(OmegaConf.to_container(compose_config(), resolve=True))
    newer = OmegaConf.merge(cfg, {"dst": {"noise": 0.0}})
    assert run_id(newer) != run_id(cfg)
    monkeypatch.setattr(config, "AS_BEFORE", {"dst.noise": 0.0, "optimizer.mirror.other": 1, "label_smoothing": 0.0})
    assert run_id(newer) == run_id(cfg)
    del cfg.label_smoothing
    assert run_id(newer) == run_id(cfg)
    newer.dst.noise = 0.5
    assert run_id(newer) != run_id(cfg)


def test_a_change_of_the_numerics_changes_every_id(compose_config, monkeypatch):
    before = run_id(compose_config())
    monkeypatch.setattr(config, "NUMERICS", 1000)
    assert run_id(compose_config()) != before


def test_the_table_of_renamed_ids_is_one_to_one():
    """Old and new ids of the committed records: no two runs have become one, and none has another run's old id."""
    lines = (CONF.parent / "results" / "renamed_ids.csv").read_text().split()
    old, new = zip(*(line.split(",") for line in lines[1:]), strict=True)
    assert lines[0] == "old,new"
    assert len({*old, *new}) == 2 * len(old)
