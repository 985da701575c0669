"""A file from elsewhere: it cannot run code, and cannot copy a secret. What the user types may do both."""

import logging
import pickle
import re
import sys
from types import ModuleType

import pytest
import yaml
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from sparse_train.errors import ConfigError
from sparse_train.options.composition import CONF, compose
from sparse_train.report import sweeps
from support.runs import QUICK, run_here

MAIN = {"defaults": ["config", "_self_"]}
SHELL = "torch.utils.collect_env.run"  # one of many callables that any environment has; this one starts a shell
TOUCH = {"_target_": SHELL, "command": "touch marker"}
HANDLER = {"handlers": {"h": {"()": SHELL, "command": "touch marker"}}}
NAME, SECRET = "AWS_SECRET_ACCESS_KEY", "planted4secret"
READS = "${oc.env:" + NAME + "}"


@pytest.fixture
def shared(tmp_path):
    """A stranger's directory: name -> content; gives the words that name its file x."""

    def written(content, header="", **files):
        for name, inner in {"x": {**MAIN, **content}, **files}.items():
            path = tmp_path / "shared" / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header * (name != "x") + yaml.safe_dump(inner))
        return ["--config-dir", "shared", "--config-name", "x"]

    return written


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """The one line of a command that must fail, and leave nothing."""

    root = logging.getLogger()
    kept = root.handlers[:], root.level  # which --info changes

    def ran(*words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(NAME, SECRET)
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        code, out, err = run_here(monkeypatch, capsys, *words, *QUICK, "epochs=1")
        left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path not in before}
        assert left <= {"multirun.yaml"}, "nothing runs; Hydra itself writes down what was asked for"
        assert (code, err.count("\n")) == (1, 1), err
        assert out == "" or "--info" in words
        assert SECRET not in err
        return err.removeprefix("error: ")

    yield ran
    root.handlers[:], root.level = kept


# What x.yaml says -> the key that is refused.
ATTACKS = {
    "hydra.callbacks.x._target_": {"hydra": {"callbacks": {"x": TOUCH}}},
    "hydra.job_logging.handlers.h.()": {"hydra": {"job_logging": HANDLER}},
    "hydra.job.env_set.LD_PRELOAD": {"hydra": {"job": {"env_set": {"LD_PRELOAD": "x"}}}},
    "hydra.job.env_copy[0]": {"hydra": {"job": {"env_copy": [NAME]}}},
    "hydra.launcher.setup[0]": {"hydra": {"launcher": {"setup": ["touch marker"]}}},
    "hydra.sweeper._target_": {"hydra": {"sweeper": TOUCH}},
    "hydra.searchpath[0]": {"hydra": {"searchpath": ["pkg://strangers"]}},
    "hydra": {"hydra": "${artifact.x}", "artifact": {"x": {"callbacks": {}}}},
    "hydra.sweeper.params": {"hydra": {"sweeper": {"params": "${artifact.x}"}}},
    "hydra.sweeper.params.hydra.callbacks": {"hydra": {"sweeper": {"params": {"hydra.callbacks": "x,y"}}}},
    "hydra.sweeper.params.+hydra/launcher": {"hydra": {"sweeper": {"params": {"+hydra/launcher": "slurm"}}}},
    "hydra.sweeper.params.model._target_": {"hydra": {"sweeper": {"params": {"model._target_": SHELL}}}},
    "hydra.sweeper.params.model": {"hydra": {"sweeper": {"params": {"model": "{_target_: os.system}"}}}},
    "hydra.sweeper.params.dst": {"hydra": {"sweeper": {"params": {"dst": "../../shared/evil"}}}},
    "hydra.sweeper.params.scale": {"hydra": {"sweeper": {"params": {"scale": "$\\{oc.env:HOME}"}}}},
    "hydra.run.dir": {"hydra": {"run": {"dir": f"made/{READS}"}}},
    "defaults of x": {"defaults": ["config", {"override hydra/launcher": "slurm"}]},
    "defaults of x ": {"defaults": ["config", {"model@hydra.callbacks": "resnet20"}]},
    "defaults of x  ": {"defaults": ["config", "../../shared/evil"]},
    "defaults of x   ": {"defaults": ["config", {"optional model": READS}]},
    "defaults of x    ": {"defaults": ["config", {"override model": "../../shared/evil"}]},
    "model._target_": {"model": TOUCH},
    "dst.method._target_": {"dst": {"method": {"_target_": "os.system"}}},
    "artifact.x[0]._target_": {"artifact": {"x": [TOUCH]}},
    "model._target_ ": {"model": {"_target_": "${artifact.x}"}, "artifact": {"x": SHELL}},
    "scale": {"scale": READS},
    "scale ": {"scale": "${oc.decode:" + READS + "}"},
    "scale  ": {"init": "oc.env", "scale": "${${init}:" + NAME + "}"},
    "scale   ": {"scale": "$${init}{oc.env:HOME}"},
    "scale    ": {"scale": "${.hydra.runtime.cwd}"},
    "scale     ": {"scale": "${[hydra].runtime.cwd}"},
    "data_dir": {"data_dir": f"data/{READS}"},
    "logger.tags[0]": {"logger": {"tags": [READS]}},
}


