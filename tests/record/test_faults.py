"""What breaks around a run: disks, directories, memory, strangers' files. One clear line, and nothing lost."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_train.config import Config
from sparse_train.errors import ConfigError
from sparse_train.options import composition
from sparse_train.record import checkpoint, files
from sparse_train.record.checkpoint import Checkpoints
from sparse_train.record.record import Record
from sparse_train.report import sweeps
from sparse_train.report.results import Records
from sparse_train.train import loop
from support.runs import QUICK, command, history, only, record, run_here, same_state, trained

FAST = (*QUICK, "epochs=3", "checkpoint_steps=4")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return trained(*FAST, f"runs_dir={tmp_path_factory.mktemp('unbroken')}")


@pytest.mark.parametrize("failing", range(1, 12, 2))
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


def test_a_write_that_fails_once_leaves_a_failed_record(tmp_path, monkeypatch, capsys):
    calls = []

    def broken(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", broken)
    code, _, err = run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path}")
    assert code == 1
    assert "Input/output error" in err
    content = record(only(tmp_path))
    assert content["status"] == "failed"
    assert "Input/output error" in content["reason"]


def test_a_directory_that_may_not_be_written(tmp_path, monkeypatch, capsys):
    def refused(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sparse_train.record.lock.Lock.acquire", refused)
    code, out, err = run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path / 'x'}")
    assert (code, out) == (1, "")
    assert f"error: runs_dir={tmp_path / 'x'}: cannot be written (Permission denied)" in err


def test_out_of_memory_says_what_would_help(tmp_path, monkeypatch, capsys):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("sparse_train.train.loop.train_epoch", no_memory)
    code, _, err = run_here(monkeypatch, capsys, *FAST, f"runs_dir={tmp_path}")
    assert code == 1
    assert "out of GPU memory; try a smaller batch_size or amp=bf16" in err
    assert record(only(tmp_path))["status"] == "failed"


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


# --- strangers' files, at random ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(content=JSON | st.binary(max_size=60))
def test_any_file_in_a_records_place_is_passed_over_and_named(content, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    (place / "abc").mkdir()
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (place / "abc" / "record.json").write_bytes(data)
    with pytest.raises(ConfigError, match="record.json: "):
        Record(str(place), "abc")
    records = Records([place])
    assert records.found == {}
    assert len(records.problems) == 1


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400), head=st.sampled_from([b"", b"sparse_train checkpoint 4 ", b"PK\x03\x04"]))
def test_any_bytes_in_a_checkpoints_place_are_refused(data, head, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    (place / "checkpoint.pt").write_bytes(head + data)
    with pytest.raises(ValueError, match=r"checkpoint.pt (is not a checkpoint|has format|is damaged)"):
        checkpoint.read(place / "checkpoint.pt")
    with pytest.raises(ConfigError, match="start over with resume=fresh"):
        Checkpoints(place).load("cpu")


def test_what_a_checkpoint_holds_belongs_to_its_format(unbroken):
    """Whoever changes this raises `checkpoint.FORMAT`: other code then refuses the file and does not stumble on it."""

    def shape(value, depth):
        if isinstance(value, torch.Tensor):
            return str(value.dtype).removeprefix("torch.")
        if isinstance(value, dict) and depth:
            return {key: shape(item, depth - 1) for key, item in value.items()}
        return type(value).__name__

    state = checkpoint.read(unbroken / "checkpoint.pt")
    assert checkpoint.FORMAT == 4
    assert {key: shape(value, 0 if key == "model" else 1) for key, value in state.items()} == {
        "id": "str",
        "history": "list",
        "steps": "int",
        "seconds": "float",
        "segments": "list",
        "meter": {
            "loss": "float64",
            "correct": "float64",
            "samples": "int64",
            "norm": "float64",
            "norms": "int",
            "notes": "dict",
        },
        "random": {"cpu": "uint8"},
        "model": "OrderedDict",
        "optimizer": {"state": "dict", "param_groups": "list", "topology": "dict"},
    }


PATHS = ["dst.every", "dst.method", "optimizer.mirror", "optimizer.precondition", "model.width", "dataset.pad"]
KEYS = [key for key in Config.__dataclass_fields__ if key not in ("runs_dir", "data_dir")] + PATHS
ODD = ["", "null", "[]", "{}", "[1", "-1", "nan", "1e400", "${seed}", "${nope}", "${x:y}", '"', "a b", "1,2", "..", "~"]
SIGNS, VALUES = st.sampled_from(["", "", "+", "++", "~"]), st.sampled_from(ODD) | st.text()


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(sign=SIGNS, key=st.sampled_from(KEYS), value=VALUES)
def test_any_words_on_the_command_line_give_no_traceback(sign, key, value, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", lambda *_: None)  # where the words are right
        code, _, err = run_here(patched, capsys, f"runs_dir={tmp_path}", "device=cpu", f"{sign}{key}={value}")
    assert "Traceback" not in err
    assert code in (0, 1)
    assert code == 0 or err.strip()
    assert not list(tmp_path.glob("*/record.json"))


MAIN = "defaults: [config, _self_]\n"
SWEEPS = [
    "",
    "a",
    "[]",
    "{}",
    "a: b",
    "a: [",
    "\t",
    "&a *b",
    "!x y",
    "artifact: 1",
    "artifact: {}",
    "hydra: 1",
    "defaults: [nothing]",
    MAIN + "artifact: {title: a}\nhydra: {sweeper: {params: 5}}",
    MAIN + "artifact: {title: a}\nhydra: {sweeper: {params: {dst: snip}}}",
    MAIN + "artifact: {title: a}\nhydra: {sweeper: {params: {colour: red}}}",
    MAIN + "artifact: {title: a}\nhydra: {sweeper: {params: {epochs: many}}}",
    MAIN + "artifact: {title: a}\nhydra: {sweeper: {params: {dst.colour: red}}}",
]


@pytest.mark.parametrize("text", SWEEPS)
def test_a_malformed_sweep_is_named(text, tmp_path, monkeypatch):
    (tmp_path / "odd.yaml").write_text(text)
    (tmp_path / "_scales.yaml").write_text("{}")
    for module in (sweeps, composition):
        monkeypatch.setattr(module, "SWEEPS", tmp_path)
    caches = (sweeps._load, sweeps._compose, sweeps.artifact, sweeps.scales)
    for cached in caches:
        cached.cache_clear()
    with pytest.raises(ConfigError, match=r"^artifact=sweeps/odd.yaml: "):
        sweeps.load("odd")
    for cached in caches:
        cached.cache_clear()


def test_no_secret_of_the_environment_is_written(tmp_path):
    secrets = {"WANDB_API_KEY": "a1b2c3secretwandb", "HF_TOKEN": "hf_secrettoken", "AWS_SECRET_ACCESS_KEY": "awssecret"}
    paths = {"SPARSE_TRAIN_DATA": "/planted/place"}  # which a path may name, and a record keeps as it is written
    place = "${oc.env:SPARSE_TRAIN_DATA}/x"
    code, out, err = command(*FAST, f"runs_dir={tmp_path}", f"data_dir='{place}'", **secrets, **paths)
    assert code == 0, err
    assert record(only(tmp_path))["config"]["data_dir"] == place
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (secrets | paths).values():
        assert secret.encode() not in written
        assert secret not in out + err
    assert len(written) > 10_000


def test_a_task_that_fails_is_recorded_as_failed(tmp_path):
    """A measurement finds its data missing only once it has begun."""
    overrides = ["task=bn_gradient", "dataset=mnist", "download=false", "data_dir=/nowhere"]
    code, _, err = command(*overrides, f"runs_dir={tmp_path}")
    assert code == 1
    assert "data_dir=/nowhere" in err
    assert "Traceback" not in err
    assert record(only(tmp_path))["status"] == "failed"
