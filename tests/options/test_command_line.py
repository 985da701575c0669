"""What the command line says of itself, and of what cannot be: one line that names the key."""

import re
import signal
import socket
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

import sparse_train
from sparse_train.errors import first_line
from sparse_train.options.command_line import CONF, keys
from support.runs import ROOT, command, run_here

GROUPS = ("dataset", "model", "dst", "optimizer", "renorm", "task", "logger")


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """The one line to stderr of a command that fails and leaves nothing."""

    def ran(*words):
        monkeypatch.chdir(tmp_path)
        code, out, err = run_here(monkeypatch, capsys, *words)
        assert (code, out) == (1, "")
        assert re.fullmatch("error: .*\n", err), err
        assert not list(tmp_path.rglob("record.json"))
        return err.removeprefix("error: ").strip()

    return ran


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
    for group in GROUPS:
        for path in (ROOT / "conf" / group).glob("[!_]*.yaml"):
            assert re.search(rf"^    {path.stem}\b", text, re.MULTILINE), path
            cfg = OmegaConf.to_container(compose_config(f"{group}={path.stem}"), resolve=False)
            found = {key for key in leaves(cfg) if not key.endswith("_")}
            assert found - shown <= {"scale", "artifact", "dst", "logger", *(f"optimizer.{s}" for s in SLOTS)}, path
    assert not re.search(r"(^|\W)_(updater|sgd|ham|sparseopt|target_|partial_)", text + listed, re.MULTILINE)
    assert "share of zeros among all weights" in listed
    assert "powered by Hydra" not in text


@pytest.mark.parametrize("columns", [60, 100])
def test_help_fits_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (["--help"], ["--help", "keys"]):
        rows = run_here(monkeypatch, capsys, *words)[1].rpartition("Groups: ")[2].splitlines()
        assert [row for row in rows if len(row) > columns and " " in row[40:].strip()] == [], "only one long word"


SLOTS = ("precondition", "renorm", "mirror")


def test_every_key_of_the_main_file_says_what_it_means():
    assert [key for key, _, comment in keys(CONF / "config.yaml") if not comment] == []


def test_the_version_is_the_projects_own(monkeypatch, capsys):
    [version] = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert sparse_train.__version__ == version
    assert run_here(monkeypatch, capsys, "--version")[1] == f"sparse_train {version}\n"


LINES = {
    "sparsty=0.9": r"sparsty=0.9: no such key; did you mean sparsity\?",
    "+sparsty=0.9": r"sparsty=0.9: no such key; did you mean sparsity\?",
    "dst.evry=3": r"dst.evry=3: no such key; did you mean every\?",
    "+dst.evry=3": r"dst.evry=3: no such key; did you mean every\?",
    "dst=rigle": r"dst=rigle: must be one of dense, .*rigl, .*; did you mean rigl\?",
    "epochs=many": "epochs=many: Value 'many' of type 'str' could not be converted to Integer",
    "seed=0,1": "seed=0,1: several values need --multirun.*",
    "sparsity": "sparsity=: cannot be read; write KEY=VALUE.*",
    "sparsity=[": r"sparsity=\[: cannot be read; write KEY=VALUE.*",
    "--nothing": "unrecognized arguments: --nothing",
    "--multirun --cfg job seed=0,1": "argument --cfg/-c: not allowed with argument --multirun/-m",
    "--multirun dst=rigl,grnet": r"dst=grnet: must be one of dense, .*; did you mean granet\?",
    "--multirun dst=glob(x*)": r"dst=glob\(x\*\): must be one of dense, .*",
    "dst=../dst/rigl": r"dst=../dst/rigl: must be one of dense, .*",
    "hydra.searchpath=true": "hydra.searchpath=True: must be a list of directories",
    "hydra/launcher=../x": r"hydra/launcher=../x: must be one of local, slurm",
    "--config-name /etc/x": "--config-name=/etc/x: must be a name; --config-dir names its directory",
    "hydra/launcher=slrm": r"hydra/launcher=slrm: must be one of .*; did you mean slurm\?",
    "threads=4294967296": "threads=4294967296: must be at most 1,024",
    "epochs=1000000000000": "epochs=1000000000000: must be at most 100,000",
    "batch_size=9999999999": "batch_size=9999999999: must be at most 1,000,000",
    "workers=99999": "workers=99999: must be at most 1,024",
    "batch_size=1 model=mlp": "batch_size=1: leaves .* one value a channel to normalize; .*",
    "+task.cfg=1": "task.cfg=1: no such key",
    "task=equivalence ~task.lr": "task.lr=None: must be given",
    "model=resnet50 +model.checkpoint_path=x": "model.checkpoint_path=x: no such key",
    "model=resnet50 +model.pretrained_cfg.url=x": "model.pretrained_cfg={'url': 'x'}: .*",
    "model=resnet50 model.name=hf-hub:a/b": "model.name=hf-hub:a/b: timm has no such model",
}


@pytest.mark.parametrize("words", LINES)
def test_one_line_says_what_is_wrong(words, said, tmp_path):
    given = words.split()
    places = [] if given[0].startswith("--") else [f"runs_dir={tmp_path}"]
    assert re.fullmatch(LINES[words], said(*places, *given))


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
        (["dst=set", "--run", "seed=1"], "loading ... False\n", 3),
        (["dst=set,rigl", "-m"], "loading ... False\n", 3),
        (["--cfg", "job", "-p", "dst.every"], "20\n", 0),
        (["--version"], "sparse_train", 0),
        (["sparsity=2"], "", 1),
        (["dst.evry=2"], "", 1),
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


def test_a_value_of_two_lines_is_named_on_one(said):
    assert said("lr='a\nb'") == "lr='a b': Value 'a b' of type 'str' could not be converted to Float"


def test_a_sweep_says_every_run_that_has_no_result(tmp_path, monkeypatch, capsys):
    words = ["--multirun", f"runs_dir={tmp_path}", "sparsity=1.5,2.5"]
    code, _, err = run_here(monkeypatch, capsys, *words)
    assert code == 1
    assert re.findall(r"^error: (sparsity=\S+): must be in \[0, 1\)", err, re.MULTILINE) == [
        "sparsity=1.5",
        "sparsity=2.5",
    ]


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        code, out, err = command(f"runs_dir={tmp_path}", **ranks)
    assert (code, out) == (1, "")
    assert re.search(
        rf"^error: MASTER_ADDR:MASTER_PORT=127.0.0.1:{port}: the processes cannot connect", err, re.MULTILINE
    )
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
        (["page", "nope"], "artifact=nope: no such artifact"),
        (["draw", "tabel1"], "artifact=tabel1: no such artifact; did you mean table1?"),
        (["status", "../x"], "artifact=../x: no such artifact"),
        (["claims", "--scale", "nope"], "scale=nope: must be one of paper, cpu, size16, smoke"),
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


def test_an_error_is_told_in_one_line():
    assert first_line(ValueError("this\nthat")) == "this"
    assert first_line(EOFError()) == "EOFError", "it says nothing"


@pytest.mark.parametrize("module", ["sparse_train", "sparse_train.report"])
def test_a_command_whose_reader_has_gone_ends_quietly(module):
    """`python -m sparse_train --help | head`, with a head that is gone before the first line."""
    line = f"set -o pipefail; {sys.executable} -m {module} --help | true"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 128 + signal.SIGPIPE)  # argparse ignores what it cannot write
    assert done.stderr == ""