@pytest.mark.parametrize("key", ATTACKS)
def test_a_file_from_elsewhere_runs_no_code_and_reads_no_secret(key, shared, refused):
    """And it is refused as such, before anything that it names is imported."""
    line = refused(*shared(ATTACKS[key]))
    assert line.startswith(f"{key.strip()}=")
    assert re.search("file from elsewhere|not one of the project's own|must be a (mapping|dotted path)", line), line


def test_a_list_of_values_is_no_attack(shared, refused):
    """As YAML has it; Hydra sweeps over words with commas."""
    line = refused(*shared({"hydra": {"sweeper": {"params": {"seed": [0, 1]}}}})).strip()
    assert (
        line == "hydra.sweeper.params.seed=[0, 1]: must be values with commas between them, such as rigl,set or 0,1,2"
    )


@pytest.mark.parametrize("mode", [["--cfg", "job"], ["--info", "config"], ["-m"]])
def test_it_does_not_however_it_is_asked_for(mode, shared, refused):
    words = shared({"hydra": {"callbacks": {"x": TOUCH}}})
    assert refused(*mode, *words).startswith("hydra.callbacks.x._target_=")


@pytest.mark.parametrize(
    "words", [["--config-dir", "shared"], ["--config-path", "shared"], ["hydra.searchpath=[shared]"]]
)
def test_nor_by_one_of_its_groups(words, shared, refused):
    """Also where only a run of a sweep chooses it, and where a header puts it into Hydra's part."""
    shared({}, scale__evil={"hydra": {"callbacks": {"x": TOUCH}}}, hydra__launcher__evil={"_target_": SHELL})
    assert refused(*words, "scale=evil").startswith("hydra.callbacks.x._target_=")
    assert refused("-m", *words, "scale=evil,paper").startswith("hydra.callbacks.x._target_=")
    assert refused("-m", *words, "hydra/launcher=evil").startswith("hydra/launcher/evil=")
    shared({}, header="# @package hydra.callbacks\n", scale__evil={"x": TOUCH})
    assert refused(*words, "scale=evil").startswith("scale/evil=hydra.callbacks: ")


