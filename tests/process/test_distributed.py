"""Two gloo processes against one process that does the same; some are started by torchrun, as users start them."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

from sparse_train.errors import ConfigError
from sparse_train.process.distributed import Ranks
from sparse_train.sparsity.masks import checksum
from sparse_train.train.build import build
from support import wandb_files
from support.ddp_worker import steps
from support.runs import QUICK, ROOT, free_port, history, only, record, run_here, same_state, trained
from support.warm import Program

WORKER = str(ROOT / "tests" / "support" / "ddp_worker.py")
SMALL = ("model.width=0.25", "sparsity=0.8", "update_every=10", "epochs=20", "threads=1", "optimizer=sparseopt_ham")


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


@pytest.mark.parametrize("dst", ["set", "rigl", "snfs", "srigl"])
def test_two_processes_train_the_same_network(dst, tmp_path, compose_config):
    overrides = [*SMALL, f"dst={dst}"]
    words = (str(tmp_path / "state"), "steps", *overrides)
    codes, said = finish(torchrun(*words, nodes=2)) if dst == "rigl" else pair(*words)
    assert set(codes) == {0}, said
    first, second = (torch.load(tmp_path / f"state.{rank}", weights_only=True) for rank in (0, 1))
    one = alone(compose_config(*overrides))
    started = build(compose_config(*overrides)).topology.masks
    assert any(not torch.equal(mask, started[name]) for name, mask in one["optimizer"]["topology"]["masks"].items()), (
        "updated"
    )
    for name, mask in first["optimizer"]["topology"]["masks"].items():
        assert torch.equal(mask, second["optimizer"]["topology"]["masks"][name])
        assert torch.equal(mask, one["optimizer"]["topology"]["masks"][name])
        weight = first["model"][name]
        assert torch.equal(weight, second["model"][name])
        torch.testing.assert_close(weight, one["model"][name], rtol=0, atol=1e-5)


def test_a_distributed_run_leaves_one_record(tmp_path):
    """Rounding and per-process batch statistics aside, it is the run that one process makes, under the same id."""
    arguments = (*QUICK, "sparsity=0.5", "checkpoint_steps=3")
    told = ("logger=wandb", "logger.mode=offline")
    codes, said = pair("-", "train", *arguments, *told, f"runs_dir={tmp_path / 'two'}")
    assert codes == {0}, said
    assert said.count(str(tmp_path / "two")) >= 1
    run_dir = trained(*arguments, f"runs_dir={tmp_path / 'one'}")
    both = tmp_path / "two" / run_dir.name
    assert record(both)["status"] == "complete"
    assert record(both)["processes"] == 2
    assert [row["epoch"] for row in history(both)] == [1, 2]
    for ours, theirs in zip(history(both), history(run_dir), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["lr"] == theirs["lr"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.3)
        assert (ours["test_acc"] * 1297 / 100) % 1 == pytest.approx(0, abs=1e-6), "each test image once"
    names = {path.name for path in both.iterdir()}
    assert names == {path.name for path in run_dir.iterdir()} | {"wandb"}
    [file] = both.glob("wandb/*run-*/*.wandb")
    assert [row["_step"] for row in wandb_files.rows(file)] == [1, 2], "one process tells W&B"


def test_without_batch_normalization_two_processes_make_the_run_of_one(tmp_path, monkeypatch, capsys):
    """So what they differ by elsewhere, under one id, is the statistics of half a batch."""
    arguments = ("epochs=2", "update_every=3", "threads=1", "model=mlp", "model.norm=none", "sparsity=0.8")
    codes, said = pair("-", "train", *arguments, f"runs_dir={tmp_path / 'two'}")
    assert codes == {0}, said
    assert run_here(monkeypatch, capsys, *arguments, f"runs_dir={tmp_path / 'one'}")[0] == 0
    run_dir, both = only(tmp_path / "one"), only(tmp_path / "two")
    assert both.name == run_dir.name
    assert [one["processes"] for one in record(both)["segments"]] == [2]
    assert [one["processes"] for one in record(run_dir)["segments"]] == [1]
    for ours, theirs in zip(history(both), history(run_dir), strict=True):
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], abs=1e-6)
        assert ours["test_acc"] == theirs["test_acc"]


def test_broken_off_and_taken_up_again_two_processes_end_the_same(tmp_path, monkeypatch):
    """To the bit, and whenever it was saved: saving changes nothing, and each takes back what is its own."""
    monkeypatch.setenv("STEPS", "12")  # in the second epoch of seven steps, the test sets' batches counted too
    arguments = (*QUICK, "dataset.train_images=450", "model.width=0.125", "optimizer=sparseopt_ham")
    codes, said = pair(str(tmp_path), "broken off", *arguments)
    assert codes == {0}, said
    assert re.search(r"resuming after epoch 1 of 2, \d steps", said)
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


@pytest.mark.parametrize("override", ["lr=0.3"])
def test_processes_with_different_settings_are_refused(override, tmp_path):
    arguments = (*QUICK, "dst=static", f"runs_dir={tmp_path}", override)
    codes, said = pair("-", "differs", *arguments, timeout=120)
    assert codes == {1}
    assert said.count("error: lr=0.3: on process 1, but 0.1 on process 0; all processes of a run need the same") == 2
    assert not list(tmp_path.iterdir()), "nothing is written"


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
    codes, _ = finish(torchrun("-", "dies", *QUICK, f"runs_dir={tmp_path}"), timeout=120)
    assert codes != [0]
    assert record(only(tmp_path))["status"] in ("running", "failed")


# --- one process at a time ---


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_every_image_once(world, compose_config):
    from sparse_train.data.memory import EvalSplit, Loading, TrainSplit

    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 1, 2, 2)
    labels = torch.arange(30)
    device = torch.device("cpu")
    whole = list(TrainSplit(images, labels, Loading("", 8, 0, device), [0.5], [0.5]).epoch(1))
    shares = [
        list(TrainSplit(images, labels, Loading("", 8, 0, device, ranks=Ranks(r, world)), [0.5], [0.5]).epoch(1))
        for r in range(world)
    ]
    for step, (_, expected) in enumerate(whole):
        assert torch.equal(torch.cat([share[step][1] for share in shares]), expected)
    tested = [
        label
        for rank in range(world)
        for _, batch in EvalSplit(
            images, labels, Loading("", 8, 0, device, ranks=Ranks(rank, world)), [0.5], [0.5], 4
        ).epoch()
        for label in batch.tolist()
    ]
    assert sorted(tested) == list(range(30))


def test_a_batch_that_cannot_be_shared_is_refused():
    from sparse_train.data.memory import Loading, require_batches

    with pytest.raises(ConfigError, match="batch_size=10: must be divisible by the number of processes, 4"):
        require_batches(Loading("", 10, 0, torch.device("cpu"), ranks=Ranks(0, 4)), 100)


def test_a_checksum_tells_masks_apart():
    draw = torch.Generator().manual_seed(0)
    masks = [torch.rand(16, 8, 3, 3, generator=draw) < 0.1 for _ in range(500)]
    assert len({int(checksum(mask)) for mask in masks}) == 500
    moved = masks[0].clone()
    on, off = moved.flatten().nonzero()[0], (~moved).flatten().nonzero()[0]
    moved.view(-1)[on], moved.view(-1)[off] = False, True
    assert checksum(moved) != checksum(masks[0])
    assert checksum(masks[0].to(memory_format=torch.channels_last)) == checksum(masks[0])


def test_what_processes_may_differ_in(compose_config):
    from sparse_train.train.tasks import settings

    mine = settings(compose_config("optimizer=sparseopt"))
    machine = ("data_dir=/elsewhere", "workers=3", "gpus=[0]", "download=false", "logger=wandb")
    assert settings(compose_config("optimizer=sparseopt", *machine)) == mine
    for other in ("lr=0.3", "dst=static", "seed=1", "resume=fresh", "checkpoint_steps=2", "sync_bn=true"):
        assert settings(compose_config("optimizer=sparseopt", other)) != mine
    keys = list(settings(compose_config("lr=0.3")))
    assert keys.index("lr") < keys.index("lr_schedule.end"), "the key that was given is the one that is named"


def test_the_cpus_of_a_machine_are_shared_by_its_ranks(monkeypatch):
    """torchrun's ranks may all run on the same CPUs; srun gives each its own; other machines do not count."""
    here, gather = socket.gethostname(), "all_gather_object"

    def cpus(*others):
        monkeypatch.setattr(torch.distributed, gather, lambda found, own: found.__setitem__(slice(4), [own, *others]))
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


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"lr": 0.1, "seed": 0}, None),
        ({"lr": 0.2, "seed": 0}, "lr=0.2: on process 1, but 0.1 on process 0"),
        ({"lr": 0.1}, "seed=None: on process 1, but 0 on process 0"),
        ({"lr": 0.1, "seed": 0, "amp": "bf16"}, "amp=bf16: on process 1, but None on process 0"),
    ],
)
def test_a_key_of_one_process_alone_is_named(monkeypatch, theirs, message):
    ours = {"lr": 0.1, "seed": 0}
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda found, _: found.__setitem__(slice(2), [ours, theirs])
    )
    with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
        Ranks(0, 2, 0).require_same(ours)
