"""Gives every method's authors our inputs: results/parity-methods.md, and parity/methods.npz for the tests.

Run `python -m parity.methods`; `make parity` does.
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from parity import ours
from parity.networks import ABLATION, GAMMA, UPDATES, moments
from parity.peers import METHODS, PLACE, ROOT, answer
from parity.updates import Update, pack, save, torch_layer, unpack
from sparse_train import SparseSGD, Topology, Updater
from sparse_train.record.files import write_whole
from sparse_train.sparsity.masks import drop, grow
from sparse_train.sparsity.method import Layer, Method
from sparse_train.sparsity.methods.gmp import GMP
from sparse_train.sparsity.methods.granet import GraNet
from sparse_train.sparsity.methods.mest import MEST
from sparse_train.sparsity.methods.snfs import SNFS
from sparse_train.sparsity.methods.srigl import SRigL

CASES = {case: what for peer in METHODS for case, what in peer.cases.items()}
STORED = ROOT / "parity" / "methods.npz"
HEAD = """# Parity of the field's methods with their authors' code

`make parity`. Each code below runs unmodified on the same weights, gradients, masks and shares f_t: the 22 sparse
layers of ResNet20 at five mask updates on the digits, at 90% and 97%. The masks before an update are the method's own
for SRigL, GraNet and GMP, and RigL's elsewhere. Its masks are compared with those of our `Updater`, place by place.
Where they differ, they are compared with what our `drop` and `grow` make of as many weights as that code took: then
scores and choice agree, and whole numbers do not.

| code | commit | what of it | same mask | same by its own numbers | other | numbers differ by at most |
|---|---|---|---|---|---|---|
"""
TAIL = """
What differs:

- GraNet: its pruning leaves one weight fewer in the network, as it keeps only what lies above the last score that
  should stay; it makes f_t n whole by a ceil; and it ends one update before ours, so the last is not compared. A weight
  that is pruned and grown in one update starts at 0 there, and keeps its value here.
- GMP: the number that stays is cut off there, and rounded here.
- SNFS: ceil where we have floor, for what is dropped and for each layer's share of what is grown. So its total drifts,
  which later updates make up for; here the total stays. What a full layer has no room for goes to the others in equal
  parts there, in proportion to their momentum here. A layer that is nearly dense and gains drops less there.
- SRigL: in floating point 0.225 x 960 is 215.99..., which it cuts off; here that is 216. Where a
  neuron has come back, the fan-in falls: of a neuron with more weights it keeps any, ours keeps the largest. These are
  its masks that are others; the same neurons are taken away in all. It also takes neurons of the last layer away, which
  are the outputs. Where the neurons taken away had more weights than were to be replaced, it fills up with any places.
- MEST: what is grown is random, and not compared.
- DSR (IntelAI/dynamic-reparameterization): its rule lies in the loop of its training script and cannot be called.
"""


def inputs(case: str) -> list[Update]:
    """Every layer at each update, at each sparsity."""
    options: dict[str, Any] = {}
    if case in INITIAL:
        uniform = {"distribution": "uniform"} if case == "gmp" else {}
        options = {"initial": INITIAL[case], "method": OURS[case](), **uniform}
    return [update for sparsity in ours.SPARSITIES for update in ours._run(sparsity, **options)]


def answered(case: str, updates: list[Update]) -> list[np.ndarray]:
    """Our masks after each."""
    masks = []
    for number, sparsity, layers in moments(updates):
        groups = [[layer] for layer in layers] if case == "srigl" else [layers]
        for group in groups:
            masks += _updated(case, number, sparsity, group)
    return masks


def _updated(case: str, number: int, sparsity: float, layers: list[Update]) -> list[np.ndarray]:
    """SRigL's layer is followed by another, since neurons of a last layer stay; its target is what it has."""
    following = [nn.Linear(1, 1, bias=False).requires_grad_(False)] if case == "srigl" else []
    model = nn.Sequential(*(torch_layer(update.weight, update.grad) for update in layers), *following)
    with torch.no_grad():  # weights that are sparse already get no random masks; theirs come with the masks below
        for weight in model.parameters():
            weight.fill_(1)
    topology = Topology(model, 0.0 if following else sparsity, "uniform", initial=INITIAL.get(case, "random"))
    first = {name: mask.numel() for name, mask in topology.masks.items()}
    for update, name in zip(layers, topology.masks, strict=False):
        topology.replace(name, torch.from_numpy(update.mask))
        topology.weights[name].data.copy_(torch.from_numpy(update.weight))
        if following:
            topology.targets[name] = int(update.mask.sum())
    optimizer = SparseSGD([p for p in model.parameters() if p.requires_grad], topology, lr=0)
    options = {"total_steps": ours.TOTAL, "every": ours.EVERY, "decay": "constant"}
    updater = Updater(topology, optimizer, OURS[case](), drop_fraction=float(layers[0].fraction), **options)
    updater.first = first
    updater.observe(number * ours.EVERY)
    updater.update(number * ours.EVERY)
    return [mask.numpy() for mask in list(topology.masks.values())[: len(layers)]]


