"""What an installation brings, and from where it can be imported."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTSIDE = {"PATH": "/usr/bin:/bin"}  # no PYTHONPATH


@pytest.fixture
def beside_the_clone(tmp_path):
    """A directory that holds the clone under the name of its repository, and a script beside it."""
    (tmp_path / "sparse_train").symlink_to(ROOT)
    return tmp_path


@pytest.mark.parametrize("place", ["beside the clone", "in the clone", "elsewhere"])
def test_the_package_imports_from(place, beside_the_clone, tmp_path_factory):
    cwd = {"beside the clone": beside_the_clone, "in the clone": ROOT, "elsewhere": tmp_path_factory.mktemp("else")}
    done = subprocess.run(
        [sys.executable, "-c", "from sparse_train import RigL; print(RigL.__module__)"],
        cwd=cwd[place],
        env=OUTSIDE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("sparse_train.sparsity.growth", "")


def test_a_wheel_has_every_file_of_the_package(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "sparse_train"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= held
    assert {"sparse_train/report/page/page.html", "sparse_train/report/page/vendor/LICENSE"} <= held
    assert not [name for name in held if name.startswith(("tests", "results", "runs"))]


def test_everything_that_is_installed_is_pinned_with_its_hash():
    for name in ("requirements.lock", "requirements-build.lock"):
        entries = (ROOT / name).read_text().replace("\\\n", "").splitlines()
        assert entries
        for entry in entries:
            assert "==" in entry.split()[0], entry
            assert "--hash=sha256:" in entry, entry
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    uses = [line.split("uses:")[1].split("#")[0].strip() for line in workflow.splitlines() if "uses:" in line]
    assert uses
    assert all(len(action.partition("@")[2]) == 40 for action in uses), "an action by its commit"
    assert "permissions:\n  contents: read\n" in workflow
