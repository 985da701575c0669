"""What is given to make reaches the command as it is: no shell and no make reads what is in it."""

import os
import re
import shutil
import subprocess

import pytest

from support.runs import ROOT

HOSTILE = ["a;touch pwned", "`touch pwned`", "$(shell touch pwned)", "a'b\"c d", "a\ntouch pwned"]
PYTHON = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"


@pytest.fixture
def make(tmp_path):
    """The Makefile with a Python that says what it was given: the words after `-m module`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    [needed] = re.findall(r"^\.venv/ready: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in (*needed.split(), ".venv/ready"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def made(*words: str, **environment: str) -> list[str]:
        command = ["make", "--silent", *words]
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
        given = {"PATH": os.environ["PATH"], **environment}  # not what a make around the tests hands down
        done = subprocess.run(command, env=given, **options)
        assert not (tmp_path / "pwned").exists()
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\0")[2:-1]

    return made


@pytest.mark.parametrize("text", HOSTILE)
def test_a_variable_is_one_word(make, text):
    for name, option in (("SCALE", "scale"), ("RUNS_DIR", "runs-dir"), ("OPTIONS", "launch"), ("JOBS", "jobs")):
        assert f"--{option}={text}" in make("reproduce-table1", f"{name}={text}"), name
        assert f"--{option}={text}" in make("reproduce-table1", **{name: text}), f"{name} from the environment"
    assert make("plan", f"ARTIFACT={text}")[:2] == ["plan", text]
    assert make("reproduce-table1", f"DRY={text}")[0] == "plan"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_target_is_one_word(make, text):
    for verb in ("reproduce", "status", "rerun"):
        assert make(f"{verb}-{text}")[:2] == [verb, text]


def test_what_is_not_given_is_left_out(make):
    places = ["--scale=paper", "--runs-dir=runs", "--results-dir=results"]
    assert make("reproduce-table1") == ["reproduce", "table1", *places, "--launcher=serial"]
    start = ["--launcher=local", "--jobs=2", "--gpus=0,1", "--launch=data_dir='/my data'"]
    given = ("LAUNCHER=local", "JOBS=2", "GPUS=0,1", "OPTIONS=data_dir='/my data'", "REFERENCES=1")
    assert make("reproduce-table1", *given) == ["reproduce", "table1", *places, "--references", *start]