class Dropped(MEST):
    """What is grown at random has no peer: leave it out."""

    keeps_counts = False

    def counts(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        return {name: (dropped, 0) for name, (dropped, _) in super().counts(layers).items()}


INITIAL = {"srigl": "constant_fan_in", "granet": "dense", "gmp": "dense"}
OURS: dict[str, Callable[[], Method]] = {
    "srigl": lambda: SRigL(ABLATION),
    "mest": lambda: Dropped(GAMMA),
    "granet": GraNet,
    "gmp": GMP,
    "snfs": lambda: SNFS(0.0),
}


def compared(case: str, updates: list[Update], mine: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[int, ...]:
    """How many masks are the same, the same by the other's own numbers, others; by how much numbers differ at most."""
    found, most = Counter(), 0
    last = UPDATES if case == "granet" else None  # its pruning ends before
    for (number, _, layers), i in zip(moments(updates), range(0, len(updates), len(updates) // 10), strict=True):
        for update, ours_, other in zip(layers, mine[i:], theirs[i:], strict=False):
            if number == last:
                continue
            most = max(most, abs(int(ours_.sum()) - int(other.sum())))
            same = np.array_equal(ours_, other)
            found["same" if same else "numbers" if _same_by_numbers(case, update, other) else "other"] += 1
    return found["same"], found["numbers"], found["other"], most


def _same_by_numbers(case: str, update: Update, other: np.ndarray) -> bool:
    """Whether our scores give this mask, with some number of weights dropped: no fewer than the last that is gone."""
    weight, grad, mask = map(torch.from_numpy, update[:3])
    score = weight.abs() + GAMMA * grad.abs() if case == "mest" else weight.abs()
    gone = mask & ~torch.from_numpy(other)
    before = int(mask.sum())
    least = int((score[mask] <= score[gone].max()).sum()) if gone.any() else 0
    for dropped in range(least, min(least + 100, before) + 1):
        grown = int(other.sum()) - before + dropped
        if grown >= 0 and np.array_equal(grow(drop(mask, score, dropped), grad.abs(), grown).numpy(), other):
            return True
    return False


def digest(packed: np.ndarray) -> str:
    return hashlib.sha256(packed.tobytes()).hexdigest()


def kept(case: str, mine: list[np.ndarray], updates: list[Update]) -> list[np.ndarray]:
    """The masks that a peer answered with, from where ours differ: so small is what is kept, and known by its digest.

    Raises:
        ValueError: for masks of ours that are not those of the comparison.
    """
    with np.load(STORED) as stored:
        packed = stored[case] ^ pack(mine)
        if digest(packed) != str(stored[f"{case}.sha256"]):
            raise ValueError(f"our masks of {case} have changed since they were compared: make parity")
    return unpack(packed, updates)


def row(case: str, counts: tuple[int, ...]) -> str:
    [peer] = [peer for peer in METHODS if case in peer.cases]
    return peer.row(case, " | ".join(map(str, counts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "parity-methods.md")
    parser.add_argument("--stored", type=Path, default=STORED)
    arguments = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    rows, bits, reasons = [], {}, []
    for peer in METHODS:
        for case in peer.cases:
            print(f"{peer.repository}: {peer.cases[case]}", flush=True)
            updates = inputs(case)
            save(PLACE / f"{case}.npz", updates)
            try:
                packed = answer(peer, case, PLACE / f"{case}.npz", "parity.networks")
            except RuntimeError as error:
                reasons.append(f"{case}: not compared: {error}")
                continue
            mine = answered(case, updates)
            rows.append(row(case, compared(case, updates, mine, unpack(packed, updates))))
            bits |= {case: packed ^ pack(mine), f"{case}.sha256": np.array(digest(packed))}
    if reasons:
        sys.exit("\n".join(reasons))
    write_whole(arguments.out, (HEAD + "\n".join(rows) + "\n" + TAIL).encode())
    np.savez_compressed(arguments.stored, **bits)


if __name__ == "__main__":
    main()
