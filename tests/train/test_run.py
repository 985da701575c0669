"""The command line, end to end."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from sparse_train.train.build import build
from support.runs import QUICK, ROOT, history, only, record, run_here, same_state, training

ARGUMENTS = ("sparsity=0.8", "renorm=unit", "optimizer=sparseopt_ham")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run in a Python of its own, as a user starts it: its directory, and what it said."""
    words = training(*QUICK, *ARGUMENTS, f"runs_dir={tmp_path_factory.mktemp('runs')}")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()), done.stderr


def test_a_run_leaves_its_record(begun):
    run_dir, said = begun
    assert said.startswith("loading ...\ndigits resnet20 ")
    content = record(run_dir)
    assert content["id"] == run_dir.name
    assert content["status"] == "complete"
    assert content["config"]["sparsity"] == 0.8
    assert content["choices"]["optimizer"] == "sparseopt_ham"
    assert content["name"] == "digits resnet20 rigl sparseopt_ham renormalized 0.8 seed 0"
    assert content["threads"] == 1
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]
    assert content["hardware"]["cpu"]
    assert content["hardware"]["instructions"]
    assert {"git", "hardware", "seconds", "started", "ended", "peak_memory_mib"} <= set(content)
    assert 0 < content["flops"]["inference_ratio"] < content["flops"]["training_ratio"] < 1
    assert content["layers"]["fc.weight"] == pytest.approx(0.8, abs=0.3)
    rows = history(run_dir)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert content["final"]["test_acc"] == rows[-1]["test_acc"]
    assert content["best"]["test_acc"] == max(row["test_acc"] for row in rows)
    for row in rows:
        assert row["realised_sparsity"] == pytest.approx(0.8, abs=1e-3)
        assert 0.2 <= row["itop_rate"] <= 1
        assert row["grad_norm"] > 0
        assert 0 <= row["clipped_share"] <= 1
        assert {"lr", "train_loss", "train_acc", "test_loss", "step"} <= set(row)
    assert rows[-1]["itop_rate"] > 0.2, "RigL explores"
    assert "/" not in json.dumps(content["versions"])


def test_two_runs_are_the_same_to_the_bit(begun, tmp_path, monkeypatch, capsys):
    first, _ = begun
    code, out, err = run_here(monkeypatch, capsys, *QUICK, *ARGUMENTS, f"runs_dir={tmp_path}")
    assert code == 0, err
    second = Path(out.strip())
    assert first.name == second.name
    assert same_state(first, second)
    assert history(first) == history(second)


def test_how_to_compile_reaches_torch(compose_config, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, mode: (model, mode))
    for value, mode in (("true", None), ("reduce-overhead", "reduce-overhead")):
        run = build(compose_config("model=mlp", f"compile={value}"))
        assert run.forward == (run.model, mode)


def test_a_short_run_learns(tmp_path, monkeypatch, capsys):
    """Well above the 10% of chance: the loop trains, evaluates and keeps the topology."""
    words = ("model=mlp", "epochs=12", "sparsity=0.5", "lr_schedule.warmup_epochs=1", "threads=1")
    assert run_here(monkeypatch, capsys, *words, f"runs_dir={tmp_path}")[0] == 0
    assert record(only(tmp_path))["final"]["test_acc"] > 60


def test_a_sweep_goes_on_after_a_failing_cell(tmp_path, monkeypatch, capsys):
    """Here with all weights of the network."""
    words = ("--multirun", *QUICK, "epochs=1", "dst=dense", "model.shortcut=nothing,pad", f"runs_dir={tmp_path}")
    code, _, err = run_here(monkeypatch, capsys, *words)
    assert code == 1
    assert "model.shortcut=nothing: must be one of conv3x3, conv1x1, pad" in err
    assert record(only(tmp_path))["config"]["model"]["shortcut"] == "pad"
    assert history(only(tmp_path))[-1]["realised_sparsity"] == 0


def test_a_diverging_run_says_so(tmp_path, monkeypatch, capsys):
    words = (*QUICK, f"runs_dir={tmp_path}", "lr=1e30", "lr_schedule.warmup_epochs=0")
    code, _, err = run_here(monkeypatch, capsys, *words)
    assert code == 1
    assert re.search(r"the gradients of conv1.weight and \d+ others are not finite at step \d", err)
    assert record(only(tmp_path))["status"] == "diverged"


