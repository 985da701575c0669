"""A method, a model and a data set from a package that is not in this repository, and who may let them in."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from traceback import extract_tb
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

import sparse_train
from sparse_train import source
from sparse_train.errors import ConfigError, ForeignError
from sparse_train.options.targets import GROUP, VARIABLE, check_targets, instantiate
from sparse_train.train.tasks import require_same_settings
from support import lab
from support.runs import ROOT, record, run_here

OWN = ["--config-dir", "conf", "dst=drawn", "dataset=stripes", "model=tiny", "threads=1"]
DRAWN = "mylab.methods.Drawn"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the package lies, on Python's path; not trusted yet."""
    monkeypatch.syspath_prepend(str(lab.built(tmp_path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    forget()
    yield tmp_path
    forget()


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]
    source.foreign_code.cache_clear()


@pytest.fixture
def mylab(place, monkeypatch):
    monkeypatch.setenv(VARIABLE, "mylab")
    return place


def shell(place, script):
    """Type this at a prompt in a directory."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{place}", "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop(VARIABLE, None)
    return subprocess.run(["bash", "-ec", script], cwd=place, env=environment, capture_output=True, text=True)


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    """Trained by the page's first command, and collected into a table by its last."""
    done = shell(lab.built(tmp_path), "\n".join(lab.COMMANDS))
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs complete" in done.stdout
    assert (tmp_path / "results" / "drawn-or-largest.md").exists(), "not among the results of this project"
    rows = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[-2:] == ["RigL", "drawn"]
    first = record(tmp_path / done.stdout.splitlines()[0])
    code = _hash(tmp_path, monkeypatch)
    assert first["foreign"] == {DRAWN: {"package": "mylab", "version": None, "code": code}}
    assert first["config"]["dst"]["method"] == {"_target_": DRAWN, "temperature": 0.5}
    assert first["name"] == "digits resnet20 drawn sparseopt 0.9 seed 0"
    assert len((tmp_path / "mylab" / "methods.py").read_text().splitlines()) <= 20, "as the page's title says"


def _hash(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    forget()
    return source.foreign_code(DRAWN)


def test_a_packages_logger_is_told_and_its_model_comes_back_from_the_record(mylab, monkeypatch, capsys):
    """The page's logger, also when a run that it failed resumes, and when the finished run is launched again.

    What it does to a row stays its own.
    """
    rows, run = mylab / "accuracies.csv", (*OWN, "runs_dir=runs", "logger=csv")
    logger = importlib.import_module("mylab.loggers").Csv
    log = logger.log
    with monkeypatch.context() as patch:
        patch.setattr(logger, "log", lambda self, row, topology: row["epoch"] < 3 or {}["full"])
        with pytest.raises(KeyError, match="full"):
            run_here(monkeypatch, capsys, *run)
        patch.setattr(logger, "log", lambda self, row, topology: (log(self, row, topology), row.clear()))
        code, out, err = run_here(monkeypatch, capsys, *run)
    assert code == 0, err
    told = rows.read_text()
    assert [line.split(",")[:2] for line in told.splitlines()] == [
        [out.strip()[5:], str(epoch)] for epoch in (1, 2, 3, 4)
    ]
    rows.unlink()
    assert run_here(monkeypatch, capsys, *run)[:2] == (0, out)
    assert rows.read_text() == told
    run_dir = mylab / out.strip()
    assert sparse_train.load(run_dir)(torch.zeros(2, 1, 8, 8)).shape == (2, 2)
    with (mylab / "mylab" / "nets.py").open("a") as file:
        file.write("EDITED = True\n")
    source.foreign_code.cache_clear()
    with pytest.warns(UserWarning, match="^mylab.nets.Tiny has changed since the run in .*: its model may be another"):
        sparse_train.load(run_dir)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigError, match=f"model._target_=mylab.nets.Tiny: .*{VARIABLE}=mylab$"):
        sparse_train.load(run_dir)


def test_without_a_word_of_who_runs_it_nothing_is_imported(place, monkeypatch, capsys):
    (place / "mylab" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    code, out, err = run_here(monkeypatch, capsys, *OWN, "runs_dir=runs")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: dst.method._target_=mylab.methods.Drawn: not one of the project's own; if you trust")
    assert err.endswith(f": export {VARIABLE}=mylab\n")
    assert "mylab" not in sys.modules
    assert not (place / "runs").exists()


def test_what_is_typed_needs_no_other_word(place, monkeypatch, capsys):
    words = ["epochs=1", "model=mlp", "threads=1", "runs_dir=runs"]
    code, out, err = run_here(monkeypatch, capsys, "~dst.method", f"+dst.method._target_={DRAWN}", *words)
    assert code == 0, err
    assert list(record(place / out.strip())["foreign"]) == [DRAWN]


def test_an_installed_package_may_say_it_for_itself(place):
    content = {"method": {"_target_": DRAWN}}
    with pytest.raises(ConfigError, match=f"{VARIABLE}=mylab"):
        check_targets(content, "dst")
    info = place / "mylab-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nmylab = mylab.methods\nanything = os\n")
    (info / "top_level.txt").write_text("mylab\n")
    check_targets(content, "dst")
    assert source.foreign([DRAWN])[DRAWN]["version"] == "2.5"
    with pytest.raises(ConfigError, match="model._target_=mylab.nets.Tiny: not one of the project's own; if"):
        check_targets({"_target_": "mylab.nets.Tiny"}, "model")
    with pytest.raises(ConfigError, match="dst.method._target_=os.system: not one of the project's own$"):
        check_targets({"method": {"_target_": "os.system"}}, "dst")


def _with(cfg, key, value):
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, key, value, merge=False)
    return cfg


def test_what_is_not_ours_is_listed_and_read_as_what_is(mylab, monkeypatch, capsys):
    """Its options are among those offered, and a key that its class does not take is answered with the nearest."""
    code, out, _ = run_here(monkeypatch, capsys, *OWN[:2], "--help")
    assert code == 0
    assert re.search(r"^    drawn +Grow at random, the likelier", out, re.MULTILINE)
    said = {
        "dst=null": "dst=null: must be one of dense, drawn, ",
        "dst.method.temprature=2": "dst.method.temprature=2: no such key; did you mean temperature?",
        "+dst.method.colour=1": f"dst.method.colour=1: no such key of {DRAWN}; ~dst.method.colour leaves it out",
        "~dst.method._target_": "dst.method={'temperature': 1.0}: needs a _target_",
    }
    for word, line in said.items():
        code, out, err = run_here(monkeypatch, capsys, *OWN, word)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"error: {line}")


