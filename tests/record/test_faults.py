"""What breaks around a run: disks, directories, memory, strangers' files. One clear line, and nothing lost."""

import os
import re
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_train.config import Config
from sparse_train.errors import ConfigError
from sparse_train.options import composition
from sparse_train.record import checkpoint, files
from sparse_train.report import sweeps
from sparse_train.train import loop
from support.runs import TINY, history, only, record, run_here, same_state, trained

FAST = (*TINY, "epochs=3", "batch_size=16", "checkpoint_steps=4")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return trained(*FAST, f"runs_dir={tmp_path_factory.mktemp('unbroken')}")


@pytest.mark.parametrize("failing", [1, 4, 9])
def test_a_full_disk_fails_the_run_and_nothing_before_it(failing, unbroken, tmp_path, monkeypatch, capsys):
    """The n-th write finds the disk full. Once there is room again the run goes on, to the same end."""
    flush, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) >= failing:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    code, out, err = run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path}")
    assert code == 1
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert out == ""
    run_dir = tmp_path / unbroken.name
    if failing > 1:
        assert record(run_dir)["status"] == "running", "the disk is full for this as well"
    assert not list(run_dir.glob(".*.tmp"))
    assert not (run_dir / "lock").exists()
    monkeypatch.setattr(files.os, "fsync", flush)
    assert run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path}")[0] == 0
    assert same_state(run_dir, unbroken)
    assert history(run_dir) == history(unbroken)


DENIED, FULL = PermissionError(13, "Permission denied"), torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("place", "error", "line"),
    [
        ("record.lock.Lock.acquire", DENIED, r"error: runs_dir=.*/x: cannot be written \(Permission denied\)"),
        ("train.loop.train_epoch", FULL, "out of GPU memory; try a smaller batch_size or amp=bf16"),
    ],
)
def test_what_fails_says_what_would_help(place, error, line, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise error

    monkeypatch.setattr(f"sparse_train.{place}", fails)
    code, out, err = run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path / 'x'}")
    assert (code, out) == (1, "")
    assert re.search(line, err)
    assert [record(path.parent)["status"] for path in tmp_path.glob("x/*/record.json")] in ([], ["failed"])


def test_a_run_whose_record_is_damaged_is_named_and_goes_on_without_it(unbroken, tmp_path, monkeypatch, capsys):
    """Moved away, the record is made again from the checkpoint."""
    shutil.copytree(unbroken, tmp_path / unbroken.name)
    path = tmp_path / unbroken.name / "record.json"
    path.write_bytes(path.read_bytes()[:-20])
    code, out, err = run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path}")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: record={path}: cannot be read: it is damaged; move it away, and the run goes on")
    path.unlink()
    assert run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path}")[0] == 0
    assert record(path.parent)["status"] == "complete"
    assert history(path.parent) == history(unbroken)
    assert same_state(path.parent, unbroken)


def test_what_a_checkpoint_holds_belongs_to_its_format(unbroken):
    """Whoever changes this raises `checkpoint.FORMAT`: other code then refuses the file and does not stumble on it."""
    state = checkpoint.read(unbroken / "checkpoint.pt")
    assert checkpoint.FORMAT == 4
    parts = ("history", "steps", "seconds", "segments", "meter", "random", "model", "optimizer")
    assert set(state) == {"id", *parts}
    assert set(state["meter"]) == {"loss", "correct", "samples", "norm", "norms", "notes"}
    assert set(state["optimizer"]) == {"state", "param_groups", "topology"}


PATHS = ["dst.every", "dst.method", "optimizer.mirror", "optimizer.precondition", "model.width", "dataset.pad"]
KEYS = [key for key in Config.__dataclass_fields__ if key not in ("runs_dir", "data_dir")] + PATHS
ODD = ["", "null", "[]", "{}", "[1", "-1", "nan", "1e400", "${seed}", "${nope}", "${x:y}", '"', "a b", "1,2", "..", "~"]
SIGNS, VALUES = st.sampled_from(["", "", "+", "++", "~"]), st.sampled_from(ODD) | st.text()


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(sign=SIGNS, key=st.sampled_from(KEYS), value=VALUES)
def test_any_words_on_the_command_line_give_no_traceback(sign, key, value, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", lambda *_: None)  # where the words are right
        code, _, err = run_here(patched, capsys, f"runs_dir={tmp_path}", "device=cpu", f"{sign}{key}={value}")
    assert "Traceback" not in err
    assert code in (0, 1)
    assert code == 0 or err.strip()
    assert not list(tmp_path.glob("*/record.json"))


MAIN = "defaults: [config, _self_]\nartifact: {title: a}\nhydra: {sweeper: {params: "
SWEEPS = ["", "[]", "a: b", "a: [", "!x y", "artifact: 1", "hydra: 1", "defaults: [nothing]"]
SWEEPS += [MAIN + "5}}", MAIN + "{dst: snip}}}", MAIN + "{epochs: many}}}", MAIN + "{dst.colour: red}}}"]


def test_a_malformed_sweep_is_named(tmp_path, monkeypatch):
    (tmp_path / "_scales.yaml").write_text("{}")
    for module in (sweeps, composition):
        monkeypatch.setattr(module, "SWEEPS", tmp_path)
    for text in SWEEPS:
        (tmp_path / "odd.yaml").write_text(text)
        for cached in (sweeps._load, sweeps._compose, sweeps.artifact, sweeps.scales):
            cached.cache_clear()
        with pytest.raises(ConfigError, match=r"^artifact=sweeps/odd.yaml: "):
            sweeps.load("odd")
    sweeps.scales.cache_clear()


def test_no_secret_of_the_environment_is_written(tmp_path, monkeypatch, capsys):
    secrets = {"WANDB_API_KEY": "a1b2c3secretwandb", "HF_TOKEN": "hf_secrettoken", "AWS_SECRET_ACCESS_KEY": "awssecret"}
    paths = {"SPARSE_TRAIN_DATA": "/planted/place"}  # which a path may name, and a record keeps as it is written
    place = "${oc.env:SPARSE_TRAIN_DATA}/x"
    for name, value in (secrets | paths).items():
        monkeypatch.setenv(name, value)
    code, out, err = run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path}", f"data_dir='{place}'")
    assert code == 0, err
    assert record(only(tmp_path))["config"]["data_dir"] == place
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (secrets | paths).values():
        assert secret.encode() not in written
        assert secret not in out + err
    assert len(written) > 10_000


def test_a_task_that_fails_is_recorded_as_failed(tmp_path, monkeypatch, capsys):
    """A measurement finds its data missing only once it has begun."""
    overrides = ["task=bn_gradient", "dataset=mnist", "download=false", "data_dir=/nowhere"]
    code, _, err = run_here(monkeypatch, capsys, *overrides, f"runs_dir={tmp_path}")
    assert code == 1
    assert "data_dir=/nowhere" in err
    assert "Traceback" not in err
    assert record(only(tmp_path))["status"] == "failed"
