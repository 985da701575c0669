"""What `import sparse_train` offers, and the help it gives."""

import inspect
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import sparse_train


def test_the_package_lists_its_names_and_nothing_else():
    listed = [name for name in dir(sparse_train) if not name.startswith("__")]
    assert listed == sorted(sparse_train.__all__)
    assert set(sparse_train._HOMES) == set(listed)
    for name in listed:
        assert getattr(sparse_train, name).__doc__, name
    methods = [kind for kind in map(sparse_train.__getattr__, listed) if inspect.isclass(kind)]
    known = {kind.__name__ for kind in methods if issubclass(kind, sparse_train.Method)}
    assert known >= {"RigL", "SET", "SRigL", "SNFS", "DSR", "GMP", "GraNet", "MEST", "Mean", "Ranked", "RigLBlind"}


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("SparseOpt", "g_i <- sqrt(1 - s_i) / sqrt(1 - s_avg) * g_i"),
        ("RigL", "k = floor(f_t n)"),
        ("SparseSGD", "w <- SGD(w, g)"),
    ],
)
def test_help_has_the_formula_and_an_example_that_runs(name, formula):
    text = inspect.getdoc(getattr(sparse_train, name))
    assert formula in text
    [example] = re.findall(r"^    topology = .*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    names = {"model": nn.Linear(40, 30), **{kind: getattr(sparse_train, kind) for kind in sparse_train.__all__}}
    exec(textwrap.dedent(example), names)
    names["model"](torch.randn(4, 40)).square().sum().backward()
    names["optimizer"].step()
    assert int((names["model"].weight != 0).sum()) == 120


def test_without_the_signals_of_linux_the_command_says_so_and_the_pieces_work():
    code = """if True:
        import signal
        del signal.SIGUSR1, signal.SIGUSR2, signal.pthread_sigmask
        import sparse_train
        for name in sparse_train.__all__:
            getattr(sparse_train, name)
        from sparse_train.__main__ import main
        main()
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    needs = "error: training by command needs signals and file locks of Linux or macOS; on Windows use WSL"
    assert ended.stderr.splitlines() == [needs]
