"""One process of a distributed test: python tests/support/ddp_worker.py OUT MODE OVERRIDE...

MODE "train" runs the entrypoint; "mismatch" gives rank 1 another mask first; "dies" kills rank 1 in the third step;
"steps" takes 30 steps and writes what came of them to OUT. "broken off" trains with dropout under OUT/whole, and under
OUT/broken, where every rank ends in the middle of an epoch and is started again. "differs" gives the last override to
rank 1 alone. "own disk" runs in OUT/RANK. "elsewhere" is a loop that is not ours, and prints what went wrong in it.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn
from torch.nn.functional import dropout
from torch.nn.parallel import DistributedDataParallel

from sparse_train import RigL, SparseSGD, Topology, Updater
from sparse_train.__main__ import CONF, main
from sparse_train.errors import ConfigError, MaskMismatchError
from sparse_train.process.distributed import Ranks, join, leave
from sparse_train.sparsity import updater
from sparse_train.train import loop
from sparse_train.train.build import build

STEPS = 30


def steps(run: loop.Run, backward: Callable[[torch.Tensor, torch.Tensor], None]) -> dict:
    """The loop's own lines for 30 steps, without epochs and evaluation; gives the state they lead to.

    Args:
        backward: (images, labels) -> None, leaves the gradients.
    """
    run.forward.train()
    done = 0
    for epoch in range(STEPS):
        for images, labels in run.data.train.epoch(epoch):
            if done == STEPS:
                break
            for group in run.optimizer.param_groups:
                group["lr"] = run.schedule(done)
            run.optimizer.zero_grad()
            backward(images, labels)
            run.updater.observe(done)
            if run.updater.due(done):
                run.updater.update(done)
            else:
                run.optimizer.step()
            done += 1
    return run.state_dict()


def with_another_mask(topology: Topology, step: int, ranks: Ranks) -> None:
    if ranks.rank == 1:
        mask = topology.masks["layer2.1.conv1.weight"].clone()
        first, last = mask.flatten().nonzero()[0], (~mask).flatten().nonzero()[0]
        mask.view(-1)[first], mask.view(-1)[last] = False, True
        topology.replace("layer2.1.conv1.weight", mask)
    checked(topology, step, ranks)


def killed(run: loop.Run, images: torch.Tensor, labels: torch.Tensor):
    killed.calls += 1
    if killed.calls == 3 and run.ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(run, images, labels)


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def noisy(run: loop.Run, images: torch.Tensor, labels: torch.Tensor):
    """With dropout of its inputs; tells once which seed it draws from."""
    if run.forward.training and torch.initial_seed() not in noisy.told:
        noisy.told.add(torch.initial_seed())
        print(f"rank {run.ranks.rank} draws from {torch.initial_seed()}")
    return loss(run, dropout(images, 0.1, run.forward.training), labels)


def ends_in_step(run: loop.Run, images: torch.Tensor, labels: torch.Tensor):
    ends_in_step.left -= 1
    if ends_in_step.left == 0:
        raise Killed
    return noisy(run, images, labels)


def elsewhere() -> None:
    """Mask updates where gradients are averaged, where one rank's is infinite, where a rank lacks one, or all lack it,
    and where none is averaged; and FSDP2.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank = join().rank
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    parallel = DistributedDataParallel(model)
    topology = Topology(parallel, 0.8)
    optimizer = SparseSGD(parallel.parameters(), topology, lr=0.1)
    rigl = Updater(topology, optimizer, RigL(), 100, every=1)
    inputs = torch.randn(8, 20, generator=torch.Generator().manual_seed(rank))
    parallel(inputs).square().sum().backward()
    said = [f"averaged: {rigl.update(1)}"]
    grad = model[0].weight.grad.clone()
    if rank == 1:
        model[0].weight.grad[3, 4] = torch.inf
    before = topology.checksums()
    said.append(f"infinite on rank 1: {rigl.update(2)}, same masks: {torch.equal(before, topology.checksums())}")
    model[0].weight.grad = grad
    for ranks in ((1,), (0, 1)):
        grad, mask = model[2].weight.grad, topology.masks["2.weight"]
        model[2].weight.grad = None if rank in ranks else grad
        updated = rigl.update(3), torch.equal(mask, topology.masks["2.weight"])
        said.append(f"no gradient on ranks {ranks}: updated, and this layer's mask stays: {updated}")
        model[2].weight.grad = grad
    optimizer.zero_grad()
    with parallel.no_sync():
        parallel(inputs).square().sum().backward()
    try:
        rigl.update(3)
    except MaskMismatchError as error:
        said.append(f"no_sync: {error}")
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    try:
        Topology(model, 0.8)
    except ConfigError as error:
        said.append(f"fully_shard: {error}")
    print("".join(f"{line}\n" for line in said), end="")


def run_main(*arguments: str) -> None:
    GlobalHydra.instance().clear()
    sys.argv = ["sparse_train", *arguments]
    main()


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, mode, *overrides = sys.argv[1:]
    if mode == "steps":
        with initialize_config_dir(str(CONF), version_base="1.3"):
            run = build(compose("config", overrides=overrides), join())
        torch.save(steps(run, lambda images, labels: run.loss(images, labels)[0].backward()), f"{out}.{run.ranks.rank}")
        leave()
        sys.exit()
    if mode == "elsewhere":
        elsewhere()
        leave()
        sys.exit()
    checked, loss, killed.calls = updater.require_same_masks, loop.Run.loss, 0
    if mode == "broken off":
        loop.Run.loss, noisy.told = noisy, set()
        run_main(*overrides, f"runs_dir={out}/whole")
        loop.Run.loss, ends_in_step.left = ends_in_step, int(os.environ["STEPS"])
        with contextlib.suppress(Killed):
            run_main(*overrides, f"runs_dir={out}/broken", "checkpoint_steps=2")
        run_main(*overrides, f"runs_dir={out}/broken", "checkpoint_steps=3")
        leave()
        sys.exit()
    if mode == "own disk":
        os.chdir(f"{out}/{os.environ['RANK']}")
    if mode == "differs" and os.environ["RANK"] == "0":
        overrides = overrides[:-1]
    if mode == "mismatch":
        updater.require_same_masks = with_another_mask
    if mode == "dies":
        loop.Run.loss = killed
    sys.argv = ["sparse_train", *overrides]
    main()
    leave()
