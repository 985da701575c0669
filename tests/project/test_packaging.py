"""What an installation brings, and from where it can be imported."""

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from support.runs import ROOT

OUTSIDE = {"PATH": "/usr/bin:/bin"}  # no PYTHONPATH


@pytest.fixture
def beside_the_clone(tmp_path):
    """A directory that holds the clone under the name of its repository, and a script beside it."""
    (tmp_path / "sparse_train").symlink_to(ROOT)
    return tmp_path


@pytest.mark.parametrize("place", ["beside the clone", "elsewhere"])
def test_the_package_imports_from(place, beside_the_clone, tmp_path_factory):
    cwd = {"beside the clone": beside_the_clone, "elsewhere": tmp_path_factory.mktemp("else")}
    done = subprocess.run(
        [sys.executable, "-c", "from sparse_train import RigL; print(RigL.__module__)"],
        cwd=cwd[place],
        env=OUTSIDE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("sparse_train.sparsity.methods.rigl", "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [path] = place.glob("*.whl")
    return path


def test_a_wheel_has_every_file_that_is_needed(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "sparse_train").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= held
    assert {"sparse_train/report/page/page.html", "sparse_train/report/page/vendor/LICENSE"} <= held
    for folder in ("conf", "sweeps", "results/paper"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        assert {f"sparse_train/{path.relative_to(ROOT).as_posix()}" for path in files} <= held
    assert not [name for name in held if name.startswith(("tests", "results", "runs", "conf", "sweeps"))]


def test_an_installed_wheel_trains_and_draws_from_an_empty_directory(wheel, tmp_path):
    """In an environment of its own, which has our dependencies and not the checkout."""
    home, place = tmp_path / "venv", tmp_path / "empty"
    place.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    [packages] = home.glob("lib/python*/site-packages")
    packages.joinpath("dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [home / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=OUTSIDE)

    def run(*words):
        options = {"cwd": place, "env": OUTSIDE, "capture_output": True, "text": True, "check": False}
        done = subprocess.run([home / "bin" / words[0], *words[1:]], **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    import_path = "import sparse_train; print(sparse_train.__file__)"
    assert Path(run("python", "-c", import_path).strip()).is_relative_to(packages)
    trained = Path(run("sparse-train", "dataset=digits", "epochs=1").strip())
    assert json.loads((place / trained / "record.json").read_text())["status"] == "complete"
    assert "0 of 24 runs complete" in run("sparse-train-report", "draw", "quickstart")
    assert (place / "results" / "quickstart.md").exists()


def test_everything_that_is_installed_is_pinned_with_its_hash():
    for name in ("requirements.lock", "requirements-build.lock", "requirements-docs.lock"):
        entries = (ROOT / name).read_text().replace("\\\n", "").splitlines()
        assert entries
        for entry in entries:
            assert "==" in entry.split()[0], entry
            assert "--hash=sha256:" in entry, entry
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert [path.name for path in workflows] == ["ci.yml", "pages.yml"]
    for workflow in (path.read_text() for path in workflows):
        uses = [line.split("uses:")[1].split("#")[0].strip() for line in workflow.splitlines() if "uses:" in line]
        assert uses
        assert all(len(action.partition("@")[2]) == 40 for action in uses), "an action by its commit"
        assert "\npermissions:\n  contents: read\n" in workflow


CONDAS = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # names there that differ from pip's


def test_conda_installs_what_pip_would():
    """Every package that training and drawing need, in the range of pyproject.toml; pip adds the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *listed, pip = environment["dependencies"]
    given = {name: where for name, _, where in (one.partition(" ") for one in listed)}
    assert given.pop("python") == project["requires-python"]
    wanted = [Requirement(one) for one in project["dependencies"]]
    assert {CONDAS.get(one.name, one.name): one.specifier for one in wanted}.items() <= {
        name: SpecifierSet(where) for name, where in given.items()
    }.items()
    extras = {one.name: one.specifier for one in map(Requirement, chain(*project["optional-dependencies"].values()))}
    assert all(SpecifierSet(given[name]) == extras[name] for name in extras if name in given)
    assert pip == {"pip": ["-e .[wandb,dev]"]}


def test_the_container_has_the_python_of_the_lock():
    [locked] = re.findall(r"--python-version (\S+)", (ROOT / "Makefile").read_text())
    recipe = (ROOT / "Containerfile").read_text()
    assert re.findall(r"^FROM docker.io/library/python:(\S+)-slim$", recipe, re.MULTILINE) == [locked]
    assert "RUN make setup" in recipe
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", "runs", "data"} <= set(ignored), "which would make the image large"
    assert ".git" not in ignored, "a record names the commit"
