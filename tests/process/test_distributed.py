"""Two gloo processes against one process that does the same; some are started by torchrun, as users start them."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from sparse_train.data.memory import EvalSplit, Loading, TrainSplit, require_batches
from sparse_train.errors import ConfigError
from sparse_train.process import distributed
from sparse_train.process.distributed import Ranks
from sparse_train.train.build import build
from sparse_train.train.tasks import settings
from support import wandb_files
from support.ddp_worker import steps
from support.runs import QUICK, ROOT, TINY, Killed, broken_off, free_port, history, only, record, same_state, trained
from support.steps import same
from support.warm import Program

WORKER = str(ROOT / "tests" / "support" / "ddp_worker.py")
SMALL = ("model=mlp", "sparsity=0.8", "update_every=10", "epochs=20", "threads=1", "optimizer=sparseopt_ham")


def torchrun(*arguments: str, nodes: int = 1) -> list[subprocess.Popen]:
    """Two processes: on one node, or as two nodes of one process each that find each other over loopback."""
    port, started = free_port(), []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for node in range(nodes):
        places = [f"--nnodes={nodes}", f"--nproc-per-node={2 // nodes}", f"--node-rank={node}"]
        places += ["--master-addr=127.0.0.1", f"--master-port={port}"]
        command = [sys.executable, "-m", "torch.distributed.run", *places, WORKER, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    return started


def finish(processes: list[subprocess.Popen], timeout: float = 300) -> tuple[list[int], str]:
    said = "".join(process.communicate(timeout=timeout)[0] for process in processes)
    return [process.returncode for process in processes], said


def pair(*arguments: str, timeout: float = 300) -> tuple[set[int], str]:
    """The same two processes, warm and without torchrun; their exit statuses and all that they said."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, WORKER, *arguments]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(Program(command, RANK=rank, LOCAL_RANK=rank, **place)) for rank in "01"]
        ended = [program.finish(timeout) for program in started]
    return {done.returncode for done in ended}, "".join(done.stdout + done.stderr for done in ended)


def alone(cfg) -> dict:
    """One process that takes the two half-batches in turn and averages their gradients."""
    run = build(cfg)

    def backward(images: torch.Tensor, labels: torch.Tensor) -> None:
        for half in (slice(len(labels) // 2), slice(len(labels) // 2, None)):
            (F.cross_entropy(run.forward(images[half]), labels[half]) / 2).backward()

    return steps(run, backward)


@pytest.mark.parametrize("dst", ["set", "rigl"])
def test_two_processes_train_the_same_network(dst, tmp_path, compose_config):
    overrides = [*SMALL, f"dst={dst}"]
    words = (str(tmp_path / "state"), "steps", *overrides)
    codes, said = finish(torchrun(*words, nodes=2)) if dst == "rigl" else pair(*words)
    assert set(codes) == {0}, said
    first, second = (torch.load(tmp_path / f"state.{rank}", weights_only=True) for rank in (0, 1))
    one = alone(compose_config(*overrides))
    started = build(compose_config(*overrides)).topology.masks
    assert not same(one["optimizer"]["topology"]["masks"].values(), started.values()), "updated"
    for name, mask in first["optimizer"]["topology"]["masks"].items():
        assert torch.equal(mask, second["optimizer"]["topology"]["masks"][name])
        assert torch.equal(mask, one["optimizer"]["topology"]["masks"][name])
        weight = first["model"][name]
        assert torch.equal(weight, second["model"][name])
        torch.testing.assert_close(weight, one["model"][name], rtol=0, atol=1e-5)


def test_two_processes_leave_one_record_that_of_one_process(tmp_path):
    """Under one id. Without batch normalization nothing but rounding differs."""
    arguments = (*TINY, "epochs=3", "model.norm=none", "sparsity=0.8", "checkpoint_steps=1")
    told = ("logger=wandb", "logger.mode=offline")
    codes, said = pair("-", "train", *arguments, *told, f"runs_dir={tmp_path / 'two'}")
    assert codes == {0}, said
    run_dir = trained(*arguments, f"runs_dir={tmp_path / 'one'}")
    both = tmp_path / "two" / run_dir.name
    assert str(both) in said
    assert record(both)["status"] == "complete"
    assert [one["processes"] for one in record(both)["segments"]] == [2]
    assert [one["processes"] for one in record(run_dir)["segments"]] == [1]
    for ours, theirs in zip(history(both), history(run_dir), strict=True):
        assert (ours["step"], ours["lr"], ours["test_acc"]) == (theirs["step"], theirs["lr"], theirs["test_acc"])
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-6)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], abs=1e-6)
    assert {path.name for path in both.iterdir()} == {path.name for path in run_dir.iterdir()} | {"wandb"}
    [file] = both.glob("wandb/*run-*/*.wandb")
    assert [row["_step"] for row in wandb_files.rows(file)] == [1, 2, 3], "one process tells W&B"


