"""A trained network, written and read back."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import sparse_train
from sparse_train.build import build
from sparse_train.errors import ConfigError
from sparse_train.export import export
from sparse_train.files import write_json


@pytest.fixture
def exported(compose_config, tmp_path):
    """What a complete run leaves, without the training."""
    cfg = compose_config("model.width=0.25", "sparsity=0.8", "threads=1")
    run = build(cfg)
    export(run.model, run.topology, tmp_path)
    write_json(
        tmp_path / "record.json",
        {
            "id": "abc",
            "status": "complete",
            "config": OmegaConf.to_container(cfg, resolve=True),
            "model_arguments": run.facts["model_arguments"],
        },
    )
    return run, tmp_path


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


def test_a_resnet50_goes_into_timms_own(compose_config, tmp_path):
    import timm

    from sparse_train.targets import make

    cfg = compose_config("model=resnet50")
    model = make(cfg, "model", num_classes=7, in_channels=3)
    topology = sparse_train.Topology(model, 0.9)
    export(model, topology, tmp_path)
    theirs = timm.create_model("resnet50", num_classes=7)
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(theirs.conv1.weight, model.conv1.weight)


def test_what_cannot_be_loaded_is_named(exported, tmp_path):
    _, run_dir = exported
    with pytest.raises(ConfigError, match="holds no readable record.json"):
        sparse_train.load(run_dir / "nowhere")
    weights = (run_dir / "model.safetensors").read_bytes()
    for cut in range(0, len(weights), len(weights) // 10 + 1):
        (run_dir / "model.safetensors").write_bytes(weights[:cut])
        with pytest.raises(ConfigError, match="model.safetensors cannot be read"):
            sparse_train.load(run_dir)
    record = json.loads((run_dir / "record.json").read_text())
    write_json(run_dir / "record.json", {**record, "status": "failed"})
    with pytest.raises(ConfigError, match="holds a run that is failed, not complete"):
        sparse_train.load(run_dir)
