"""What is measured: seconds per call of each case of a section. Cases named "dense ..." are what ours is held to."""

import gc
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm import create_model
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from benchmarks.measure import interleaved
from benchmarks.others import Steps, present
from benchmarks.packed import seconds_per_image
from benchmarks.training import BATCH, STEPS, entrypoint, plain_loop
from sparse_train import HAM, SET, Renorm, RigL, SparseOpt, SparseSGD, Topology, Updater
from sparse_train.models.init import kaiming_normal
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.train.diagnostics import Diagnostics
from sparse_train.train.meter import Meter

SPARSITY, SGD = 0.9, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
DENSE = {"dense SGD": {}, "dense SGD, foreach": {"foreach": True}, "dense SGD, fused": {"fused": True}}
OURS: dict[str, Callable[[], dict]] = {
    "RigL": dict,
    "RigL + SparseOpt": lambda: {"precondition": SparseOpt()},
    "RigL + SparseOpt + HAM": lambda: {"precondition": SparseOpt(), "mirror": HAM()},
    "RigL + SparseOpt, renormalized": lambda: {"precondition": SparseOpt(), "renorm": Renorm()},
}


def network(device: torch.device) -> nn.Module:
    """ResNet20 x1 for 100 classes, with gradients of about the size that training has."""
    model = ResNet20(100)
    kaiming_normal(model, 0)
    return _with_gradients(model.to(device))


def _with_gradients(model: nn.Module) -> nn.Module:
    for p in model.parameters():
        p.grad = 1e-3 * torch.randn_like(p)
    return model


def ours(model: nn.Module, slots: dict) -> SparseSGD:
    return SparseSGD(model.parameters(), Topology(model, SPARSITY), **SGD, **slots)


def resnet50(device: torch.device) -> nn.Module:
    """ResNet50 for 1,000 classes, with such gradients."""
    return _with_gradients(create_model("resnet50").to(device))


def optimizer_steps(device: torch.device) -> dict[str, list[float]]:
    """Optimizer and masking of one step, gradients given; and the product of gradients and masks alone, which no step
    of ours can do without."""
    cases = step_cases(network, device) | {"gradients times masks, alone": _product(network(device))}
    cases |= {name: step for name, (step, _) in _others(device).items()}
    return interleaved(cases, device, rounds=40, calls=10)


def optimizer_steps_50(device: torch.device) -> dict[str, list[float]]:
    """The same for ResNet50, 25.5 million weights; only ours and dense SGD."""
    return interleaved(step_cases(resnet50, device), device, rounds=9)


def _product(model: nn.Module) -> Callable[[], object]:
    weights = [p.detach() for p in model.parameters() if p.ndim > 1]
    masks, grads = [torch.ones_like(p) for p in weights], [torch.randn_like(p) for p in weights]
    return lambda: torch._foreach_mul(masks, grads)


def step_cases(make: Callable[[torch.device], nn.Module], device: torch.device) -> dict[str, Callable[[], object]]:
    cases = {name: torch.optim.SGD(make(device).parameters(), **SGD, **form).step for name, form in DENSE.items()}
    return cases | {name: ours(make(device), slots()).step for name, slots in OURS.items()}


def _others(device: torch.device) -> dict[str, Steps]:
    """Others' steps and updates, around torch's fused SGD; a line on stderr for each that is not to be had."""

    def given() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network(device)
        return model, torch.optim.SGD(model.parameters(), **SGD, fused=True)

    found, missing = present(given, SPARSITY)
    for line in missing:
        print(line, file=sys.stderr)
    return found


def whole_steps(device: torch.device) -> dict[str, list[float]]:
    """Forward, backward and step, 64 images."""
    images, labels = torch.randn(64, 3, 32, 32, device=device), torch.randint(100, (64,), device=device)
    prepared = {f"dense SGD, {form}": _dense(device, form) for form in ("foreach", "fused")}
    for name, slots in OURS.items():
        model = network(device)
        prepared[name] = model, ours(model, slots())
    cases = {name: _train(*both, images, labels) for name, both in prepared.items()}
    return interleaved(cases, device, rounds=20)


