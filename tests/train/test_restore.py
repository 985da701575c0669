"""What a run goes on from: the network that was asked for, in numbers, and by whose code."""

import pytest
import torch

from sparse_train.models.mlp import MLP
from sparse_train.optim.sgd import SparseSGD
from sparse_train.record import metadata, segments
from sparse_train.record.checkpoint import read
from support.runs import Killed, broken_off, notices, only, record, run_here

TINY = ("model=mlp", "dataset.train_images=64", "batch_size=8", "epochs=4", "sparsity=0.9", "threads=1")
TINY += ("update_every=3", "checkpoint_steps=2", "lr=0.01")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command; broken off at some steps, if asked to: its directory, exit status and stderr."""

    def ran(*overrides, steps=()):
        with broken_off(*steps):
            try:
                code, _, err = run_here(monkeypatch, capsys, *TINY, *overrides, f"runs_dir={tmp_path}")
            except Killed:
                code, err = None, capsys.readouterr().err
        return only(tmp_path), code, notices(err)

    return ran


def test_weights_without_numbers_are_not_saved(run, monkeypatch):
    """An overflow in the very step before: the loss is still finite."""
    step, calls = SparseSGD.step, []

    def overflowing(self, closure=None):
        calls.append(step(self, closure))
        if len(calls) == 5:
            with torch.no_grad():
                self.param_groups[0]["params"][0].view(-1)[0] = torch.inf

    monkeypatch.setattr(SparseSGD, "step", overflowing)
    run_dir, code, _ = run()
    assert code == 1
    good = read(run_dir / "checkpoint.pt")
    assert all(value.isfinite().all() for value in good["model"].values())
    assert record(run_dir)["reason"] == (
        f"layers.1.weight is not finite after epoch 0, {good['steps'] + 2} steps; the last checkpoint with finite"
        f" weights is {run_dir / 'checkpoint.pt'}"
    )


def test_a_buffer_that_is_infinite_from_the_start_is_no_divergence(run, monkeypatch):
    """As the mask of an attention is."""
    made = MLP.__init__

    def with_mask(self, *arguments, **options):
        made(self, *arguments, **options)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

    monkeypatch.setattr(MLP, "__init__", with_mask)
    assert run(steps=[5])[1] is None
    run_dir, code, _ = run()
    assert code == 0
    assert record(run_dir)["status"] == "complete"


@pytest.mark.parametrize("removed", [False, True], ids=["with its record", "without"])
def test_a_run_that_other_code_goes_on_with_says_so_and_keeps_both(run, removed, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(metadata, "training_code", lambda: "0123456789ab")
        run_dir, _, err = run(steps=[13])
    assert "other code" not in err
    [first] = record(run_dir)["segments"]
    place = read(run_dir / "checkpoint.pt")
    if removed:
        (run_dir / "record.json").unlink()
    run_dir, code, err = run()
    assert code == 0
    assert err.count("resuming with different code (revision ") == 1
    assert "hash 0123456789ab; now " in err
    content = record(run_dir)
    assert content["started"] == first["started"]
    assert content["segments"][0] == first
    assert [one["after"] for one in content["segments"]] == [
        {"epochs": 0, "steps": 0},
        {"epochs": len(place["history"]), "steps": place["steps"]},
    ]
    assert place["steps"] > 0
    assert [one["code"] for one in content["segments"]] == ["0123456789ab", content["code"]]
    both = f"from the start 0123456789ab then {content['code']}; now {content['code']}"
    said = f"{run_dir}: made by other code ({segments.code(content)}, {both}); resume=fresh trains it again\n"
    assert run()[1:] == (0, said)
