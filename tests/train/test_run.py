"""The command line, end to end."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch

from sparse_train.train.build import build
from support.runs import QUICK, ROOT, command, history, only, record, run_here, same_state, trained, training
from support.warm import Program


def test_a_run_leaves_its_record(tmp_path):
    run_dir = trained(f"runs_dir={tmp_path}", "sparsity=0.8", "renorm=unit", "optimizer=sparseopt_ham")
    assert run_dir.parent == tmp_path
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


def test_two_runs_are_the_same_to_the_bit_and_a_third_call_returns(tmp_path):
    """The first in a Python of its own, as a user starts it; the others in forks, as most tests do."""
    arguments = ("dst=set", "sparsity=0.9", "renorm=unit", "optimizer=sparseopt_ham")
    words = training(*QUICK, f"runs_dir={tmp_path / 'a'}", *arguments)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = Path(done.stdout.strip()), trained(f"runs_dir={tmp_path / 'b'}", *arguments)
    assert first.name == second.name
    assert done.stderr.startswith("loading ...\ndigits resnet20 ")
    assert same_state(first, second)
    assert history(first) == history(second)
    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert trained(f"runs_dir={tmp_path / 'a'}", *arguments) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == before
    assert trained(f"runs_dir={tmp_path / 'a'}", *arguments, "resume=fresh") == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} != before


def test_a_killed_run_goes_on_from_its_last_epoch(tmp_path):
    """SIGKILL in mid-run, start again: the same weights, masks and history as unbroken."""
    arguments = ("epochs=12", "optimizer=sparseopt_ham", "checkpoint_steps=3")
    unbroken = trained(f"runs_dir={tmp_path / 'a'}", *arguments)
    run_dir = tmp_path / "b" / unbroken.name
    with Program(training(*QUICK, f"runs_dir={tmp_path / 'b'}", *arguments)) as program:
        while program.process.is_alive() and not (run_dir / "checkpoint.pt").exists():
            time.sleep(0.01)
    assert record(run_dir)["status"] == "running", "killed before its end"
    assert trained(f"runs_dir={tmp_path / 'b'}", *arguments) == run_dir
    assert same_state(run_dir, unbroken)
    assert history(run_dir) == history(unbroken)
    assert len(history(run_dir)) == 12


@pytest.mark.parametrize("option", ["dst=static", "dst=dense"])
def test_a_network_may_keep_its_topology_or_all_its_weights(tmp_path, option):
    run_dir = trained(f"runs_dir={tmp_path}", option, "epochs=1")
    assert record(run_dir)["status"] == "complete"
    expected = 0.0 if option == "dst=dense" else 0.9
    assert history(run_dir)[-1]["realised_sparsity"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("value", "mode"), [("true", None), ("reduce-overhead", "reduce-overhead")])
def test_how_to_compile_reaches_torch(compose_config, monkeypatch, value, mode):
    monkeypatch.setattr(torch, "compile", lambda model, mode: (model, mode))
    run = build(compose_config("model=mlp", f"compile={value}"))
    assert run.forward == (run.model, mode)


def test_a_short_run_learns(tmp_path):
    """Well above the 10% of chance: the loop trains, evaluates and keeps the topology."""
    run_dir = trained(f"runs_dir={tmp_path}", "epochs=15", "sparsity=0.5", "model.width=0.5", "update_every=20")
    assert record(run_dir)["final"]["test_acc"] > 60


def test_a_sweep_goes_on_after_a_failing_cell(tmp_path):
    code, out, err = command("--multirun", *QUICK, f"runs_dir={tmp_path}", "epochs=1", "model.shortcut=nothing,pad")
    assert code == 1
    assert "model.shortcut=nothing: must be one of conv3x3, conv1x1, pad" in err
    assert record(Path(out.splitlines()[-1]))["config"]["model"]["shortcut"] == "pad"


def test_a_diverging_run_says_so(tmp_path):
    code, _, err = command(*QUICK, f"runs_dir={tmp_path}", "lr=1e30", "lr_schedule.warmup_epochs=0")
    assert code == 1
    assert re.search(r"the gradients of conv1.weight and \d+ others are not finite at step \d", err)
    assert record(only(tmp_path))["status"] == "diverged"


BAD_INPUT = {
    "sparsity=1.2": "sparsity=1.2: must be in [0, 1)",
    "sparsity=-0.1": "sparsity=-0.1: must be in [0, 1)",
    "sparsity=0.9999999": "leaves no weight in",
    "sparsity=most": "sparsity=most: Value 'most'",
    "dst=null": "dst=null: must be one of dense, ",
    "~dataset=9": "dataset=9: must be one of cifar10, cifar100, digits, imagefolder, imagenet, mnist",
    "optimizer/mirror=null": "optimizer/mirror=null: must be one of ham, none",
    "optimizer/mirror=hams": "optimizer/mirror=hams: must be one of ham, none; did you mean ham?",
    "dst.method=null": "dst.method=None: must be a sparsity.method.Method, such as RigL()",
    "s_avg=mean": "s_avg=mean: must be one of layer, global, none",
    "compile=fast": "compile=fast: must be one of false, true, reduce-overhead",
    "dst=snip": "dst=snip: must be one of dense, ",
    "dataset=cifar": "dataset=cifar: must be one of cifar10, cifar100",
    "colour=red": "colour=red: no such key",
    "+colour=red": "colour=red: no such key",
    "dst.colour=red": "dst.colour=red: no such key",
    "+dst.colour=red": "dst.colour=red: no such key",
    "+optimizer.mirror.colour=red": "optimizer.mirror={'colour': 'red'}: needs a _target_",
    "optimizer=ham +optimizer.mirror.colour=red": "optimizer.mirror.colour=red: no such key",
    "drop_fraction=1.5": "drop_fraction=1.5: must be in [0, 1]",
    "dst.drop_fraction=-1": "drop_fraction=-1: must be in [0, 1]",
    "dst.every=0": "dst.every=0: must be at least 1",
    "update_every=0": "update_every=0: must be at least 1",
    "epochs=0": "epochs=0: must be at least 1",
    "epochs=1.5": "epochs=1.5: Value '1.5'",
    "batch_size=5000": "batch_size=5000: must be between 1 and the 500 training images",
    "batch_size=0": "batch_size=0: must be at least 1",
    "model=mlp batch_size=1": "one value a channel to normalize; give each process two images or more",
    "dataset.image_size=4 batch_size=1": "batch_size=1: leaves layer3.0.bn1 one value a channel to normalize",
    "lr=-1": "lr=-1.0: must be at least 0",
    "momentum=1": "momentum=1.0: must be in [0, 1)",
    "amp=fp8": "amp=fp8: must be one of none, bf16",
    "device=tpu": "device=tpu: must be one of auto, cpu, cuda",
    "device=cpu gpus=[0]": "gpus=[0]: device=cpu uses none; leave one of the two out",
    "backend=nccl": "backend=nccl: must be one of auto, gloo",
    "threads=0": "threads=0: must be at least 1",
    "init=zeros": "init=zeros: must be one of dense_fan_in, lecun_normal, own_fan_in",
    "topology.distribution=er": "topology.distribution=er: must be one of erk, uniform",
    "topology.exclude=[conv7]": "topology.exclude=conv7: matches no weight of the model",
    "topology.include=[conv7]": "topology.include=conv7: matches no weight of the model",
    "topology.initial=dense": "topology.initial=dense: needs a method that prunes",
    "dst=static topology.initial=dense": "topology.initial=dense: needs a method that prunes",
    "dataset.flip=no": "dataset.flip=no: must be true or false",
    "dst.every=2.5": "dst.every=2.5: must be a whole number",
    "optimizer.mirror=ham": "optimizer.mirror=ham: must be an option of its group: optimizer/mirror=ham",
    "optimizer=ham optimizer.mirror.alpha=nan": "optimizer.mirror.alpha=nan: must be at least 0",
    "lr_schedule.init=-1": "lr_schedule.init=-1: must be at least 0",
    "lr_schedule.end=nan": "lr_schedule.end=nan: must be at least 0",
    "lr_schedule.end=abc": "lr_schedule.end=abc: must be a number",
    "topology.exclude=['*']": "leaves no sparse layer",
    "dst=dense sparsity=0.5": "sparsity=0.5: dst=dense trains every weight",
    "dst.method.gradient=corrected optimizer=sgd": "dst.method.gradient=corrected: needs an optimizer that corrects",
    "renorm=unit optimizer.renorm.over=none": "must be one of dense, masked",
    "model._target_=os.system": "model._target_=os.system: os has no such class or function",
    "topology=null": "topology",
    "+dst.seed=7": "dst.seed=7: ",
    "model=timm model.name=vgg11 model.zero_init_last=true": "model.zero_init_last=True: timm's vgg11 has none",
    "model=timm model.image_size=0": "model.image_size=0: must be a whole number",
    "model=timm model.name=densenet121": "model=sparse_train.models.imagenet.timm_model: Given input size: (256x1x1)",
    "model=timm model.name=vit_tiny_patch16_224 model.image_size=16": "timm_model: Input height (8)",
    "model=wideresnet model.depth=20": "model.depth=20: must be 6n + 4, such as 16, 22",
    "model=wideresnet model.width=0": "model.width=0: must be",
    "model=resnet20_group model.groups=3": "model.groups=3: must be a whole number that divides 16, 32 and 64",
    "model=resnet20_group model.norm=layer": "model.norm=layer: must be one of batch, group",
    "model=resnet50 model.name=resnet999": "model.name=resnet999: timm has no such model",
    "model=timm model.name=vgg11bn": "model.name=vgg11bn: timm has no such model; did you mean vgg11_bn?",
    "lr_schedule.reference_batch=0": "lr_schedule.reference_batch=0: must be",
    "model=mlp model.hidden=[0]": "model.hidden=",
    "model=mlp model.hidden=64": "model.hidden=64: ",
    "model.width=wide": "model.width=wide: ",
    "dataset.pad=-1": "dataset.pad=-1: must be",
    "dataset.mean=[0.5,0.5]": "dataset.mean=",
    "optimizer.lr=0.9": "optimizer.lr=0.9: no such key; did you mean lr?",
    "+optimizer.lr=0.9": "optimizer.lr=0.9: is set by the run itself",
    "topology.sparsity=0.5": "topology.sparsity=0.5: mirrors sparsity and must equal it",
    "lr_schedule.base_lr=0.5": "lr_schedule.base_lr=0.5: no such key",
    "lr=inf": "lr=inf: must be",
    "seed=-1": "seed=-1: must be at least 0",
    "workers=-1": "workers=-1: must be at least 0",
    "runs_dir=/etc/passwd": "runs_dir=/etc/passwd: cannot be written (Not a directory)",
    "dataset=cifar100 download=false data_dir=/nowhere": "data_dir=/nowhere: downloading is off",
    "dataset=mnist download=false data_dir=/nowhere": "put MNIST/raw/train-images-idx3-ubyte",
    "dataset=cifar10 download=false data_dir=/nowhere": "put cifar-10-batches-py/data_batch_1",
    "dataset=imagefolder dataset.folder=photos data_dir=/nowhere": "put its class folders under /nowhere/photos/train",
    "dataset=imagenet dataset.resize=32": "dataset.resize=32: must be at least image_size, 224",
    "dataset=imagenet data_dir=/nowhere": "data_dir=/nowhere: put ImageNet's class folders under",
}


@pytest.mark.parametrize("arguments", BAD_INPUT)
def test_bad_input_gives_one_clear_error(tmp_path, monkeypatch, capsys, arguments):
    code, out, err = run_here(monkeypatch, capsys, f"runs_dir={tmp_path / 'runs'}", *arguments.split(" "))
    assert code == 1
    assert BAD_INPUT[arguments] in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "runs").exists(), "nothing that looks like a run"


def test_an_unreadable_checkpoint_is_named(tmp_path):
    run_dir = trained(f"runs_dir={tmp_path}", "epochs=1")
    content = record(run_dir)
    (run_dir / "record.json").write_text(json.dumps({**content, "status": "running"}))
    (run_dir / "checkpoint.pt").write_bytes(b"junk")
    code, _, err = command(*QUICK, f"runs_dir={tmp_path}", "epochs=1")
    assert code == 1
    assert "checkpoint.pt is not a checkpoint, or its head is damaged; start over with resume=fresh" in err
    assert "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(tmp_path):
    code, _, err = command(f"runs_dir={tmp_path / 'runs'}", "device=cuda")
    assert code == 1
    assert "device=cuda: this torch sees no CUDA device" in err
    assert not (tmp_path / "runs").exists()
