"""Broken off in the middle of an epoch and taken up again: the same to the bit, whatever makes a step."""

import pytest
import torch

from sparse_train.record.record import Record
from sparse_train.train import loop
from sparse_train.train.build import build
from sparse_train.train.checkpointing import Interval
from support.runs import tensors, timeless

SMALL = ("epochs=3", "batch_size=8", "update_every=3", "model.width=0.25", "optimizer=sparseopt_ham", "threads=1")
DIGITS = ("dataset=digits", "dataset.train_images=64")
FOLDER = ("dataset=imagenet", "dataset.num_classes=2", "dataset.image_size=16", "dataset.resize=20", "model=resnet20")


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


@pytest.fixture
def ended(compose_config, image_folder, tmp_path, monkeypatch):
    """Train, broken off at some calls of the loss if asked to; history, times aside, and all tensors of the end."""

    def trained(name, overrides, *breaks):
        cfg = compose_config(*SMALL, f"data_dir={image_folder}", *overrides)
        calls, loss = [], loop.Run.loss

        def counted(run, images, labels):
            calls.append(len(calls))
            if calls[-1] in breaks:
                raise Killed
            return loss(run, images, labels)

        with monkeypatch.context() as patched:
            patched.setattr(loop.Run, "loss", counted)
            for _ in range(len(breaks) + 1):
                record = Record(str(tmp_path / name), "run")
                run = build(cfg)
                try:
                    with record.held():
                        loop.train(run, record, [], Interval(steps=2))
                except Killed:
                    assert record.status == "running"
        assert record.status == "complete"
        return timeless(record.history), list(tensors(run.state_dict())), len(calls)

    return trained


@pytest.mark.parametrize(
    "overrides",
    [
        (*DIGITS,),
        (*DIGITS, "amp=bf16", "channels_last=true", "renorm=unit"),
        (*DIGITS, "compile=true"),
        (*DIGITS, "dst=snfs", "drop_fraction=0.5"),
        (*DIGITS, "dst=granet", "sparsity=0.5"),
        (*FOLDER, "workers=0"),
        (*FOLDER, "workers=2"),
    ],
    ids=["fp32", "bf16", "compiled", "snfs", "granet", "folder", "folder and workers"],
)
def test_broken_off_within_an_epoch_it_ends_the_same(ended, overrides):
    rows, state, steps = ended("once", overrides)
    again, after, calls = ended("again", overrides, steps // 4, 2 * steps // 3)
    assert steps + 2 < calls < steps + 8, "it went on in mid-epoch, from at most two steps before"
    assert again == rows
    assert all(torch.equal(a, b) for a, b in zip(after, state, strict=True))
