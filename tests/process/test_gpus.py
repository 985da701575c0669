"""What a run does with GPUs, those of a machine that has none: torch's answers are given here."""

import os
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from sparse_train.errors import ConfigError
from sparse_train.process import distributed, gpus
from sparse_train.process.distributed import Ranks, join
from sparse_train.record.metadata import describe
from sparse_train.train import device, tasks
from sparse_train.train.device import pick_device, set_up_torch

CUDA = torch.device("cuda")
OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12040). Please update"


@pytest.fixture
def machine(monkeypatch):
    """Give it GPUs, and torch's warning of them; returns what set the current device."""

    def made(count=0, says=None, capability=(9, 0), files=()):
        def available():
            if says:
                warnings.warn(says, stacklevel=1)
            return count > 0

        gpus.why_none.cache_clear()
        device._warn.cache_clear()
        current = []
        monkeypatch.setattr(torch.version, "cuda", "13.2")
        monkeypatch.setattr(torch.cuda, "is_available", available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Fake V100")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "sm_120"])
        monkeypatch.setattr(gpus, "glob", lambda _: list(files))
        return current

    for name in (*gpus.SLURMS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    yield made
    gpus.why_none.cache_clear()


# --- which device ---


@pytest.mark.parametrize(
    ("given", "says", "error"),
    [
        ("gpus=[0,1]", None, "gpus=[0, 1]: this torch sees no CUDA device"),
        ("device=cuda", OLD, "device=cuda: the NVIDIA driver runs CUDA 12.4, too old for this torch, built for 13.2"),
    ],
)
def test_gpus_that_are_asked_for_and_cannot_be_used_are_an_error(compose_config, machine, given, says, error):
    machine(says=says)
    with pytest.raises(ConfigError) as raised:
        pick_device(compose_config(given))
    assert str(raised.value).startswith(error)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("files", "variables", "there"),
    [
        (["/dev/nvidia0"], {}, "/dev/nvidia0"),
        ([], {"SLURM_JOB_GPUS": "3"}, "SLURM_JOB_GPUS=3"),
        (["/dev/nvidia0"], {"CUDA_VISIBLE_DEVICES": ""}, None),
    ],
)
def test_a_cpu_taken_where_there_are_gpus_is_told_once(
    compose_config, machine, monkeypatch, capsys, files, variables, there
):
    machine(files=files)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert [pick_device(compose_config()).type for _ in range(2)] == ["cpu", "cpu"]
    err = capsys.readouterr().err
    assert len(err.splitlines()) == (there is not None)
    assert err.startswith(f"warning: the CPU is used, though there is {there}: this torch sees no" if there else "")


@pytest.mark.parametrize(("capability", "fits"), [((7, 0), False), ((8, 6), True), ((7, 5), True), ((13, 0), False)])
def test_a_gpu_without_kernels_is_named(compose_config, machine, capability, fits):
    machine(count=1, capability=capability)
    if fits:
        assert pick_device(compose_config()) == CUDA
        return
    right = f"device=cuda: Fake V100 has compute capability {capability[0]}.{capability[1]}, which this torch has no"
    with pytest.raises(ConfigError, match=right):
        pick_device(compose_config())


def test_each_run_and_each_process_has_its_gpu(compose_config, machine, monkeypatch):
    current = machine(count=4)
    monkeypatch.setenv("SPARSE_TRAIN_WORKER", "3")
    assert pick_device(compose_config("gpus=[1,2]")) == current[0] == torch.device("cuda", 2)
    assert pick_device(compose_config(), Ranks(5, 8, 1)) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"gpus=\[4\]: there are GPUs 0 to 3"):
        pick_device(compose_config("gpus=[4]"))
    monkeypatch.delenv("SPARSE_TRAIN_WORKER")
    assert pick_device(compose_config("gpus=[1]")) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"gpus=\[1, 2\]: has a GPU for each of several runs.*hydra/launcher=local"):
        pick_device(compose_config("gpus=[1,2]"))
    with pytest.raises(ConfigError, match=r"gpus=\[1\]: is for runs side by side; CUDA_VISIBLE_DEVICES"):
        pick_device(compose_config("gpus=[1]"), Ranks(1, 2, 1))