def test_processes_with_other_code_of_a_package_do_not_train_together(mylab, compose_config):
    agreed = {}
    ranks = SimpleNamespace(world=2, require_same=agreed.update)
    require_same_settings(_with(compose_config(), "dst.method", {"_target_": DRAWN}), ranks)
    assert agreed[DRAWN] == source.foreign_code(DRAWN)


# What is no class of its module's own, whoever names it, or does not belong where it stands.
STRANGE = {
    "dst.method": [
        "mylab.methods.torch.hub.load",
        "mylab.methods.system",
        "mylab.methods.RESULT",
        "mylab.methods._hidden",
        "mylab.methods.Nothing",
        "mylab.nowhere.Drawn",
        "mylab",
        "mylabor.growth.Drawn",
        "sparse_train.optim.ham.HAM",
        "sparse_train.sparsity.method.torch.load",
        "sparse_train.sparsity.methods.rigl.Layer",
        "sparse_train.sparsity.masks.drop",
        "builtins.eval",
        "os.system",
        7,
    ],
    "model": [
        "sparse_train.models.imagenet.timm.create_model",
        "sparse_train.models.mlp.MLP.load_state_dict",
        "sparse_train.models.init.kaiming_normal",
        "sparse_train.record.export.load",
        "mylab.nets.nn.Linear",
    ],
    "dataset": ["sparse_train.data.small.ensure", "mylab.sets.torch.load"],
    "task": ["sparse_train.theory.measurement.measure", "sparse_train.train.tasks"],
    "topology": ["sparse_train.sparsity.flops.layer_flops"],
    "logger": ["sparse_train.tracking.sinks.neuron_densities", "sparse_train.tracking.sinks.wandb_run.begin"],
}


def test_trust_ends_where_a_package_does(mylab, compose_config):
    with (mylab / "mylab" / "methods.py").open("a") as file:
        file.write("\nfrom os import system\nRESULT = Drawn()\n\ndef _hidden():\n    pass\n")
    cfg = compose_config()
    for key, targets in STRANGE.items():
        partial = {} if "." in key else {"_partial_": True}
        for target in targets:
            with pytest.raises(ConfigError, match=rf"^{key}._target_={target}: "):
                instantiate(_with(cfg, key, {"_target_": target, **partial}), key.partition(".")[0])


@pytest.mark.parametrize("said", ["mylab,subprocess", "builtins", "mylab.methods;x"])
def test_pythons_own_modules_are_never_trusted(said, place, monkeypatch):
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(ConfigError, match=f"{VARIABLE}="):
        check_targets({"_target_": DRAWN}, "dst.method")


def test_a_strangers_constructor_keeps_its_traceback(mylab, monkeypatch, capsys):
    for name, at in (("methods", "dst.method"), ("nets", "model")):
        forget()
        path = mylab / "mylab" / f"{name}.py"
        before = path.read_text()
        path.write_text(before.replace("):\n        ", "):\n        [].pop()\n        ", 1))
        with pytest.raises(ForeignError) as error:
            run_here(monkeypatch, capsys, *OWN, "runs_dir=runs")
        [*_, frame] = extract_tb(error.value.__cause__.__traceback__)
        assert (Path(frame.filename), type(error.value.__cause__)) == (path, IndexError)
        assert str(error.value).startswith(f"{at}=mylab.{name}."), "where it stands, not what holds it"
        path.write_text(before)