# The words of a command -> what its one line says, with "..." for what lies between.
BAD_INPUT = {
    # words
    "sparsty=0.9": "sparsty=0.9: no such key; did you mean sparsity?",
    "+sparsty=0.9": "sparsty=0.9: no such key; did you mean sparsity?",
    "colour=red": "colour=red: no such key",
    "+dst.evry=3": "dst.evry=3: no such key; did you mean every?",
    "+optimizer.mirror.colour=red": "optimizer.mirror={'colour': 'red'}: needs a _target_",
    "+task.cfg=1": "task.cfg=1: no such key",
    "optimizer.lr=0.9": "optimizer.lr=0.9: no such key; did you mean lr?",
    "+optimizer.lr=0.9": "optimizer.lr=0.9: is set by the run itself",
    "+dst.seed=7": "dst.seed=7: ",
    "task=equivalence ~task.lr": "task.lr=None: must be given",
    "seed=0,1": "seed=0,1: several values need --multirun",
    "sparsity": "sparsity=: cannot be read; write KEY=VALUE",
    "sparsity=[": "sparsity=[: cannot be read; write KEY=VALUE",
    "--nothing": "unrecognized arguments: --nothing",
    "--multirun --cfg job seed=0,1": "argument --cfg/-c: not allowed with argument --multirun/-m",
    "--config-name /etc/x": "--config-name=/etc/x: must be a name; --config-dir names its directory",
    "hydra.searchpath=true": "hydra.searchpath=True: must be a list of directories",
    # options of groups
    "dst=rigle": "dst=rigle: must be one of dense, ...rigl, ...; did you mean rigl?",
    "--multirun dst=rigl,grnet": "dst=grnet: must be one of dense, ...; did you mean granet?",
    "--multirun dst=glob(x*)": "dst=glob(x*): must be one of dense, ",
    "dst=../dst/rigl": "dst=../dst/rigl: must be one of dense, ",
    "dst=null": "dst=null: must be one of dense, ",
    "~dataset=9": "dataset=9: must be one of cifar10, cifar100, digits, imagefolder, imagenet, mnist",
    "optimizer/mirror=hams": "optimizer/mirror=hams: must be one of ham, none; did you mean ham?",
    "optimizer.mirror=ham": "optimizer.mirror=ham: must be an option of its group: optimizer/mirror=ham",
    "hydra/launcher=slrm": "hydra/launcher=slrm: must be one of ...; did you mean slurm?",
    "dst.method=null": "dst.method=None: must be a sparsity.method.Method, such as RigL()",
    "topology=null": "topology",
    # values
    "sparsity=1.2": "sparsity=1.2: must be in [0, 1)",
    "sparsity=most": "sparsity=most: Value 'most' of type 'str' could not be converted to Float",
    "sparsity=0.9999999": "leaves no weight in",
    "topology.sparsity=0.5": "topology.sparsity=0.5: mirrors sparsity and must equal it",
    "compile=fast": "compile=fast: must be one of false, true, reduce-overhead",
    "amp=fp8": "amp=fp8: must be one of none, bf16",
    "drop_fraction=1.5": "drop_fraction=1.5: must be in [0, 1]",
    "epochs=0": "epochs=0: must be at least 1",
    "threads=4294967296": "threads=4294967296: must be at most 1,024",
    "batch_size=5000": "batch_size=5000: must be between 1 and the 500 training images",
    "dataset.image_size=4 batch_size=1": "batch_size=1: leaves layer3.0.bn1 one value a channel to normalize",
    "lr=inf": "lr=inf: must be at least 0, and finite",
    "device=cpu gpus=[0]": "gpus=[0]: device=cpu uses none; leave one of the two out",
    # values that a constructor refuses
    "dst.every=0": "dst.every=0: must be a whole number of at least 1",
    "dataset.flip=no": "dataset.flip=no: must be true or false",
    "dataset.pad=-1": "dataset.pad=-1: must be",
    "dataset.mean=[0.5,0.5]": "dataset.mean=",
    "optimizer=ham optimizer.mirror.alpha=nan": "optimizer.mirror.alpha=nan: must be at least 0",
    "lr_schedule.init=-1": "lr_schedule.init=-1: must be at least 0",
    "lr_schedule.reference_batch=0": "lr_schedule.reference_batch=0: must be",
    "topology.distribution=er": "topology.distribution=er: must be one of erk, uniform",
    "topology.exclude=[conv7]": "topology.exclude=conv7: matches no weight of the model",
    "topology.exclude=['*']": "leaves no sparse layer",
    "topology.initial=dense": "topology.initial=dense: needs a method that prunes",
    "dst=dense sparsity=0.5": "sparsity=0.5: dst=dense trains every weight",
    "dst.method.gradient=corrected optimizer=sgd": "dst.method.gradient=corrected: needs an optimizer that corrects",
    "renorm=unit optimizer.renorm.over=none": "must be one of dense, masked",
    "model=mlp model.hidden=[0]": "model.hidden=",
    "model=wideresnet model.depth=20": "model.depth=20: must be 6n + 4, such as 16, 22",
    "model=resnet20_group model.groups=3": "model.groups=3: must be a whole number that divides 16, 32 and 64",
    "model=timm model.name=vgg11bn": "model.name=vgg11bn: timm has no such model; did you mean vgg11_bn?",
    "model=timm model.image_size=0": "model.image_size=0: must be a whole number",
    "model=timm model.name=vit_tiny_patch16_224 model.image_size=16": "timm_model: Input height (8)",
    "model=resnet50 +model.checkpoint_path=x": "model.checkpoint_path=x: no such key",
    "model=resnet50 model.name=hf-hub:a/b": "model.name=hf-hub:a/b: timm has no such model",
    # places
    "runs_dir=/etc/passwd": "runs_dir=/etc/passwd: cannot be written (Not a directory)",
    "dataset=cifar100 download=false data_dir=/nowhere": "data_dir=/nowhere: downloading is off",
    "dataset=mnist download=false data_dir=/nowhere": "put MNIST/raw/train-images-idx3-ubyte",
    "dataset=imagefolder dataset.folder=photos data_dir=/nowhere": "put its class folders under /nowhere/photos/train",
    "dataset=imagenet dataset.resize=32": "dataset.resize=32: must be at least image_size, 224",
}


@pytest.mark.parametrize("words", BAD_INPUT)
def test_bad_input_gives_one_clear_error(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_here(monkeypatch, capsys, "runs_dir=runs", *words.split())
    assert (code, out) == (1, "")
    said = ".*".join(map(re.escape, BAD_INPUT[words].split("...")))
    assert re.fullmatch(f"(loading ...\n)?(run 1 of .*\n)?error: .*{said}.*\n", err), err
    assert not (tmp_path / "runs").exists(), "nothing that looks like a run"