# --- how it computes ---


@pytest.mark.parametrize("deterministic", [True, False])
def test_results_repeat_on_a_gpu_and_convolutions_round_as_asked(compose_config, monkeypatch, deterministic):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Fake")
    cfg = compose_config(f"deterministic={str(deterministic).lower()}")
    before = torch.backends.cudnn.allow_tf32
    try:
        set_up_torch(cfg, torch.device("cpu"))
        assert not torch.are_deterministic_algorithms_enabled(), "on a CPU nothing changes"
        for tf32, options in ((True, {}), (False, {"tf32": False})):
            set_up_torch(cfg, CUDA, **options)
            assert torch.are_deterministic_algorithms_enabled() == deterministic
            assert torch.is_deterministic_algorithms_warn_only_enabled(), "it names the operation and goes on"
            assert (os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8") == deterministic
            assert describe(CUDA)["hardware"]["tf32"] == torch.backends.cudnn.allow_tf32 == tf32
            assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32 = before
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_what_a_gpu_computed_with_is_recorded(machine, monkeypatch):
    machine(count=1)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92600)
    hardware = describe(CUDA)["hardware"]
    assert (hardware["device"], hardware["cuda"], hardware["cudnn"]) == ("Fake V100", "13.2", 92600)
    assert "cudnn" not in describe(torch.device("cpu"))["hardware"]


# --- several processes ---


@pytest.fixture
def joined(machine, monkeypatch):
    """What `join` gives torch, in an environment."""

    def given(count, *asked, **environment):
        machine(count=count)
        found = {}
        monkeypatch.setattr(distributed, "_first_node", lambda _: "node1")
        monkeypatch.setattr(dist, "init_process_group", lambda **how: found.update(how))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        join(*asked)
        return found["backend"], found.get("device_id")

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return given


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_JOB_ID": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize(
    ("count", "asked", "environment", "expected"),
    [
        (2, (), TORCHRUN, ("cpu:gloo,cuda:nccl", torch.device("cuda", 1))),
        (0, (), TORCHRUN, ("gloo", None)),
        (1, ("cuda", "gloo"), TORCHRUN, ("gloo", None)),
        (2, ("cpu",), TORCHRUN, ("gloo", None)),
        (2, (), SRUN, ("cpu:gloo,cuda:nccl", torch.device("cuda", 1))),
        (1, (), SRUN, ("cpu:gloo,cuda:nccl", torch.device("cuda", 0))),
    ],
)
def test_processes_are_connected_by_what_their_device_needs(joined, count, asked, environment, expected):
    assert joined(count, *asked, **environment) == expected


@pytest.mark.parametrize(
    ("count", "environment", "error"),
    [
        (1, TORCHRUN, "processes=2: there is 1 GPU on this machine, and each process needs its own; start 1, or let"),
        (3, SRUN | {"SLURM_STEP_TASKS_PER_NODE": "1,4(x2)"}, "processes=4: there are 3 GPUs on this machine"),
    ],
)
def test_more_processes_than_gpus_are_one_error(joined, count, environment, error):
    with pytest.raises(ConfigError) as raised:
        joined(count, **environment)
    assert str(raised.value).startswith(error)


def test_normalization_over_processes_needs_gpus(compose_config, monkeypatch):
    monkeypatch.setattr(tasks, "build", lambda *_: SimpleNamespace(device=torch.device("cpu")))
    with pytest.raises(ConfigError, match="sync_bn=True: torch's SyncBatchNorm needs GPUs"):
        tasks.train(compose_config("sync_bn=true"), SimpleNamespace(ranks=Ranks(0, 2)))
