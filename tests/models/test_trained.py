"""Sparse training from a trained model: which weights stay, and what the commands of its page do."""

import copy
import re
import shlex
import signal
import warnings
from collections import OrderedDict
from string import Template

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import sparse_train
from sparse_train.config import run_id
from sparse_train.errors import ConfigError, MaskMismatchError
from sparse_train.models.imagenet import timm_model
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.models.weights import load_weights
from sparse_train.record.record import Record
from sparse_train.sparsity.methods.gmp import GMP
from sparse_train.sparsity.methods.granet import GraNet
from sparse_train.sparsity.methods.rigl import RigL
from sparse_train.sparsity.methods.srigl import SRigL
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.train.build import build
from support.runs import QUICK, ROOT, broken_off, command, history, record, run_here
from support.runs import trained as trained_run
from support.steps import same

X, Y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
X = X.float() / 16


def mlp():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def learn(model, steps, optimizer=None, updater=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(steps):
        rows = torch.arange(64) * (step + 1) % len(X)
        optimizer.zero_grad()
        F.cross_entropy(model(X[rows]), Y[rows]).backward()
        if updater is None or not updater.due(step) or not updater.update(step):
            optimizer.step()
    return model


def accuracy(model):
    with torch.no_grad():
        return (model(X).argmax(1) == Y).float().mean().item()


@pytest.fixture(scope="module")
def state():
    return learn(mlp(), 400).state_dict()


@pytest.fixture
def trained(state):
    model = mlp()
    model.load_state_dict(state)
    return model


# --- masks of a trained model ---


def two_layers():
    """Of 8 and 4 weights, whose largest are known."""
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.1, -0.8, 0.3, 0.0], [0.7, 0.2, -0.6, 0.4]]))
        model[1].weight.copy_(torch.tensor([[9.0, -8.0], [7.0, 0.5]]))
    return model


def test_the_largest_of_each_layer_and_of_the_network_stay():
    """Half of 8 and half of 4 weights; of the 6 largest of all, three are in each layer."""
    by_layer = Topology(two_layers(), 0.5, "uniform", initial="magnitude")
    assert by_layer.masks["0.weight"].tolist() == [[False, True, False, False], [True, False, True, True]]
    assert by_layer.masks["1.weight"].tolist() == [[True, True], [False, False]]
    over_all = Topology(two_layers(), 0.5, "uniform", initial="global_magnitude")
    assert over_all.masks["0.weight"].tolist() == [[False, True, False, False], [True, False, True, False]]
    assert over_all.masks["1.weight"].tolist() == [[True, True], [True, False]]
    assert over_all.counts == over_all.targets == {"0.weight": 3, "1.weight": 3}
    assert over_all.itop_rate() == 0.5


def test_magnitude_keeps_what_was_learned(trained):
    assert accuracy(trained) > 0.95
    topology = Topology(trained, 0.8, initial="magnitude")
    assert topology.sparsity() == pytest.approx(0.8, abs=1e-3)
    assert accuracy(trained) > 0.75
    assert topology.itop_rate() == pytest.approx(0.2, abs=1e-3)


def test_nonzero_keeps_the_zeros_there_are(trained):
    before = Topology(trained, 0.7, initial="magnitude")
    expected = accuracy(trained)
    for sparsity in (None, 0.7):
        again = Topology(trained, sparsity, initial="nonzero")
        assert same(again.masks.values(), before.masks.values())
        assert again.targets == before.counts
    assert accuracy(trained) == expected
    assert again.itop_rate() == pytest.approx(0.3, abs=1e-3)
    with pytest.raises(ConfigError, match=r"sparsity=0.5: the masks have 0.7 already; give that"):
        Topology(trained, 0.5, initial="nonzero")
    more = Topology(trained, 0.9, initial="nonzero")
    with pytest.raises(ConfigError, match=r"sparsity=0.9: the masks have 0.7; give that, as more needs a method"):
        Updater(more, torch.optim.SGD(trained.parameters(), 0.1), RigL(), total_steps=100)