def test_broken_off_and_taken_up_again_two_processes_end_the_same(tmp_path, monkeypatch):
    """To the bit, and whenever it was saved: saving changes nothing, and each takes back what is its own."""
    monkeypatch.setenv("STEPS", "12")  # in the second epoch of seven steps, the test sets' batches counted too
    arguments = (*TINY, "dataset.train_images=450", "optimizer=sparseopt_ham")
    codes, said = pair(str(tmp_path), "broken off", *arguments)
    assert codes == {0}, said
    assert re.search(r"resuming after epoch 1 of 2, \d steps", said)
    seeds = [set(re.findall(rf"rank {rank} draws from (\d+)", said)) for rank in (0, 1)]
    assert all(seeds)
    assert not seeds[0] & seeds[1], "each drops what it draws itself"
    whole, broken = only(tmp_path / "whole"), only(tmp_path / "broken")
    assert history(broken) == history(whole)
    assert same_state(broken, whole)
    for name in ("model.safetensors", "masks.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_sigterm_to_torchrun_is_no_failure(tmp_path):
    """It passes the signal on to its processes; they save together."""
    [process] = torchrun("-", "train", *QUICK, "epochs=1000", f"runs_dir={tmp_path}")
    while process.poll() is None and not list(tmp_path.glob("*/history.jsonl")):
        time.sleep(0.02)
    process.terminate()
    codes, said = finish([process])
    assert codes != [0]
    assert "checkpoint saved on SIGTERM; stopping; the same command resumes" in said
    assert "error: rank" not in said
    assert record(only(tmp_path))["status"] == "running"
    assert (only(tmp_path) / "checkpoint.pt").exists()
    assert not (only(tmp_path) / "lock").exists()


def test_processes_with_different_settings_are_refused(tmp_path):
    codes, said = pair("-", "differs", *TINY, "dst=static", f"runs_dir={tmp_path}", "lr=0.3", timeout=120)
    assert codes == {1}
    assert said.count("error: lr=0.3: on process 1, but 0.1 on process 0; all processes of a run need the same") == 2
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_processes_that_do_not_see_the_same_checkpoint_are_refused(tmp_path):
    """As on two machines, each with a disk of its own under the same path."""
    arguments = (*TINY, "dst=static", "checkpoint_steps=1")
    with broken_off(3), contextlib.suppress(Killed):
        trained(*arguments, f"runs_dir={tmp_path / '0' / 'runs'}")
    name = only(tmp_path / "0" / "runs").name
    (tmp_path / "1").mkdir()
    codes, said = pair(str(tmp_path), "own disk", *arguments, "runs_dir=runs", timeout=120)
    assert codes == {1}
    there, other = f"runs/{name} has 0 epochs and 1 steps", f"runs/{name} has no checkpoint"
    assert said.count(f"error: runs_dir={other}: on process 1, but {there} on process 0; all") == 2


def test_two_steps_of_a_job_do_not_share_a_port(monkeypatch):
    monkeypatch.setattr(distributed, "_first_node", lambda nodes: "node1")
    ports = set()
    for step in "01":
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        world = {"STEP_NUM_TASKS": "2", "STEP_NODELIST": "node1", "PROCID": "0", "LOCALID": "0"}
        for name, value in {**world, "JOB_ID": "4711", "STEP_ID": step}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        assert distributed._from_environment().world == 2
        ports.add(os.environ["MASTER_PORT"])
    assert len(ports) == 2


def test_a_different_mask_stops_the_run_with_the_layers_name(tmp_path):
    codes, said = pair("-", "mismatch", *QUICK, f"runs_dir={tmp_path}", timeout=120)
    assert codes == {1}
    assert said.count("different masks for layer2.1.conv1.weight after the update at step 3") == 2, "on every rank"
    assert "Traceback" not in said
    content = record(only(tmp_path))
    assert content["status"] == "failed"
    assert "layer2.1.conv1.weight" in content["reason"]


def test_loops_that_are_not_ours_are_told_where_masks_part():
    codes, said = pair("-", "elsewhere", timeout=120)
    assert codes == {0}, said
    assert said.count("averaged: True\n") == 2
    assert said.count("infinite on rank 1: False, same masks: True\n") == 2
    for ranks in ((1,), (0, 1)):
        assert said.count(f"no gradient on ranks {ranks}: updated, and this layer's mask stays: (True, True)\n") == 2
    assert said.count("UserWarning: no gradient at the mask update of step 3 in 2.weight") == 2, "once on each"
    assert said.count("no_sync: the processes have different masks for 0.weight after the update at step 3: ") == 2
    assert said.count("fully_shard: model=0.weight: is split over processes by fully_shard; masks need whole ") == 2


def test_a_process_that_dies_takes_the_others_down(tmp_path):
    codes, said = pair("-", "dies", *TINY, f"runs_dir={tmp_path}", timeout=120)
    assert -signal.SIGKILL in codes, said
    assert 0 not in codes, said
    assert record(only(tmp_path))["status"] in ("running", "failed")


# --- one process at a time ---


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_every_image_once(world):
    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 1, 2, 2)

    def labels(kind, rank, of, *more):
        loading = Loading("", 8, 0, torch.device("cpu"), ranks=Ranks(rank, of))
        return [batch for _, batch in kind(images, torch.arange(30), loading, [0.5], [0.5], *more).epoch(1)]

    shares = [labels(TrainSplit, rank, world) for rank in range(world)]
    for step, expected in enumerate(labels(TrainSplit, 0, 1)):
        assert torch.equal(torch.cat([share[step] for share in shares]), expected)
    tested = torch.cat([batch for rank in range(world) for batch in labels(EvalSplit, rank, world, 4)])
    assert sorted(tested.tolist()) == list(range(30))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match="batch_size=10: must be divisible by the number of processes, 4"):
        require_batches(Loading("", 10, 0, torch.device("cpu"), ranks=Ranks(0, 4)), 100)


