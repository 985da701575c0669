"""What SLURM is asked for: the script and the environment that sbatch is given, caught by one that submits nothing."""

import re
import stat
from dataclasses import dataclass

import pytest
import yaml

from sparse_train.options.composition import CONF
from sparse_train.train.slurm import parameters
from support.runs import ROOT, run_here

SBATCH = '#!/bin/sh\ncp "$1" {0}/script; env > {0}/environment; echo Submitted batch job 7\n'


@dataclass
class Caught:
    """A script for sbatch, and what was said if there is none."""

    script: str = ""
    environment: str = ""
    error: str = ""

    def asks(self, option: str) -> str | None:
        """The value of an option of sbatch; None without it."""
        found = re.findall(rf"^#SBATCH --{option}(?:=(.*))?$", self.script, re.MULTILINE)
        assert len(found) < 2, f"--{option} twice"
        return found[0] if found else None


@pytest.fixture
def submitted(tmp_path, monkeypatch, capsys):
    """What a sweep of two runs, or another, gives to sbatch."""
    for name, text in (("sbatch", SBATCH.format(tmp_path)), ("srun", "#!/bin/sh\n")):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def multirun(*words: str) -> Caught:
        launcher = ("hydra/launcher=slurm", "hydra.launcher.wait=false", "seed=0,1")
        code, _, err = run_here(monkeypatch, capsys, "--multirun", *launcher, f"runs_dir={tmp_path / 'runs'}", *words)
        if code:
            return Caught(error=err.removeprefix("loading ...\n"))
        return Caught((tmp_path / "script").read_text(), (tmp_path / "environment").read_text())

    return multirun


def launcher(**options: str) -> list[str]:
    return [f"hydra.launcher.{key}={value}" for key, value in options.items()]


def test_a_job_returns_to_the_queue_and_a_rank_has_its_cpus(submitted):
    job = submitted(*launcher(cpus_per_task="6"))
    assert (job.asks("requeue"), job.asks("array"), job.asks("gpus-per-node")) == ("", "0-1%2", "1")
    assert (job.asks("signal"), job.asks("cpus-per-task")) == ("USR2@120", "6")
    [srun] = re.findall("^srun .*", job.script, re.MULTILINE)
    assert " --kill-on-bad-exit=1 --export=ALL --cpus-per-task=6 " in srun
    assert "--cpus-per-task" not in submitted(*launcher(cpus_per_task="null")).script


def test_lines_before_the_run_and_other_options_of_sbatch(submitted):
    """Typed as a list, or one line alone; an option that is false is not asked for."""
    words = launcher(
        setup="[module load cuda/12.6,ulimit -n 4096]", additional_parameters="{mail-user:me,requeue:false}"
    )
    job = submitted(*words, "hydra.launcher.additional_parameters.mail_type=END")
    before, _, _ = job.script.partition("\nsrun ")
    assert "\nmodule load cuda/12.6\nulimit -n 4096\n" in before
    assert (job.asks("mail-user"), job.asks("mail-type"), job.asks("requeue")) == ("me", "END", None)
    assert "\nmodule purge\n" in submitted(*launcher(setup="'module purge'")).script


@pytest.mark.parametrize(
    ("options", "environment", "per_node"),
    [
        ({"gres": "gpu:a100:2"}, {}, None),
        ({"gres": "lscratch:100"}, {}, 1),
        ({"additional_parameters": {"gpus_per_node": "a100:2"}}, {}, None),
        ({}, {"SBATCH_GRES": "gpu:2"}, None),
        ({"gpus_per_node": 4}, {"SBATCH_GRES": "gpu:2"}, 4),
    ],
)
def test_gpus_are_asked_for_once(options, environment, per_node, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = parameters({"gpus_per_node": 1, "cpus_per_task": 4, **options}, typed=options)
    assert given.get("slurm_gpus_per_node") == per_node


def test_cpus_are_asked_for_once():
    given = parameters({"cpus_per_gpu": 8, "cpus_per_task": 4, "gpus_per_task": 1})
    assert "slurm_cpus_per_task" not in given
    assert not [word for word in given["slurm_srun_args"] if "cpus" in word]


def test_variables_of_sbatch_count_unless_something_was_typed(submitted, monkeypatch):
    """sbatch lets them win over its script."""
    said = {"PARTITION": "theirs", "TIMELIMIT": "60", "ACCOUNT": "lab", "SIGNAL": "KILL@1", "ARRAY_INX": "0-99"}
    for name, value in said.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    job = submitted(*launcher(partition="mine", timeout_min="480"))
    assert set(re.findall(r"^SBATCH_(\w+)=", job.environment, re.MULTILINE)) == {"ACCOUNT"}
    assert (job.asks("partition"), job.asks("time")) == ("mine", "480")
    heard = set(re.findall(r"^SBATCH_(\w+)=", submitted().environment, re.MULTILINE))
    assert heard == {"ACCOUNT", "PARTITION", "TIMELIMIT"}


def test_a_job_within_a_job_inherits_nothing_of_it(submitted, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK", "SLURM_CONF"):
        monkeypatch.setenv(name, "3")
    assert re.findall(r"^(S\w*RU\w+)=", submitted().environment, re.MULTILINE) == []
    assert "\nSLURM_CONF=3\n" in f"\n{submitted().environment}"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["setup={a: b}"], "hydra.launcher.setup={'a': 'b'}: must be a line of a shell or a list of them, .*"),
        (["timeout_min=8h"], "hydra.launcher.timeout_min=8h: must be a number of minutes"),
        (["timeout_min=04:00:00"], "hydra.launcher.timeout_min=04:00:00: must be a number of minutes"),
        (["partiton=x"], "hydra.launcher.partiton=x: no such key; did you mean partition.*"),
        (["+reservation=x"], "hydra.launcher: Unknown argument 'reservation' .*; other options of sbatch go into .*"),
    ],
)
def test_what_a_launcher_cannot_be_told_is_one_line(words, error, submitted):
    typed = [f"{'+' if word[0] == '+' else ''}hydra.launcher.{word.lstrip('+')}" for word in words]
    assert re.fullmatch(f"error: {error}\n", submitted(*typed).error)


def test_the_filled_example_of_the_page(submitted):
    """Typed here, where the page has a file of it."""
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "on-your-cluster.md").read_text(), re.DOTALL)
    example = yaml.safe_load(text)
    assert set(example) <= set(yaml.safe_load((CONF / "hydra" / "launcher" / "slurm.yaml").read_text()))
    job = submitted(*(f"hydra.launcher.{key}={quoted(value)}" for key, value in example.items()))
    asked = {
        option: job.asks(option) for option in ("partition", "gres", "mem", "time", "reservation", "gpus-per-node")
    }
    expected = {"partition": "gpu", "gres": "gpu:a100:1", "mem": "64GB", "time": "480", "reservation": "spring"}
    assert asked == {**expected, "gpus-per-node": None}
    assert "\nmodule purge\nexport NCCL_SOCKET_IFNAME=ib0\n" in job.script


def quoted(value) -> str:
    """As Hydra's command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(quoted, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{quoted(one)}' for key, one in value.items())}}}"
    return f"'{value}'" if isinstance(value, str) else str(value)