@pytest.mark.parametrize("method", [GMP(), GraNet()])
def test_a_method_that_prunes_goes_on_from_there(trained, method):
    learned = Topology(trained, 0.7, initial="magnitude")
    topology = Topology(trained, 0.9, initial="nonzero")
    assert sum(topology.targets.values()) == round(0.1 * sum(mask.numel() for mask in topology.masks.values()))
    optimizer = sparse_train.SparseSGD(trained.parameters(), topology, lr=0.05, momentum=0.9)
    updater = Updater(topology, optimizer, method, total_steps=200, every=10)
    assert topology.first == learned.counts
    learn(trained, 200, optimizer, updater)
    assert topology.sparsity() == pytest.approx(0.9, abs=1e-3)
    assert accuracy(trained) > 0.9
    if isinstance(method, GMP):
        assert all(not (mask & ~learned.masks[name]).any() for name, mask in topology.masks.items()), "none came back"


@pytest.mark.parametrize("initial", ["magnitude", "nonzero"])
def test_srigl_goes_on_from_any_masks(trained, initial):
    Topology(trained, 0.8, initial="magnitude")
    topology = Topology(trained, 0.8, initial=initial)
    optimizer = sparse_train.SparseSGD(trained.parameters(), topology, lr=0.05)
    updater = Updater(topology, optimizer, SRigL(), total_steps=100, every=10)
    learn(trained, 50, optimizer, updater)
    for mask in topology.masks.values():
        assert len(set(mask.sum(1).tolist()) - {0}) == 1, "a constant fan-in"


def test_masks_of_ones_own_say_how_many(trained, tmp_path):
    masks = {name: torch.rand(w.shape) < 0.3 for name, w in trained.named_parameters() if w.ndim > 1}
    safetensors.torch.save_file(masks, path := tmp_path / "masks.safetensors")
    for initial in (masks, path, str(path)):
        topology = Topology(trained, None, initial=initial)
        assert topology.targets == topology.counts == {name: int(mask.sum()) for name, mask in masks.items()}
    assert topology.itop_rate() == pytest.approx(1 - topology.sparsity())
    for wrong, error in (
        ({**masks, "4.weight": torch.ones(10, 10)}, r"must have a mask of \(10, 64\) for 4.weight"),
        ({**masks, "4.weight": torch.zeros(10, 64)}, "leaves no weight in 4.weight"),
        ({**masks, "5.weight": masks["0.weight"]}, "has a mask of 5.weight, which is no sparse weight of this model"),
        ({}, "has no mask of 0.weight"),
        ("runs/none", "must be a file, or the directory of a complete run"),
        ("magnitud", "did you mean magnitude?"),
    ):
        with pytest.raises(ConfigError, match=error):
            Topology(trained, None, initial=wrong)


# --- nothing is taken without a word ---


def test_random_masks_on_trained_or_frozen_weights_are_counted_and_dense_ones_on_sparse_weights(trained):
    total = sum(int(w.count_nonzero()) for w in trained.parameters() if w.ndim > 1)
    lost = total - round(0.2 * total)
    with pytest.warns(UserWarning, match=rf"random masks set {lost:,} of {total:,} weights to 0 that are trained"):
        Topology(copy.deepcopy(trained), 0.8)
    model = mlp()
    model[0].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"random masks set 3,\d+ of 8,832 weights to 0 that are frozen"):
        Topology(model, 0.8, "uniform")
    Topology(trained, 0.7, initial="magnitude")
    with pytest.warns(UserWarning, match=r"initial=dense lets 6,\d+ weights grow again that are 0"):
        Topology(trained, 0.9, initial="dense")


@pytest.mark.parametrize("has", [0.7, 0.95])
def test_a_sparse_model_gets_no_random_masks(trained, has):
    """Also if one layer is denser than the masks would be."""
    Topology(trained, None, {"4.weight": 1.0, "*": 1 - has}, initial="magnitude")
    before = {name: w.clone() for name, w in trained.state_dict().items()}
    with pytest.raises(MaskMismatchError, match=r"sparse already: \d+.\d% of its weights are 0, and random masks"):
        Topology(trained, 0.9)
    assert all(torch.equal(w, before[name]) for name, w in trained.state_dict().items())