def _dense(device: torch.device, form: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = network(device)
    return model, torch.optim.SGD(model.parameters(), **SGD, **{form: True})


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def mask_updates(device: torch.device) -> dict[str, list[float]]:
    """One update of all masks."""
    cases = {}
    for method in (RigL(), SET()):
        optimizer = ours(network(device), {"precondition": SparseOpt()})
        updater = Updater(optimizer.topology, optimizer, method, total_steps=10**9, every=1)
        cases[type(method).__name__] = update_case(updater, optimizer)
    cases |= {name: update for name, (_, update) in _others(device).items() if update}
    return interleaved(cases, device, rounds=40)


def update_case(updater: Updater, optimizer: SparseSGD) -> Callable[[], None]:
    steps = iter(range(1, 10**9))
    optimizer.step()
    return lambda: updater.update(next(steps))


def diagnostics(device: torch.device) -> dict[str, list[float]]:
    """The time of a run's diagnostics, as a share of an epoch without them: CIFAR-100 at 16x16, 195 steps of 256 images
    in bfloat16, 20 of them observed, and two mask updates. Alone: `python -m benchmarks --section diagnostics`."""
    model = network(device).to(memory_format=torch.channels_last)
    optimizer = ours(model, {"precondition": SparseOpt()})
    updater = Updater(optimizer.topology, optimizer, RigL(), total_steps=10**9)
    looks, meter = Diagnostics(model, optimizer.topology, optimizer), Meter(device)
    images = torch.randn(256, 3, 16, 16, device=device).to(memory_format=torch.channels_last)
    train = _train(model, optimizer, images, torch.randint(100, (256,), device=device))

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            train()

    def look() -> None:
        with looks.step(meter):
            pass

    def update() -> None:
        with looks.update(meter, updater):
            pass

    step()
    times = interleaved({"step": step, "look": look, "update": update, "masks": looks.masks}, device, rounds=20)
    rounds = [dict(zip(times, one, strict=True)) for one in zip(*times.values(), strict=True)]
    shares = [(20 * one["look"] + 2 * one["update"] + one["masks"]) / (195 * one["step"]) for one in rounds]
    return {"diagnostics": shares}


def training(device: torch.device, data_dir: str) -> dict[str, list[float]]:
    """CIFAR-100 images, from the data set to the end of the step; the DataLoader's workers fetch ahead."""
    cases = {f"dense eager loop, {workers} workers": plain_loop(device, data_dir, workers) for workers in (0, 2)}
    cases["ours, fp32"] = entrypoint(device, data_dir)
    cases["ours, bf16 + channels_last"] = entrypoint(device, data_dir, "amp=bf16", "channels_last=true")
    times = interleaved(cases, device, rounds=5)
    return {name: [seconds / STEPS / BATCH for seconds in rounds] for name, rounds in times.items()}


def packed(device: torch.device, data_dir: str) -> dict[str, list[float]]:
    """The same with bfloat16 and one CPU thread, several runs side by side: each run's share of the time."""
    counts = (1, 2, 4, 8, 16) if device.type == "cuda" else (1, 2)
    return {f"{runs} at a time": [seconds_per_image(device, data_dir, runs) for _ in range(3)] for runs in counts}


def stacked(device: torch.device) -> dict[str, list[float]]:
    """Forward and backward of four ResNet20 x1 in one process, 64 images each, fp32: one after another, on a
    GPU also each in a CUDA stream of its own, or stacked by `torch.func` into one network of grouped convolutions."""
    models = [network(device) for _ in range(4)]
    images, labels = torch.randn(4, 64, 3, 32, 32, device=device), torch.randint(100, (4, 64), device=device)
    state = stack_module_state(models)

    def loss(state: tuple, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(models[0], state, (images,)), labels)

    def one_after_another() -> None:
        for model, *batch in zip(models, images, labels, strict=True):
            F.cross_entropy(model(batch[0]), batch[1]).backward()

    def in_streams() -> None:
        for stream, model, *batch in zip(streams, models, images, labels, strict=True):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                F.cross_entropy(model(batch[0]), batch[1]).backward()
        for stream in streams:
            torch.cuda.current_stream().wait_stream(stream)

    cases = {"one after another": one_after_another}
    if device.type == "cuda":
        streams = [torch.cuda.Stream() for _ in models]
        cases["a stream each"] = in_streams
    cases["stacked"] = lambda: vmap(loss)(state, images, labels).sum().backward()
    return interleaved(cases, device, rounds=10)


def memory(device: torch.device) -> dict[str, list[float]]:
    """Memory held between two steps besides weights and gradients: momentum, masks and working buffers."""
    makers = {"dense SGD, fused": lambda model: torch.optim.SGD(model.parameters(), **SGD, fused=True)}
    makers |= {name: lambda model, slots=slots: ours(model, slots()) for name, slots in OURS.items()}
    held = {}
    for name, make in makers.items():
        model = network(device)
        before = _bytes()
        optimizer = make(model)
        optimizer.step()
        held[name] = [(_bytes() - before) / sum(p.numel() for p in model.parameters())]
        del optimizer, model
    return held


def _bytes() -> int:
    """Of all tensors there are, each storage counted once."""
    gc.collect()
    storages = [found.untyped_storage() for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
