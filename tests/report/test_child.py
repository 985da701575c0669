"""The training command as a child: what it is told, and that it is waited for when an end is asked for."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sparse_train.errors import ConfigError
from sparse_train.report.launch.child import option, overrides
from support.runs import ROOT

CHILD = """
import signal, sys, time
asked = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: asked.append(number))
print("trains", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(0.5)
print("saved after", *map(int, asked), flush=True)
sys.exit(1)
"""
PARENT = f"import sys; from sparse_train.report.launch.child import attend; attend([sys.executable, '-c', {CHILD!r}])"
STOPPED = "stopped: running trainings are saved; the same command resumes"


def start(**options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, text=True, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_is_passed_on_and_the_child_waited_for(number):
    heard = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731  (a job of the background or nohup ignores it)
    with start(stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard, start_new_session=True) as parent:
        assert parent.stdout.readline() == "trains\n"
        parent.send_signal(number)
        said, error = parent.communicate(timeout=30)
    assert said == f"saved after {int(signal.SIGTERM)}\n"
    assert error == f"{STOPPED}\n"
    assert parent.returncode == 128 + number


@pytest.mark.parametrize("text", ["my runs", "it's", "a\\", "\\'", "$(ls)", "a;b,[x]", "ü/é"])
def test_hydra_reads_every_path_as_it_is(text):
    assert OverridesParser.create().parse_override(option("runs_dir", Path(text))).value() == text


def test_overrides_are_separated_by_space_outside_quotes():
    assert overrides("") == []
    assert overrides(" amp=bf16  seed=0,1 ") == ["amp=bf16", "seed=0,1"]
    words = overrides("""data_dir='/my data' name="a b" 'c=d e' layers=[a,b]""")
    assert words == ["data_dir='/my data'", 'name="a b"', "c=d e", "layers=[a,b]"]
    assert OverridesParser.create().parse_override(words[0]).value() == "/my data"
    assert overrides("data_dir=~/data") == [f"data_dir={Path.home()}/data"]
    with pytest.raises(ConfigError, match="launch=data_dir='/my data: has a quote that is not closed"):
        overrides("data_dir='/my data")
