"""The bits of tiny runs, so that a change of code can be shown to change none: `python -m support.bits before.json`.

    PYTHONPATH=tests python -m support.bits tests/bits.json            # before a change
    PYTHONPATH=tests python -m support.bits --compare tests/bits.json  # after it

Every configuration is trained by its command. A row holds the run's id and the SHA-256 of its weights, its masks and
its history (the columns that decide a table). Other hardware and other versions of torch round differently: rows
compare where they are the same, and the file names both.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

COLUMNS = ("epoch", "step", "lr", "train_loss", "train_acc", "test_loss", "test_acc", "grad_norm", "clipped_share",
           "realised_sparsity", "itop_rate")  # fmt: skip
SMALL = ("epochs=2", "model.width=0.25", "update_every=3", "threads=1", "device=cpu")
MLP = ("model=mlp", "model.hidden=[32,16]", "epochs=2", "update_every=3", "threads=1", "device=cpu")
RANKS = "ranks"

CONFIGURATIONS = {
    "rigl-sgd": (*SMALL, "optimizer=sgd"),
    "rigl-sparseopt": SMALL,
    "rigl-sparseopt-resumed": (*SMALL, "epochs=3", "checkpoint_steps=5"),
    "rigl-ham": (*SMALL, "optimizer=ham"),
    "rigl-sparseopt-ham-renorm": (*SMALL, "optimizer=sparseopt_ham", "renorm=unit", "s_avg=none"),
    "rigl-sgd-renorm-masked": (*SMALL, "optimizer=sgd", "renorm=unit", "optimizer.renorm.over=masked"),
    "rigl-equal-angle": (*SMALL, "optimizer=equal_angle"),
    "rigl-global-scaled-decay": (*SMALL, "s_avg=global", "optimizer.precondition.scale_decay=true"),
    "rigl-normalized-nesterov": (*SMALL, "optimizer.precondition.layers=normalized", "nesterov=true"),
    "rigl-corrected": (*SMALL, "dst=rigl_corrected", "sparsity=0.97"),
    "rigl-invariant": (*SMALL, "dst=rigl_invariant", "optimizer=sgd"),
    "rigl-as-sgd": (*SMALL, "dst.method.rank_as=sgd", "dst.method.rescale=true"),
    "set": (*SMALL, "dst=set"),
    "static-own-fan-in": (*SMALL, "dst=static", "init=own_fan_in", "optimizer=sgd"),
    "dense": (*SMALL, "dst=dense", "optimizer=sgd"),
    "mest": (*SMALL, "dst=mest"),
    "snfs": (*SMALL, "dst=snfs"),
    "dsr": (*SMALL, "dst=dsr", "optimizer=sgd"),
    "gmp": (*SMALL, "dst=gmp", "optimizer=sgd"),
    "granet": (*SMALL, "dst=granet"),
    "srigl": (*SMALL, "dst=srigl"),
    "bf16-wide-uniform": (
        "epochs=1",
        "update_every=3",
        "threads=1",
        "device=cpu",
        "model=wideresnet",
        "model.depth=10",
        "model.width=1",
        "amp=bf16",
        "channels_last=true",
        "topology.distribution=uniform",
    ),
    "mlp-exclude-validation": (*MLP, "dataset.validation=100", "topology.exclude=[layers.1.weight]", "lr=0.05"),
    "ranks": (*MLP, "dst=set", "optimizer=sparseopt"),
}


def trained(name: str, overrides: tuple[str, ...], place: Path) -> Path:
    """The directory of the run, interrupted once or on two processes where its name says so."""
    command = [sys.executable, "-m", "sparse_train"]
    if name == RANKS:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command[1:]]
    command += [*overrides, f"runs_dir={place / name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if name.endswith("resumed"):
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as run:
            for line in run.stderr:
                if line.startswith("epoch"):
                    run.terminate()
                    break
            run.communicate()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return Path(done.stdout.splitlines()[-1])


def row(run: Path) -> dict[str, str]:
    """The id of a run and the digests of what it left."""
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    told = json.dumps([{key: epoch.get(key) for key in COLUMNS} for epoch in history])
    return {
        "id": run.name,
        "weights": digest(run / "model.safetensors"),
        "masks": digest(run / "masks.safetensors"),
        "history": hashlib.sha256(told.encode()).hexdigest()[:16],
        "test_acc": history[-1]["test_acc"],
    }


def digest(file: Path) -> str:
    """SHA-256 of names and bytes of all tensors; of no file where a network without masks has none."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()) if file.exists() else ():
        found.update(name.encode())
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()[:16]


def processor() -> str:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{model[0].partition(': ')[2] if model else platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--compare", action="store_true", help="compare with the file instead of writing it")
    parser.add_argument("--only", nargs="*", default=list(CONFIGURATIONS))
    given = parser.parse_args()
    made: dict = {"torch": torch.__version__, "processor": processor(), "rows": {}}
    with tempfile.TemporaryDirectory() as place:
        for name in given.only:
            made["rows"][name] = row(trained(name, CONFIGURATIONS[name], Path(place)))
            print(name, *made["rows"][name].values(), flush=True)
    if not given.compare:
        given.file.write_text(json.dumps(made, indent=1) + "\n")
        return
    before = json.loads(given.file.read_text())
    for key in ("torch", "processor"):
        if made[key] != before[key]:
            print(f"{key}: {before[key]} -> {made[key]}: digests may differ")
    failed = False
    for name, now in made["rows"].items():
        then = before["rows"][name]
        changed = [key for key in now if now[key] != then[key]]
        failed |= bool(set(changed) - {"id"})
        if changed:
            print(f"{name}: {', '.join(f'{key} {then[key]} -> {now[key]}' for key in changed)}")
    print("all bits equal" if not failed else "bits differ")
    sys.exit(failed)


if __name__ == "__main__":
    main()
