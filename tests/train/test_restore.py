"""What a run goes on from: the network that was asked for, in numbers, and by whose code."""

import pytest
import torch

from sparse_train.optim.sgd import SparseSGD
from sparse_train.record import metadata, segments
from sparse_train.record.checkpoint import Checkpoints, read
from sparse_train.train import loop
from support.runs import notices, only, record, run_here

TINY = ("model=mlp", "dataset.train_images=64", "batch_size=8", "epochs=4", "sparsity=0.9", "threads=1")
TINY += ("update_every=3", "checkpoint_steps=2", "lr=0.01")


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command; broken off after so many steps, if asked to: its directory, exit status and stderr."""

    def ran(*overrides, steps=None):
        calls, loss = [], loop.Run.loss

        def counted(run, images, labels):
            calls.append(1)
            if len(calls) == steps:
                raise Killed
            return loss(run, images, labels)

        with monkeypatch.context() as patched:
            patched.setattr(loop.Run, "loss", counted)
            try:
                code, _, err = run_here(monkeypatch, capsys, *TINY, *overrides, f"runs_dir={tmp_path}")
            except Killed:
                code, err = None, capsys.readouterr().err
        return only(tmp_path), code, notices(err)

    return ran


def spoil(path, change):
    """Put another state in a checkpoint's place, its checksum right."""
    state = read(path)
    change(state)
    place = path.parent / "spoiled"
    place.mkdir(exist_ok=True)
    Checkpoints(place).save(state)
    (place / "checkpoint.pt").replace(path)


def no_number(state):
    state["model"]["layers.1.weight"][0, 0] = torch.nan


def dense(state):
    for mask in state["optimizer"]["topology"]["masks"].values():
        mask.fill_(True)


def denser_by_one(state):
    mask = state["optimizer"]["topology"]["masks"]["layers.1.weight"]
    mask.view(-1)[(~mask).flatten().nonzero()[0]] = True


@pytest.mark.parametrize("change", [dense, denser_by_one])
def test_masks_of_another_density_do_not_become_a_result(run, change):
    run_dir, code, _ = run(steps=14)
    assert code is None
    spoil(run_dir / "checkpoint.pt", change)
    run_dir, code, err = run()
    assert code == 1
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "active weights in layers.1.weight, where the configuration asks for " in line
    assert line.endswith("; start over with resume=fresh")
    assert record(run_dir)["status"] == "failed"
    run_dir, code, _ = run("resume=fresh")
    assert code == 0
    assert record(run_dir)["final"]["realised_sparsity"] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("spoiled", [["checkpoint.pt"], ["checkpoint.pt", "checkpoint.previous.pt"], ["unreadable"]])
def test_a_checkpoint_without_numbers_is_not_called_good(run, spoiled):
    run_dir, _, _ = run(steps=14)
    if spoiled == ["unreadable"]:
        spoil(run_dir / "checkpoint.pt", no_number)
        (run_dir / "checkpoint.previous.pt").write_bytes(b"sparse_train checkpoint 4 0\n")
    else:
        for name in spoiled:
            spoil(run_dir / name, no_number)
    run_dir, code, err = run()
    assert code == 1
    reason = record(run_dir)["reason"]
    assert record(run_dir)["status"] == "diverged"
    assert reason in err
    named = f"; the last checkpoint with finite weights is {run_dir / 'checkpoint.previous.pt'}"
    assert reason.endswith(named if spoiled == ["checkpoint.pt"] else "are not finite at step 10")


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


@pytest.mark.parametrize("removed", [False, True], ids=["with its record", "without"])
def test_a_run_that_other_code_goes_on_with_says_so_and_keeps_both(run, removed, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(metadata, "training_code", lambda: "0123456789ab")
        run_dir, _, err = run(steps=14)
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