@pytest.mark.parametrize(
    "made",
    [
        mlp,
        lambda: ResNet20(10),
        lambda: timm.create_model("vit_tiny_patch16_224", depth=2),
        lambda: timm.create_model("convnext_atto", depths=(1, 1, 1, 1)),
        lambda: timm.create_model("mobilenetv3_small_050"),
        lambda: timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1)),
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, batch_first=True), 2),
    ],
)
def test_an_untrained_model_is_taken_for_one(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*stay dense|enable_nested_tensor")
        Topology(made(), 0.8)


# --- by command ---


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """The directory of a finished run."""
    where = tmp_path_factory.mktemp("dense")
    return trained_run(*QUICK, f"runs_dir={where}", "dst=dense", "optimizer=sgd", "epochs=4")


def pruned(monkeypatch, capsys, tmp_path, *overrides):
    words = (*QUICK, f"runs_dir={tmp_path}", "optimizer=sgd", *overrides)
    return run_here(monkeypatch, capsys, *words)


def test_a_run_from_a_run(dense, monkeypatch, capsys, tmp_path):
    words = (f"model.weights={dense}", "topology.initial=magnitude", "sparsity=0.8")
    code, out, err = pruned(monkeypatch, capsys, tmp_path, *words)
    assert code == 0, err
    first = record(tmp_path / out.split("/")[-1].strip())
    assert re.fullmatch(rf"{dense}@[0-9a-f]{{12}}", first["config"]["model"]["weights"])
    assert first["name"].endswith("0.8 pretrained seed 0")
    said = float(re.search(r"before training, with its first masks: test accuracy ([\d.]+)%", err)[1])
    assert said == pytest.approx(first["before_training"]["test_acc"], abs=0.01)
    model = sparse_train.load(tmp_path / first["id"])
    assert sum(int(w.count_nonzero()) for w in model.parameters() if w.ndim > 1) > 1000

    sparse = tmp_path / first["id"]
    words = (f"model.weights={sparse}", f"topology.initial={sparse}", "sparsity=0.8", "dst=static")
    code, out, err = pruned(monkeypatch, capsys, tmp_path, *words)
    assert code == 0, err
    second = record(tmp_path / out.split("/")[-1].strip())
    assert second["before_training"]["test_acc"] == first["final"]["test_acc"]
    masks = [sparse_train.load_masks(tmp_path / one["id"]) for one in (first, second)]
    assert same(*(mask.values() for mask in masks))


def test_an_interrupted_run_from_a_run_ends_the_same(dense, monkeypatch, capsys, tmp_path):
    words = (f"model.weights={dense}", "topology.initial=magnitude", "sparsity=0.8")
    whole = tmp_path / pruned(monkeypatch, capsys, tmp_path / "whole", *words)[1].strip()

    class Killed(BaseException):
        pass

    append = Record.append

    def once(self, row):
        append(self, row)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Record, "append", once)
        with pytest.raises(Killed):
            pruned(patch, capsys, tmp_path / "cut", *words, "checkpoint_steps=3")
    code, out, err = pruned(monkeypatch, capsys, tmp_path / "cut", *words, "checkpoint_steps=3")
    assert code == 0, err
    cut = tmp_path / out.strip()
    assert history(cut) == history(whole)
    assert record(cut)["before_training"] == pytest.approx(record(whole)["before_training"])


def test_a_signal_is_answered_while_it_is_tested_before_training(dense, monkeypatch, capsys, tmp_path):
    words = (f"model.weights={dense}", "topology.initial=magnitude", "sparsity=0.8", "dataset.validation=8")
    with broken_off(0, told=True) as calls:
        code, out, err = pruned(monkeypatch, capsys, tmp_path, *words)
    assert (code, out, len(calls)) == (128 + signal.SIGTERM, "", 1)
    assert "stopping on SIGTERM before training; the same command starts again" in err
    assert pruned(monkeypatch, capsys, tmp_path, *words)[0] == 0


def test_content_and_not_place_makes_the_id(dense, compose_config, tmp_path):
    state = safetensors.torch.load_file(dense / "model.safetensors")
    for place in ("a.safetensors", "b.safetensors"):
        safetensors.torch.save_file(state, tmp_path / place)
    ids = [run_id(compose_config(f"model.weights={tmp_path}/{place}.safetensors")) for place in "ab"]
    assert ids == [run_id(compose_config(f"model.weights={dense}"))] * 2
    assert ids[0] != run_id(compose_config())
    state["fc.bias"] += 1
    safetensors.torch.save_file(state, tmp_path / "b.safetensors")
    assert run_id(compose_config(f"model.weights={tmp_path}/b.safetensors")) != ids[0]
    pinned = f"{tmp_path}/gone.safetensors@0123456789ab"
    assert len(run_id(compose_config(f"model.weights={pinned}"))) == 12, "a record is read where its file is not"


