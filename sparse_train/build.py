"""Assembly: from a configuration to the parts of a run."""

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sparse_train.data.memory import Loading
from sparse_train.environment import describe
from sparse_train.errors import require
from sparse_train.loop import Run
from sparse_train.models.init import kaiming_normal, own_fan_in
from sparse_train.sparsity.flops import layer_flops, relative_flops
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.targets import make


def build(cfg: DictConfig) -> Run:
    """Every part of the run that `cfg` describes, in its initial state.

    Raises:
        ConfigError: for whatever in `cfg` cannot work, naming its key.
    """
    device = pick_device(cfg)
    set_up_torch(cfg)
    loading = Loading(cfg.data_dir, cfg.batch_size, cfg.seed, device, cfg.download, cfg.workers)
    data = make(cfg, "dataset", loading)
    memory_format = torch.channels_last if cfg.channels_last else torch.contiguous_format

    model = make(cfg, "model", num_classes=data.num_classes, in_channels=data.in_channels)
    kaiming_normal(model, cfg.seed)
    model.to(device, memory_format=memory_format)
    topology = make(cfg, "topology", model)
    if cfg.init == "own_fan_in":
        own_fan_in(topology)

    steps = len(data.train)
    schedule = make(cfg, "lr_schedule", batch_size=cfg.batch_size, steps_per_epoch=steps, epochs=cfg.epochs)
    optimizer = make(cfg, "optimizer", parameter_groups(model, cfg.weight_decay_on), topology)
    updater = None
    if cfg.dst is not None:
        updater = make(cfg, "dst", topology, optimizer, total_steps=cfg.epochs * steps, seed=cfg.seed)

    example = torch.zeros(1, data.in_channels, data.image_size, data.image_size, device=device)
    return Run(
        epochs=cfg.epochs,
        data=data,
        model=model,
        forward=torch.compile(model) if cfg.compile else model,
        topology=topology,
        optimizer=optimizer,
        updater=updater,
        schedule=schedule,
        device=device,
        memory_format=memory_format,
        autocast=cfg.amp == "bf16",
        facts={
            "config": {k: v for k, v in OmegaConf.to_container(cfg, resolve=True).items() if k != "artifact"},
            **describe(device),
            "layers": topology.densities(),
            "flops": flops(model, example, topology, updater, cfg.epochs * steps),
        },
    )


def pick_device(cfg: DictConfig) -> torch.device:
    if cfg.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = cfg.device != "cuda" or torch.cuda.is_available()
    require(available, "device", cfg.device, "this torch sees no CUDA device; use device=cpu or device=auto")
    return torch.device(cfg.device)


def set_up_torch(cfg: DictConfig) -> None:
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    torch.backends.cudnn.deterministic = cfg.deterministic
    torch.backends.cudnn.benchmark = not cfg.deterministic


def parameter_groups(model: nn.Module, weight_decay_on: str) -> list[dict]:
    """Parameters that weight decay pulls on ("all", or the "weights" with ndim > 1), and the others without it."""
    parameters = list(model.parameters())
    if weight_decay_on == "all":
        return [{"params": parameters}]
    weights = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


def flops(
    model: nn.Module, example: torch.Tensor, topology: Topology, updater: Updater | None, total_steps: int
) -> dict:
    """FLOPs relative to dense, in inference and over this whole run."""
    dense_gradients = 0
    if updater is not None and updater.growth.needs_gradient:
        dense_gradients = sum(updater.due(step) for step in range(total_steps))
    return relative_flops(layer_flops(model, example), topology.densities(), dense_gradients / total_steps)