def test_what_processes_may_differ_in(compose_config):
    mine = settings(compose_config("optimizer=sparseopt"))
    machine = ("data_dir=/elsewhere", "workers=3", "gpus=[0]", "download=false", "logger=wandb")
    assert settings(compose_config("optimizer=sparseopt", *machine)) == mine
    for other in ("dst=static", "seed=1", "checkpoint_steps=2"):
        assert settings(compose_config("optimizer=sparseopt", other)) != mine
    keys = list(settings(compose_config("lr=0.3")))
    assert keys.index("lr") < keys.index("lr_schedule.end"), "the key that was given is the one that is named"


def test_the_cpus_of_a_machine_are_shared_by_its_ranks(monkeypatch):
    """torchrun's ranks may all run on the same CPUs; srun gives each its own; other machines do not count."""
    here, gather = socket.gethostname(), "all_gather_object"

    def cpus(*others):
        monkeypatch.setattr(dist, gather, lambda found, own: found.__setitem__(slice(4), [own, *others]))
        return Ranks(0, 4).cpus()

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10)))
    assert Ranks().cpus() == 10
    assert cpus(*[(here, [*range(10)])] * 3) == 2
    assert cpus((here, [*range(10)]), *[("elsewhere", [*range(10)])] * 2) == 5
    assert cpus(*[(here, [*range(10 * k, 10 * k + 10)]) for k in (1, 2, 3)]) == 10
    monkeypatch.setenv("SPARSE_TRAIN_WORKERS", "4")
    assert Ranks().cpus() == 2
    monkeypatch.setenv("SPARSE_TRAIN_WORKERS", "40")
    assert Ranks().cpus() == 1


def test_a_key_of_one_process_alone_is_named(monkeypatch):
    ours, theirs = {"lr": 0.1, "seed": 0}, {"lr": 0.1, "seed": 0, "amp": "bf16"}
    monkeypatch.setattr(dist, "all_gather_object", lambda found, _: found.__setitem__(slice(2), [ours, theirs]))
    with pytest.raises(ConfigError, match="amp=bf16: on process 1, but None on process 0"):
        Ranks(0, 2, 0).require_same(ours)
