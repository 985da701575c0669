"""What the command line says of itself, and of what cannot be: one line that names the key."""

import re
import signal
import socket
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

import sparse_train
from sparse_train.options.command_line import CONF, keys
from support.groups import side_by_side
from support.runs import ROOT, run_here

GROUPS = ("dataset", "model", "dst", "optimizer", "renorm", "task", "logger")
SLOTS = ("precondition", "renorm", "mirror")


def leaves(value, path=""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}".lstrip("."))
    else:
        yield path


def test_help_has_every_key_and_every_option_and_nothing_private(compose_config, monkeypatch, capsys):
    code, text, err = run_here(monkeypatch, capsys, "--help")
    _, listed, _ = run_here(monkeypatch, capsys, "--help", "keys")
    assert (code, err) == (0, "")
    assert "Examples\n  python -m sparse_train" in text
    shown = {line.split("=")[0].strip() for line in listed.splitlines() if re.match(r"  \w[\w.]*=", line)}
    for words in side_by_side(*GROUPS):
        for word in words:
            assert re.search(rf"^    {word.partition('=')[2]}\b", text, re.MULTILINE), word
        cfg = OmegaConf.to_container(compose_config(*words), resolve=False)
        found = {key for key in leaves(cfg) if not key.endswith("_")}
        assert found - shown <= {"scale", "artifact", "dst", "logger", *(f"optimizer.{s}" for s in SLOTS)}, words
    assert not re.search(r"(^|\W)_(updater|sgd|ham|sparseopt|target_|partial_)", text + listed, re.MULTILINE)
    assert "share of zeros among all weights" in listed
    assert "powered by Hydra" not in text


def test_help_fits_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    for words in (["--help"], ["--help", "keys"]):
        rows = run_here(monkeypatch, capsys, *words)[1].rpartition("Groups: ")[2].splitlines()
        assert [row for row in rows if len(row) > 60 and " " in row[40:].strip()] == [], "only one long word"


def test_every_key_of_the_main_file_says_what_it_means():
    assert [key for key, _, comment in keys(CONF / "config.yaml") if not comment] == []


def test_the_version_is_the_projects_own(monkeypatch, capsys):
    [version] = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert sparse_train.__version__ == version
    assert run_here(monkeypatch, capsys, "--version")[1] == f"sparse_train {version}\n"


FIRST = """
import sys
from sparse_train import __main__
say, __main__.say = __main__.say, lambda line: print(line, "torch" in sys.modules) or sys.exit(3)
sys.argv[1:] = {words}
__main__.main()
"""


@pytest.mark.parametrize(
    ("words", "first", "code"),
    [
        (["dst=set,rigl", "-m"], "loading ... False\n", 3),
        (["sparsity=2"], "", 1),
    ],
)
def test_the_first_words_wait_for_no_torch(words, first, code):
    """And what is wrong on the command line is said before them."""
    done = subprocess.run([sys.executable, "-c", FIRST.format(words=words)], capture_output=True, text=True)
    assert (done.returncode, done.stdout[: len(first)]) == (code, first), done.stderr
    assert done.stderr.startswith("error: " if code == 1 else "")


def test_a_sweep_takes_options_by_a_pattern_and_flags_anywhere(tmp_path, monkeypatch, capsys):
    words = ["dst=glob(rigl*,exclude=[*_i*,*_b*])", "--multirun", "model=mlp", "epochs=0", f"runs_dir={tmp_path}"]
    _, _, err = run_here(monkeypatch, capsys, *words)
    assert re.findall(r"run \d of (\d): \w+ (\S+)", err) == [("2", "dst=rigl"), ("2", "dst=rigl_corrected")]


def test_a_value_of_two_lines_is_named_on_one(monkeypatch, capsys):
    _, _, err = run_here(monkeypatch, capsys, "lr='a\nb'")
    assert err == "error: lr='a b': Value 'a b' of type 'str' could not be converted to Float\n"


def test_a_port_in_use_is_named(tmp_path, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in ranks.items():
            monkeypatch.setenv(name, value)
        code, out, err = run_here(monkeypatch, capsys, f"runs_dir={tmp_path}")
    assert (code, out) == (1, "")
    line = rf"^error: MASTER_ADDR:MASTER_PORT=127.0.0.1:{port}: the processes cannot connect"
    assert re.search(line, err, re.MULTILINE)
    assert "Traceback" not in err


def test_compiling_without_a_compiler_is_named(tmp_path, monkeypatch, capsys):
    """What torch raises where it finds none; made up, as to get there takes half a minute."""
    from torch._inductor.exc import InvalidCxxCompiler

    def none(*_):
        raise InvalidCxxCompiler

    monkeypatch.setattr("sparse_train.train.loop.train_epoch", none)
    code, _, err = run_here(monkeypatch, capsys, "epochs=1", "model=mlp", "compile=true", f"runs_dir={tmp_path}")
    assert code == 1
    assert re.search(
        "^error: compile=true: No working C.. compiler.*; compile=false needs no compiler$", err, re.MULTILINE
    )
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["draw", "tabel1"], "artifact=tabel1: no such artifact; did you mean table1?"),
        (["claims", "--scale", "../escape"], "scale=../escape: must be one of paper, cpu, size16, smoke"),
    ],
)
def test_reports_name_what_does_not_exist_and_make_nothing(words, line, tmp_path, monkeypatch, capsys):
    from sparse_train.report.__main__ import main

    (tmp_path / "in").mkdir()
    places = ["--results-dir", str(tmp_path / "in" / "results"), "--runs-dir", str(tmp_path / "in" / "runs")]
    monkeypatch.setattr(sys, "argv", ["report", *words, *places])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {line}")
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_a_command_whose_reader_has_gone_ends_quietly():
    """`python -m sparse_train --help | head`, with a head that is gone before the first line."""
    line = f"set -o pipefail; {sys.executable} -m sparse_train --help | true"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 128 + signal.SIGPIPE)  # argparse ignores what it cannot write
    assert done.stderr == ""
