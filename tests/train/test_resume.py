"""Broken off in the middle of an epoch and taken up again: the same to the bit, whatever makes a step."""

import shutil
import signal
import time

import pytest

from sparse_train.data import imagenet
from sparse_train.record.record import Record
from sparse_train.train import loop
from sparse_train.train.build import build
from sparse_train.train.checkpointing import Interval
from support.runs import Killed, broken_off, only, record, run_here, tensors, timeless
from support.steps import same

SMALL = ("epochs=3", "batch_size=8", "update_every=3", "optimizer=sparseopt_ham", "threads=1")
DIGITS = ("dataset=digits", "dataset.train_images=64")
FOLDER = ("dataset=imagenet", "dataset.num_classes=2", "dataset.image_size=16", "dataset.resize=20", "model=mlp")


@pytest.fixture
def ended(compose_config, image_folder, tmp_path):
    """Train, broken off at some calls of the loss if asked to; history, times aside, and all tensors of the end.

    As SIGKILL breaks it off, or as SIGTERM does if it is told so.
    """

    def trained(name, overrides, *breaks, told=False):
        cfg = compose_config(*SMALL, f"data_dir={image_folder}", *overrides)
        with broken_off(*breaks, told=told) as calls:
            for _ in range(len(breaks) + 1):
                record = Record(str(tmp_path / name), "run")
                run = build(cfg)
                try:
                    with record.held():
                        loop.train(run, record, [], Interval(steps=2))
                except (Killed, SystemExit):
                    assert record.status == "running"
        assert record.status == "complete"
        return timeless(record.history), list(tensors(run.state_dict())), len(calls)

    return trained


WAYS = {
    "bf16": (*DIGITS, "model.width=0.25", "amp=bf16", "channels_last=true", "renorm=unit"),
    "compiled": (*DIGITS, "model=mlp", "compile=true"),
    "csr": (*DIGITS, "model=mlp", "execution=csr", "topology.distribution=uniform"),
    "snfs": (*DIGITS, "model=mlp", "dst=snfs", "drop_fraction=0.5"),
    "folder and workers": (*FOLDER, "workers=2"),
}


@pytest.mark.parametrize("way", WAYS)
def test_broken_off_within_an_epoch_it_ends_the_same(ended, way):
    rows, state, steps = ended("once", WAYS[way])
    again, after, calls = ended("again", WAYS[way], steps // 4, 2 * steps // 3)
    assert steps + 2 < calls < steps + 8, "it went on in mid-epoch, from at most two steps before"
    assert again == rows
    assert same(after, state)


def test_broken_off_while_it_is_tested_it_ends_the_same(ended):
    """A signal is answered between two batches of the test, which then begins again; no step is taken twice."""
    overrides = (*DIGITS, "model=mlp", "renorm=unit", "dataset.validation=8")
    rows, state, steps = ended("once", overrides)
    again, after, calls = ended("again", overrides, 7, 7 + 1 + 1, told=True)  # 7 steps an epoch; test batches: 2 and 1
    assert calls == steps + 1 + 2, "one batch of the test, then both of them, were made once more"
    assert again == rows
    assert same(after, state)


def test_a_run_goes_on_with_other_images_only_if_it_is_told_to(image_folder, tmp_path, monkeypatch, capsys):
    """A swapped or added file under the same name gives another order, and another result."""
    words = (*SMALL, *FOLDER, f"data_dir={image_folder}", f"runs_dir={tmp_path / 'runs'}")
    words += ("workers=0", "batch_size=5", "checkpoint_steps=1")

    def launched(*more):
        return run_here(monkeypatch, capsys, *words, *more)

    def added(name):
        folder = image_folder / "imagenet" / "train" / "n01"
        shutil.copy(folder / "0.png", folder / name)

    with broken_off(0, told=True):
        assert launched()[0] == 128 + signal.SIGTERM
    before = record(only(tmp_path / "runs"))["data"]
    assert set(before) == {"files of train", "files of val"}
    added("more.png")
    code, _, err = launched()
    assert code == 1
    told = f"files of train were {before['files of train']}, now "
    assert told in err
    assert err.endswith("; start over with resume=fresh, or go on with resume=anyway\n")
    assert record(only(tmp_path / "runs"))["data"] == before
    code, _, err = launched("resume=anyway")
    assert code == 0
    assert told in err
    assert "resuming after epoch 0 of 3, 1 steps" in err
    segments = record(only(tmp_path / "runs"))["segments"]
    assert [one["data"]["files of val"] for one in segments] == [before["files of val"]] * 2
    assert segments[0]["data"] == before != segments[1]["data"] == record(only(tmp_path / "runs"))["data"]

    added("after the run.png")
    code, _, err = launched()
    assert (code, "files of train were" in err, "resume=fresh trains it again" in err) == (0, True, True)
    shutil.rmtree(image_folder / "imagenet")
    code, _, err = launched()
    assert (code, "files of" in err) == (0, False), "a finished run needs no images, and reads none"


def test_history_says_how_long_training_waited_for_images(compose_config, image_folder, tmp_path, capsys, monkeypatch):
    read, overrides = imagenet.read_image, (*SMALL, *FOLDER, f"data_dir={image_folder}", "workers=0", "batch_size=5")
    monkeypatch.setattr(imagenet, "read_image", lambda path: (time.sleep(0.02), read(path))[1])
    record = Record(str(tmp_path / "runs"), "run")
    with record.held():
        loop.train(build(compose_config(*overrides, "epochs=1")), record, [], Interval())
    [row] = record.history
    assert 0.2 / row["seconds"] < row["data_wait"] < 1, "ten training images of 0.02 s each"
    assert f"  wait {row['data_wait']:3.0%}\n" in capsys.readouterr().err
