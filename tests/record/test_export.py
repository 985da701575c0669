"""A trained network, written and read back."""

import re
import shutil

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import sparse_train
from sparse_train.errors import ConfigError
from sparse_train.options.composition import compose
from sparse_train.options.targets import make
from sparse_train.record.export import export
from sparse_train.record.files import write_json
from sparse_train.train.build import build
from support.runs import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What a complete run leaves, without the training."""
    place = tmp_path_factory.mktemp("made")
    cfg = compose("config", ["model.width=0.25", "sparsity=0.8", "threads=1"])
    run = build(cfg)
    export(run.model, run.topology, place)
    config, arguments = OmegaConf.to_container(cfg, resolve=True), run.metadata["model_arguments"]
    leave(place, config=config, model_arguments=arguments)
    return run, place


def leave(place, **content):
    write_json(place / "record.json", {"id": "abc", "status": "complete", **content})


@pytest.fixture
def exported(made, tmp_path):
    """The run, and a copy of its directory."""
    run, place = made
    return run, shutil.copytree(place, tmp_path / "run")


def test_the_model_comes_back(exported):
    run, run_dir = exported
    model = sparse_train.load(run_dir)
    assert not model.training
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(model(images), run.model.eval()(images))
    masks = sparse_train.load_masks(run_dir)
    assert masks.keys() == run.topology.masks.keys()
    for name, mask in masks.items():
        assert torch.equal(mask, run.topology.masks[name])
        assert not model.get_parameter(name)[~mask].any()


def test_what_the_page_exports_keeps_outputs_and_zeros(exported, tmp_path, monkeypatch):
    """The code of docs/training.md, on the digits' images."""
    pytest.importorskip("onnxscript")
    import onnx.reference

    run, run_dir = exported
    text = (ROOT / "docs/training.md").read_text()
    [code] = re.findall(r"```python\n(import sparse_train, torch\n.*?)```", text, re.DOTALL)
    code = code.replace("runs/<id>", str(run_dir)).replace("randn(2, 3, 32, 32)", "randn(2, 1, 8, 8)")
    monkeypatch.chdir(tmp_path)
    exec(code, names := {})
    images = torch.randn(5, 1, 8, 8)
    expected = names["model"](images).detach()
    program = torch.export.load("model.pt2")
    torch.testing.assert_close(program.module()(images), expected, rtol=0, atol=1e-6)
    theirs = onnx.load("model.onnx")
    onnx.checker.check_model(theirs)
    weights = {one.name: torch.tensor(onnx.numpy_helper.to_array(one)) for one in theirs.graph.initializer}
    [found] = onnx.reference.ReferenceEvaluator(theirs).run(None, {theirs.graph.input[0].name: images.numpy()})
    torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-5)
    for name, mask in run.topology.masks.items():
        assert torch.equal(program.state_dict[name] != 0, mask)
        assert torch.equal(weights[name] != 0, mask)


def test_what_cannot_be_loaded_is_named(exported, tmp_path):
    _, run_dir = exported
    with pytest.raises(ConfigError, match="holds no readable record.json"):
        sparse_train.load(run_dir / "nowhere")
    weights = (run_dir / "model.safetensors").read_bytes()
    for cut in range(0, len(weights), len(weights) // 10 + 1):
        (run_dir / "model.safetensors").write_bytes(weights[:cut])
        with pytest.raises(ConfigError, match="model.safetensors cannot be read"):
            sparse_train.load(run_dir)
    leave(run_dir, status="failed", config={"model": {}}, model_arguments=SIZES)
    with pytest.raises(ConfigError, match="holds a run that is failed, not complete"):
        sparse_train.load(run_dir)


# --- a stranger's run ---

TIMM = {"_target_": "sparse_train.models.imagenet.timm_model", "_partial_": True, "name": "resnet18"}
SIZES = {"num_classes": 10, "in_channels": 1}
STRANGE = [
    ("model.checkpoint_path", {**TIMM, "checkpoint_path": "evil.pth"}, SIZES),
    ("model.features_only", {**TIMM, "features_only": True}, SIZES),
    ("model.pretrained_cfg", {**TIMM, "pretrained_cfg": {"url": "http://127.0.0.1:9/evil"}}, SIZES),
    ("model.pretrained_cfg", {**TIMM, "pretrained_cfg": "evil"}, SIZES),
    ("model.name", {**TIMM, "name": "hf-hub:evil/evil"}, SIZES),
    ("model._target_", {"_target_": "timm.create_model", "_partial_": True, "model_name": "resnet18"}, SIZES),
    ("model._target_", {"_target_": "sparse_train.tracking.sinks.Wandb", "_partial_": True}, SIZES),
    ("model._args_", {**TIMM, "_args_": [1, 2]}, SIZES),
    ("model.name", {**TIMM, "name": "${oc.env:HOME}"}, SIZES),
    ("model", "evil", SIZES),
    ("model_arguments", TIMM, {**SIZES, "checkpoint_path": "evil.pth"}),
    ("model_arguments", TIMM, {**SIZES, "num_classes": 10**12}),
    ("model_arguments", TIMM, {**SIZES, "num_classes": True}),
    ("model_arguments", TIMM, [1]),
]


def test_a_strangers_record_asks_for_one_of_our_models_and_nothing_else(exported, monkeypatch):
    _, run_dir = exported
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("what was asked for reached timm"))
    for key, model, sizes in STRANGE:
        leave(run_dir, config={"model": model}, model_arguments=sizes)
        with pytest.raises(ConfigError, match=f"^{key}="):
            sparse_train.load(run_dir)


def test_a_record_allocates_no_more_than_its_weights_hold(exported):
    """A layer of 10^12 weights, of which the file has none."""
    _, run_dir = exported
    mlp = {"_target_": "sparse_train.models.mlp.MLP", "_partial_": True, "image_size": 8, "hidden": [10**6, 10**6]}
    leave(run_dir, config={"model": mlp}, model_arguments=SIZES)
    with pytest.raises(ConfigError, match="model.safetensors is not of the model in record.json"):
        sparse_train.load(run_dir)


@pytest.mark.parametrize("began", [{}, {"pretrained": True}], ids=["untrained", "with timm's weights"])
@pytest.mark.parametrize("name", ["resnet18", "resnetblur18"])  # the second has buffers that no file holds
def test_a_resnet_of_timms_comes_back(compose_config, tmp_path, name, began):
    cfg = compose_config("model=resnet50", f"model.name={name}")
    model = make(cfg, "model", **SIZES)
    export(model, sparse_train.Topology(model, 0.9), tmp_path)
    config = OmegaConf.to_container(cfg, resolve=True)
    config["model"] |= began | ({"name": f"{name}.a1_in1k"} if began else {})
    leave(tmp_path, config=config, model_arguments=SIZES)
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(sparse_train.load(tmp_path)(images), model.eval()(images))
    theirs = timm.create_model(name, num_classes=10, in_chans=1)
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=name == "resnet18")
    assert torch.equal(theirs.eval()(images), model(images))


def test_tied_weights_are_written(tmp_path):
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(3, 2), "decoder": torch.nn.Linear(3, 2)})
    model["decoder"].weight = model["encoder"].weight
    export(model, sparse_train.Topology(model, 0.5), tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(model["encoder"].weight, written[f"{name}.weight"]) for name in model)