def test_what_cannot_be_loaded_ends_in_one_line(dense, monkeypatch, capsys, tmp_path):
    torch.save({"weights": [1, 2]}, tmp_path / "other.pt")
    for words, said in (
        ((f"model.weights={tmp_path}/none.pt",), "none.pt: must be a file, or the directory of a complete run"),
        ((f"model.weights={tmp_path}/other.pt",), "other.pt: must be a .safetensors file or a state dict"),
        ((f"model.weights={dense}@0123456789ab",), "has changed: its SHA-256 begins with"),
        ((f"model.weights={dense}", "model=wideresnet"), "is not of this WideResNet: it has "),
        ((f"model.weights={dense}", "init=own_fan_in"), "init=own_fan_in: scales weights that are drawn"),
        ((f"topology.initial={dense}",), "sparsity=0.9: the masks have 0; give that, as more needs a method that"),
    ):
        code, _, err = pruned(monkeypatch, capsys, tmp_path, *words)
        assert code == 1
        assert said in err, err
        assert not list(tmp_path.glob("*/record.json"))


def test_a_trainers_checkpoint_of_other_classes_gets_a_new_classifier(dense, monkeypatch, capsys, tmp_path):
    """And random masks on what it has get a warning."""
    state = safetensors.torch.load_file(dense / "model.safetensors")
    state |= {"fc.weight": torch.randn(7, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(7)}
    wrapped = OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "seven.pt")
    code, _, err = pruned(monkeypatch, capsys, tmp_path, f"model.weights={tmp_path}/seven.pt")
    assert code == 0, err
    assert "fc.weight, fc.bias: of 10 classes, which" in err
    assert err.count("random masks") == 1
    assert "warning: random masks keep trained weights at random; topology.initial=magnitude" in err


def test_a_tag_without_its_weights_is_refused():
    with pytest.raises(ConfigError, match=r"pretrained=False: .* true where the name has a tag, as resnet10t.c3_in1k"):
        timm_model(10, 3, "resnet10t.c3_in1k")
    with pytest.raises(ConfigError, match="timm has no weights of efficientnet_cc_b0_4e; false trains from scratch"):
        timm_model(10, 3, "efficientnet_cc_b0_4e", pretrained=True)


def test_timms_weights_are_asked_for_and_never_drawn_over(monkeypatch, compose_config):
    create, asked = timm.create_model, []

    def given(name, pretrained, **options):
        asked.append(pretrained)
        model = create(name, **options)
        for p in model.parameters():
            nn.init.constant_(p, 0.25)
        return model

    def offline(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr("timm.create_model", given)
    words = ("model=timm", "model.name=resnet10t.c3_in1k", "model.pretrained=true", "dst=dense", "optimizer=sgd")
    run = build(compose_config(*words, "epochs=1", "threads=1"))
    assert set(asked) == {True}
    assert all((p == 0.25).all() for p in run.model.parameters() if p.ndim > 1)
    assert run.trained
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(ConfigError, match="cannot be loaded or downloaded .*couldn't connect.*; see model.weights"):
        timm_model(10, 3, "resnet18", pretrained=True)


def test_the_pages_commands_run(tmp_path):
    """In their order, with the shell's variables that keep a run's directory; shorter."""
    page = (ROOT / "docs/from-a-trained-model.md").read_text()
    script = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    script = re.sub(r"epochs=\d+", "epochs=2 model.width=0.25 threads=1", script)
    typed = re.findall(r"^(?:(\w+)=\$\()?python -m sparse_train ([^()\n]+)\)?$", script, re.MULTILINE)
    assert len(typed) == script.count("python") == 6
    directories, said = {}, ""
    for variable, words in typed:
        words = shlex.split(Template(words).substitute(directories))
        code, out, err = command(*words, f"runs_dir={tmp_path}")
        assert code == 0, err
        directories[variable], said = out.splitlines()[-1], said + err
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 6
    assert said.count("before training, with its first masks") == 4


@pytest.mark.parametrize("wrapper", ["", "_orig_mod.module.", "model._orig_mod."])
def test_prefixes_of_wrappers_are_left_out_and_names_of_the_model_kept(tmp_path, wrapper):
    """Of a compiled DDP, of Lightning around a compiled network; the network keeps all of it under `model`."""
    model = nn.Sequential(OrderedDict(model=mlp()))
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in model.state_dict().items()}
    torch.save({f"{wrapper}{name}": tensor for name, tensor in state.items()}, tmp_path / "own.pt")
    assert load_weights(model, str(tmp_path / "own.pt")) == []
    assert all((tensor == 0.5).all() for tensor in model.state_dict().values())
