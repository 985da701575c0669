"""Is a sparse network faster, or at least smaller? Dense weights against compressed sparse rows."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import interleaved
from sparse_train.models.compressed import compress, size
from sparse_train.models.init import kaiming_normal
from sparse_train.models.resnet_cifar import ResNet20
from sparse_train.sparsity.topology import Topology

SPARSITIES = (0.9, 0.95, 0.97, 0.99)


def convolutions_1(device: torch.device) -> dict[str, list[float]]:
    """ResNet20 x1, ERK, one image of 32x32; bf16 has channels last."""
    return _times(_resnet, torch.randn(1, 3, 32, 32), device)


def convolutions_64(device: torch.device) -> dict[str, list[float]]:
    """The same, 64 images at once."""
    return _times(_resnet, torch.randn(64, 3, 32, 32), device)


def linear_1(device: torch.device) -> dict[str, list[float]]:
    """Three linear layers of 2048 x 2048 with ReLU, ERK, one input."""
    return _times(_linear, torch.randn(1, 2048), device)


def linear_64(device: torch.device) -> dict[str, list[float]]:
    """The same, 64 inputs at once."""
    return _times(_linear, torch.randn(64, 2048), device)


def sizes(device: torch.device) -> dict[str, list[float]]:
    """Parameters and buffers of ResNet20 x1 as they are stored; CSR counts its indices."""
    models = {"dense fp32": _resnet(), "dense bf16": _resnet().bfloat16(), **_compressed(_resnet, device)}
    return {name: [float(size(model))] for name, model in models.items()}


def _times(make: Callable[[], nn.Module], x: Tensor, device: torch.device) -> dict[str, list[float]]:
    x = x.to(device)
    cases = {"dense fp32": _run(make().to(device), x)}
    layout = {"memory_format": torch.channels_last} if x.ndim == 4 else {}
    cases["dense bf16"] = _run(make().to(device, torch.bfloat16, **layout), x.to(torch.bfloat16, **layout))
    cases |= {name: _run(model, x) for name, model in _compressed(make, device).items()}
    return interleaved(cases, device, rounds=20, calls=2)


def _compressed(make: Callable[[], nn.Module], device: torch.device) -> dict[str, nn.Module]:
    found = {}
    for sparsity in SPARSITIES:
        model = make().to(device)
        found[f"CSR fp32, {sparsity:.0%}"] = compress(model, Topology(model, sparsity).masks)
    return found


def _run(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    return torch.inference_mode()(lambda: model(x))


def _resnet() -> nn.Module:
    model = ResNet20(100).eval()
    kaiming_normal(model, 0)
    return model


def _linear() -> nn.Module:
    layers = [layer for _ in range(3) for layer in (nn.Linear(2048, 2048, bias=False), nn.ReLU())]
    return nn.Sequential(*layers).eval()