def test_a_directory_is_no_package(refused, tmp_path, monkeypatch):
    (tmp_path / "strangers").mkdir()
    (tmp_path / "strangers" / "__init__.py").write_text("open('marker', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    for words in (["hydra.searchpath=[pkg://strangers]"], ["--config-path", "pkg://strangers"]):
        assert "pkg://strangers: must be a directory" in refused(*words)
    assert "strangers" not in sys.modules


class Evil:
    def __reduce__(self):
        return open, ("marker", "w")


def test_a_job_of_somebody_else_is_not_unpickled(refused, tmp_path):
    (tmp_path / "job.pkl").write_bytes(pickle.dumps(Evil()))
    assert "--experimental-rerun" in refused("--experimental-rerun", str(tmp_path / "job.pkl"))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"hydra": {"callbacks": {"x": TOUCH}}}, "hydra.callbacks.x._target_"),
        ({"artifact": {"title": READS}}, "artifact.title"),
        ({"artifact": {"title": "t", "also": [{"hydra.launcher.setup": "[touch marker]"}]}}, "hydra.*setup"),
    ],
)
def test_a_sweep_file_from_elsewhere_is_checked_before_its_runs(content, key, shared, tmp_path, monkeypatch):
    """Also the further grids that become words of the commands which the report starts."""
    main = {"artifact": {"title": "t"}, "hydra": {"sweeper": {"params": {"seed": "0,1"}}}}
    shared({**main, **content})
    monkeypatch.setattr(sweeps, "OWN", [tmp_path / "shared"])
    with pytest.raises(ConfigError, match=f"^{key}="):
        sweeps.load("x")
    for cached in (sweeps._load, sweeps._compose, sweeps.artifact):
        cached.cache_clear()


# --- what the user types is trusted ---


def test_all_of_a_launcher_can_be_typed(tmp_path, monkeypatch):
    """And an own directory chooses options, refers to other keys, and says where runs go and what a sweep varies."""
    said = ["hydra.launcher.setup=[module load cuda]", "+hydra.launcher.additional_parameters.wckey=lab"]
    launcher = compose("config", ["hydra/launcher=slurm", *said], with_hydra=True).hydra.launcher
    assert (launcher.setup, launcher.additional_parameters.wckey) == (["module load cuda"], "lab")
    monkeypatch.setenv(NAME, "/data")
    assert compose("config", [f"data_dir='{READS}/x'"]).data_dir == "/data/x"
    own = {
        "seed": 3,
        "artifact": {"title": "${scale} ${dst.every}"},
        "defaults": ["config", {"override dst": "set"}, "_self_"],
    }
    own["hydra"] = {"mode": "MULTIRUN", "sweep": {"dir": "runs/x"}, "sweeper": {"params": {"optimizer/mirror": "ham"}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "config.yaml").write_text("seed: 5\n")
    assert (compose("config", [], before=[tmp_path]).seed, compose("config", [], [tmp_path]).seed) == (5, 0)
    cfg = compose("own", [], [tmp_path], with_hydra=True)
    assert (cfg.seed, cfg.artifact.title, cfg.hydra.sweep.dir) == (3, "paper 20", "runs/x")


def test_the_checkouts_own_files_are_trusted():
    assert compose("table1", [], [sweeps.SWEEPS]).artifact.paper == "table1"
    assert CONF.is_dir()


class Grid(Sweeper):
    """A sweeper as a plugin may bring it: asks for two runs, one after the other, and takes what they return."""

    def __init__(self, seeds, **_):
        self.seeds = seeds

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments):
        for number in self.seeds:
            [job] = self.launcher.launch([[*arguments, f"seed={number}"]], initial_job_idx=number)
            self.found.append(job.return_value)


def test_other_sweepers_and_launchers_can_be_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Grid, "__module__", "hydra_plugins.grid")
    monkeypatch.setattr(Grid, "found", [], raising=False)
    package = ModuleType("hydra_plugins")  # as a plugin's distribution brings it
    package.__path__, package.grid = [], sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "hydra_plugins", package)
    monkeypatch.setitem(sys.modules, "hydra_plugins.grid", sys.modules[__name__])
    Plugins.instance().register(Grid)
    words = ["hydra.sweeper._target_=hydra_plugins.grid.Grid", "+hydra.sweeper.seeds=[0,1]"]
    words += [f"runs_dir={tmp_path}", "epochs=1", "model=mlp", "threads=1"]
    code, out, err = run_here(monkeypatch, capsys, "-m", *words)
    assert code == 0, err
    assert len(out.splitlines()) == 2
    assert all(0 <= accuracy <= 100 for accuracy in Grid.found)
    assert len(Grid.found) == 2
    code, _, err = run_here(monkeypatch, capsys, "-m", *words, "momentum=2")
    assert code == 1
    assert "error: momentum=2.0: must be in [0, 1)" in err
