"""A stranger's configuration: it cannot run code, and cannot copy a secret into what a run leaves."""

import logging as python_logging
import pickle
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from sparse_train.__main__ import CONF
from sparse_train.errors import ConfigError
from sparse_train.report import sweeps
from support.runs import QUICK, run_here

MAIN = {"defaults": ["config", "_self_"]}
SHELL = "torch.utils.collect_env.run"  # one of many callables that any environment has; this one starts a shell


@pytest.fixture
def shared(tmp_path):
    """A directory with a stranger's files: name -> content; gives what names it on the command line."""

    def written(hydra=None, files=None, **more):
        for name, content in {"x": {**MAIN, **more, "hydra": hydra or {}}, **(files or {})}.items():
            path = tmp_path / "shared" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            head, body = content if isinstance(content, tuple) else ("", content)
            path.write_text(head + yaml.safe_dump(body))
        return ["--config-dir", str(tmp_path / "shared"), "--config-name", "x"]

    return written


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a command that must end with one line, and leave nothing."""

    root = python_logging.getLogger()
    kept = root.handlers[:], root.level  # which --info changes

    def ran(*words):
        monkeypatch.chdir(tmp_path)
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        code, out, err = run_here(monkeypatch, capsys, *words, *QUICK, "epochs=1")
        left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path not in before}
        assert left <= {"multirun.yaml"}, "nothing runs; Hydra itself writes down what was asked for"
        assert (code, err.count("\n")) == (1, 1), err
        assert out == "" or "--info" in words
        assert err.startswith("error: ")
        return err

    yield ran
    root.handlers[:], root.level = kept


def touch(path):
    """A node that runs a shell where Hydra constructs it."""
    return {"_target_": SHELL, "command": f"touch {path}"}


def logging(path, **handler):
    return {"version": 1, "handlers": {"h": handler}, "root": {"handlers": ["h"]}, "disable_existing_loggers": False}


ATTACKS = {
    "hydra.callbacks": lambda m: {"callbacks": {"x": touch(m)}},
    "hydra.job_logging": lambda m: {"job_logging": logging(m, **{"()": SHELL, "command": f"touch {m}"})},
    "hydra.hydra_logging": lambda m: {"hydra_logging": logging(m, **{"()": SHELL, "command": f"touch {m}"})},
    "hydra.job_logging ": lambda m: {"job_logging": logging(m, **{"class": "logging.FileHandler", "filename": m})},
    "hydra.job.env_set": lambda m: {"job": {"env_set": {"LD_PRELOAD": m}}},
    "hydra.output_subdir": lambda m: {"output_subdir": "elsewhere"},
}


@pytest.mark.parametrize("key", ATTACKS)
def test_hydras_own_part_of_a_shared_configuration_runs_no_code(key, shared, refused, tmp_path):
    words = shared(hydra=ATTACKS[key](str(tmp_path / "marker")))
    assert refused("--multirun", *words).startswith(f"error: {key.strip()}=")


@pytest.mark.parametrize("mode", [[], ["--cfg", "job"], ["--info", "config"], ["--info", "searchpath"], ["-m"]])
def test_it_runs_no_code_however_it_is_asked_for(mode, shared, refused, tmp_path):
    words = shared(hydra={"callbacks": {"x": touch(tmp_path / "marker")}})
    assert "error: hydra.callbacks=" in refused(*mode, *words)


def test_a_group_of_a_shared_directory_runs_no_code(shared, refused, tmp_path):
    """Also where each run of a sweep chooses it for itself."""
    evil = logging("", **{"()": SHELL, "command": f"touch {tmp_path / 'marker'}"})
    globally = ("# @package _global_\n", {"hydra": {"callbacks": {"x": touch(tmp_path / "marker")}}})
    plugins, inner = "hydra._internal.core_plugins", touch(tmp_path / "marker")
    launcher = {"_target_": f"{plugins}.basic_launcher.BasicLauncher", "x": inner}
    sweeper = {"_target_": f"{plugins}.basic_sweeper.BasicSweeper", "max_batch_size": inner}
    words = shared(
        hydra={"sweeper": {"params": {"hydra/job_logging": "evil"}}},
        files={
            "hydra/job_logging/evil": evil,
            "hydra/launcher/evil": launcher,
            "scale/evil": globally,
            "hydra/sweeper/evil": sweeper,
        },
    )
    assert "error: hydra.job_logging=" in refused("--multirun", *words)
    assert "error: hydra.launcher.x=" in refused("--multirun", *words[:2], "hydra/launcher=evil")
    assert "error: hydra.sweeper.max_batch_size=" in refused("--multirun", *words[:2], "hydra/sweeper=evil")
    assert "error: hydra.callbacks=" in refused(*words[:2], "scale=evil")


def test_nothing_is_constructed_where_nothing_belongs(shared, refused):
    model = "sparse_train.models.mlp.MLP"
    assert "error: artifact.x._target_=os.system: not one" in refused(
        *shared(artifact={"x": {"_target_": "os.system"}})
    )
    assert f"dst.method._target_={model}: must be from sparse_train.spars" in refused(f"dst.method._target_={model}")
    assert f"artifact.x._target_={model}: nothing is" in refused(*shared(artifact={"x": {"_target_": model}}))


@pytest.mark.parametrize("word", ["_args_=[1]", "_convert_=all", "_recursive_=false"])
def test_hydras_other_words_of_instantiation_are_refused(word, refused):
    assert f"error: model.{word.partition('=')[0]}=" in refused(f"+model.{word}")
    assert "error: dst.method._partial_=True: must be false here" in refused("+dst.method._partial_=true")


def test_a_search_path_imports_no_package(shared, refused, tmp_path, monkeypatch):
    (tmp_path / "strangers_package").mkdir()
    (tmp_path / "strangers_package" / "__init__.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    place = "pkg://strangers_package"
    assert f"error: hydra.searchpath={place}: must be directories" in refused(*shared(hydra={"searchpath": [place]}))
    assert f"error: hydra.searchpath={place}: must be directories" in refused(f"hydra.searchpath=[{place}]")
    assert "error: --config-path=" in refused("--config-path", place)
    assert "strangers_package" not in sys.modules


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--experimental"])
def test_a_job_of_somebody_else_is_not_unpickled(flag, refused, tmp_path):
    (tmp_path / "job.pkl").write_bytes(pickle.dumps(Evil(str(tmp_path / "marker"))))
    assert "--experimental" in refused(flag, str(tmp_path / "job.pkl"))


@pytest.fixture
def sweep_of(tmp_path, monkeypatch):
    """Load a sweep file with this content."""
    caches = (sweeps._load, sweeps._compose, sweeps.artifact, sweeps.scales)

    def loaded(content):
        (tmp_path / "x.yaml").write_text(yaml.safe_dump({**MAIN, **content}))
        (tmp_path / "_scales.yaml").write_text("{}")
        monkeypatch.setattr(sweeps, "SWEEPS", tmp_path)
        for cached in caches:
            cached.cache_clear()
        return sweeps.load("x")

    yield loaded
    for cached in caches:
        cached.cache_clear()


def test_a_sweep_file_runs_no_code(sweep_of, tmp_path):
    """`make reproduce-x` reads it before it starts the runs, which check it again."""
    with pytest.raises(ConfigError, match="^hydra.callbacks="):
        sweep_of({"artifact": {"title": "t"}, "hydra": {"callbacks": {"x": touch(tmp_path / "marker")}}})


# --- SLURM's script ---

SLURM = "hydra/launcher=slurm"


def checked_compose(*overrides):
    from sparse_train.options.composition import checked

    GlobalHydra.instance().clear()
    with checked(), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def test_what_a_cluster_needs_can_be_said():
    said = {
        "partition": "gpu",
        "account": "lab-x",
        "qos": "high",
        "constraint": "a100|h100",
        "exclude": "node[3,7-9]",
        "gres": "gpu:a100:2",
        "comment": "two words",
        "timeout_min": 480,
        "mem_gb": 64,
    }
    cfg = checked_compose(SLURM, *(f"hydra.launcher.{key}='{value}'" for key, value in said.items()))
    assert {key: cfg.hydra.launcher[key] for key in said} == said
    assert checked_compose("hydra/launcher=local", "hydra.launcher.n_jobs=4").hydra.launcher.n_jobs == 4


@pytest.mark.parametrize(
    "word",
    [
        "setup=[touch marker]",
        "additional_parameters={wrap: touch}",
        "submitit_folder=/tmp/elsewhere",
        'partition="x\\ntouch marker"',
        "comment='$(touch marker)'",
        "qos='`touch marker`'",
        "account='a;b'",
        "+python='sh -c touch'",
        "+srun_args=[x]",
    ],
)
def test_no_option_of_slurms_launcher_reaches_a_shell(word, refused):
    sign, key = ("+", word[1:]) if word.startswith("+") else ("", word)
    assert f"error: hydra.launcher.{key.partition('=')[0]}=" in refused("-m", SLURM, f"{sign}hydra.launcher.{key}")


def test_jobs_of_joblib_evaluate_nothing(refused):
    attack = "hydra.launcher.pre_dispatch=\"__import__('os').system('touch marker')\""
    assert "error: hydra.launcher.pre_dispatch=" in refused("-m", "hydra/launcher=local", attack)


# --- secrets ---

NAME, SECRET = "AWS_SECRET_ACCESS_KEY", "planted4secret"
READS = "${oc.env:" + NAME + "}"
LEAKS = {
    "scale": {"scale": READS},
    "logger.tags[0]": {"logger": {"_target_": "sparse_train.tracking.sinks.Wandb", "mode": "offline", "tags": [READS]}},
    "data_dir": {"data_dir": f"data/{READS}"},
    "runs_dir": {"runs_dir": f"made/{READS}"},
    "artifact.title": {"artifact": {"title": READS}, "scale": "${artifact.title}"},
    "scale ": {"scale": "${oc.decode:" + READS + "}"},
    "scale  ": {"scale": "${oc.create:" + READS + "}"},
    "scale   ": {"init": "oc.env", "scale": "${${init}:" + NAME + "}"},
    "scale    ": {"data_dir": "${oc.env:HOME}", "scale": "${data_dir}"},
    "scale     ": {"scale": "${.hydra[run][dir]}", "hydra": {"run": {"dir": "${oc.env:HOME}"}}},
    "hydra.run.dir": {"hydra": {"run": {"dir": f"made/{READS}"}}},
    "hydra.sweep.dir": {"hydra": {"sweep": {"dir": f"made/{READS}"}}},
    "hydra.job.env_copy": {"hydra": {"job": {"env_copy": [NAME]}}},
    "hydra.job.name": {"hydra": {"job": {"name": READS}}},
    "hydra.sweeper.params.scale": {"hydra": {"sweeper": {"params": {"scale": READS}}}},
    "hydra.runtime.choices.other": {"hydra": {"runtime": {"choices": {"other": READS}}}},
    "defaults of x": {"defaults": ["config", {"optional model": READS}, "_self_"]},
}


@pytest.mark.parametrize("key", LEAKS)
def test_a_shared_configuration_copies_no_secret(key, shared, refused, monkeypatch, tmp_path):
    monkeypatch.setenv(NAME, SECRET)
    monkeypatch.setenv("HOME", f"/nowhere/{SECRET}")
    content = dict(LEAKS[key])
    words = [*shared(**content), *(["-m"] if "sweep" in key or "env_copy" in key else [])]
    err = refused(*words)
    assert err.startswith(f"error: {key.strip()}=")
    assert SECRET not in err
    assert not [path for path in tmp_path.rglob("*") if SECRET in path.name]


def test_a_title_copies_no_secret(sweep_of, monkeypatch):
    monkeypatch.setenv(NAME, SECRET)
    with pytest.raises(ConfigError, match="artifact.title=") as error:
        sweep_of({"artifact": {"title": READS}, "hydra": {"sweeper": {"params": {"seed": "0"}}}})
    assert SECRET not in str(error.value)
