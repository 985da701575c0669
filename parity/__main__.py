"""Gives every peer our inputs, writes results/parity.md, and keeps the answers in parity/traces.npz for the tests."""

import argparse
import sys
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import torch

from parity import traces
from parity.ours import SPARSITIES, UPDATES, mirrored, more, steps, trace
from parity.peers import HAM, PEERS, PLACE, ROOT, answer
from parity.updates import Update, save, unpack
from sparse_train.process.console import piped
from sparse_train.record.files import write_whole
from sparse_train.record.metadata import describe

TAIL = """
[docs/readings.md](../docs/readings.md#where-public-code-differs) lists the other differences. `parity/traces.npz` keeps
the masks of these codes; `tests/project/test_parity.py` checks our code against them where the codes are not installed.
"""


@piped()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "parity.md")
    parser.add_argument("--traces", type=Path, default=ROOT / "parity" / "traces.npz")
    arguments = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    updates, given = trace(), steps()
    save(PLACE / "updates.npz", updates)
    np.savez(PLACE / "steps.npz", **given._asdict())
    answers: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    for peer in [*PEERS, HAM]:
        for case in peer.cases:
            print(f"{peer.repository}: {peer.cases[case]}", flush=True)
            try:
                answers[case] = answer(peer, case, PLACE / ("steps.npz" if peer is HAM else "updates.npz"))
            except RuntimeError as error:
                reasons[case] = str(error)
    masks = {case: unpack(answers[case], updates) for peer in PEERS for case in peer.cases if case in answers}
    lines = [peer.row(case, _counts(updates, masks, reasons, case)) for peer in PEERS for case in peer.cases]
    ham = _not_compared(reasons["HAM"]) if "HAM" in reasons else _difference(mirrored(given), answers["HAM"])
    write_whole(arguments.out, (_head(updates) + "\n".join(lines) + _ham(len(given.grads), ham) + TAIL).encode())
    if reasons:
        sys.exit("\n".join(f"{case}: {_not_compared(reason)}" for case, reason in reasons.items()))
    traces.write(arguments.traces, updates, masks, answers["HAM"])


def _head(updates: list[Update]) -> str:
    facts = describe(torch.device("cpu"))
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("python", "torch", "numpy"))
    layers = len(updates) // UPDATES // len(SPARSITIES)
    sparsities = " and ".join(f"{sparsity:.0%}" for sparsity in SPARSITIES)
    return f"""# Parity with public code of others

`make parity`, {date.today()}, revision {facts["git"]}; {facts["hardware"]["cpu"]};
{versions}; TensorFlow and jax as in [parity/requirements.txt](../parity/requirements.txt).

Each code below runs unmodified on the same weights, gradients, masks and shares f_t to drop: the {layers} sparse layers
of ResNet20 at {UPDATES} mask updates of RigL on the digits, at {sparsities}: {len(updates)} updates. Its mask is
compared with that of our `Updater`, place by place. Where the two differ, we also compare with what our `drop` and
`grow` make of one weight fewer and one more, because codes round f_t n differently (n is the number of weights).

| code | commit | what of it | same mask | one weight fewer | one more | other |
|---|---|---|---|---|---|---|
"""


def _counts(updates: list[Update], masks: dict, reasons: dict[str, str], case: str) -> str:
    if case in reasons:
        return f"{_not_compared(reasons[case])} | | |"
    found = Counter(more(update, mask) for update, mask in zip(updates, masks[case], strict=True))
    return " | ".join(str(found[by]) for by in (0, -1, 1, None))


def _ham(count: int, found: str) -> str:
    place = f"https://github.com/{HAM.repository}"
    return f"""

HAM: {count} steps of `SparseSGD` with `mirror=HAM(...)`, momentum and weight decay, on 1,000 weights at 90%, against
torch's SGD in {HAM.cases["HAM"]} ([{HAM.repository}]({place}), `{HAM.commit[:8]}`): {found}.
"""


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"the largest difference of a weight is {np.abs(ours - theirs).max()}"


def _not_compared(reason: str) -> str:
    return f"not compared: {reason}"


if __name__ == "__main__":
    main()
