"""A run: all its parts, assembled from a configuration, and what the loop asks of them together."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from warnings import catch_warnings, filterwarnings

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparse_train.data.memory import Data, Loading
from sparse_train.errors import require
from sparse_train.models.init import kaiming_normal, lecun_normal, over_sqrt_c, own_fan_in
from sparse_train.models.weights import load_weights
from sparse_train.optim.sgd import SparseSGD
from sparse_train.options.names import from_trained, run_name
from sparse_train.options.targets import blamed, make
from sparse_train.process.console import say
from sparse_train.process.distributed import Ranks
from sparse_train.randomness import derive
from sparse_train.record.metadata import choices, metadata
from sparse_train.sparsity.csr import CSR, DENSE, use_csr
from sparse_train.sparsity.flops import layer_flops, relative_flops
from sparse_train.sparsity.topology import Topology
from sparse_train.sparsity.updater import Updater
from sparse_train.train.device import pick_device, set_up_torch
from sparse_train.train.diagnostics import Diagnostics
from sparse_train.train.graph import StepGraph
from sparse_train.train.meter import Meter

GRAPH = "graph"  # of `execution`: an ordinary step as one CUDA graph
DRAWN = {"lecun_normal": lecun_normal}  # others begin as kaiming_normal
SCALED = {"own_fan_in": own_fan_in, "over_sqrt_c": over_sqrt_c}  # initial weights that depend on the masks

# The DDP option that keeps buffers local to each rank has another name in later versions of torch.
BUFFERS = next(
    key for key in ("forward_sync_buffers", "broadcast_buffers") if key in signature(DistributedDataParallel).parameters
)


@dataclass
class Run:
    """All parts of one run, as `build` assembles them.

    Attributes:
        forward: the model as it is called: compiled, parallel, or the model itself.
        updater: None where the topology stays as it is.
        schedule: step -> learning rate.
        autocast: whether forward passes run in bfloat16.
        label_smoothing: in training, the share of each target that is spread over all classes.
        metadata: what the record says of the run besides its results.
        trained: whether it starts from a trained model.
        graph: replays ordinary steps, with `execution=graph`.
    """

    epochs: int
    seed: int
    data: Data
    model: nn.Module
    forward: nn.Module
    topology: Topology
    optimizer: SparseSGD
    updater: Updater | None
    schedule: Callable[[int], float]
    device: torch.device
    memory_format: torch.memory_format
    autocast: bool
    metadata: dict
    label_smoothing: float = 0.0
    trained: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    graph: StepGraph | None = None

    def meter(self) -> Meter:
        return Meter(self.device, self.ranks)

    @cached_property
    def diagnostics(self) -> Diagnostics:
        return Diagnostics(self.model, self.topology, self.optimizer)

    @torch.no_grad()
    def average_statistics(self) -> None:
        """Average the running statistics over ranks: each rank trains with its own, and all ranks test one network."""
        if self.ranks.world > 1:
            for statistic in self.statistics().values():
                statistic.copy_(self.ranks.sum(statistic) / self.ranks.world)

    def statistics(self) -> dict[str, Tensor]:
        """The running statistics of batch normalization, by name."""
        return {name: buffer for name, buffer in self.model.named_buffers() if buffer.is_floating_point()}

    def set_lr(self, step: int) -> None:
        """Give every parameter group the learning rate of this step, times its `lr_scale` if it has one."""
        for group in self.optimizer.param_groups:
            lr = float(self.schedule(step)) * group.get("lr_scale", 1)
            if self.graph is None:
                group["lr"] = lr
            elif isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = torch.tensor(lr, device=self.device)

    def ask_for_gradients(self, step: int, dense: bool) -> None:
        """Before a step's backward pass: gradients of weights that do not exist only where something looks at them."""
        looked_at = dense or self.optimizer.needs_dense_gradients
        self.topology.dense_gradients = looked_at or not self.leaves_masks(step)

    def leaves_masks(self, step: int) -> bool:
        """Whether masks stay, and no method looks at gradients."""
        return self.updater is None or not self.updater.looks(step)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy, to smoothed targets in training, and the number of correct answers."""
        images = images.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.forward(images)
        smoothing = self.label_smoothing if self.model.training else 0.0
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        return loss, (logits.detach().argmax(1) == labels).sum()

    def state_dict(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer}  # the topology is part of the optimizer's state
        renorm = self.optimizer.renorm
        return {name: part.state_dict() for name, part in parts.items()} | (
            {} if renorm is None else {"renorm": renorm.state_dict()}
        )

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.optimizer.renorm is not None:
            self.optimizer.renorm.load_state_dict(state["renorm"])


def build(cfg: DictConfig, ranks: Ranks | None = None) -> Run:
    """Every part of the run that `cfg` describes, in its initial state.

    Args:
        ranks: the processes of the run; None: this one alone.

    Raises:
        ConfigError: for whatever in `cfg` cannot work, naming its key.
    """
    ranks = ranks or Ranks()
    device = pick_device(cfg, ranks)
    set_up_torch(cfg, device)
    data = make(cfg, "dataset", loading(cfg, device, ranks))
    memory_format = torch.channels_last if cfg.channels_last else torch.contiguous_format

    sizes = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    with torch.random.fork_rng(devices=[]):  # `init` leaves some parameters as a constructor draws them
        torch.manual_seed(derive(cfg.seed, "model"))
        model = make(cfg, "model", **sizes)
    trained = from_trained(cfg)
    if not cfg.model.get("pretrained"):
        DRAWN.get(cfg.init, kaiming_normal)(model, cfg.seed)
    if cfg.model.get("weights"):
        new = load_weights(model, cfg.model.weights)
        if new and ranks.main:
            say(f"{', '.join(new)}: of {sizes['num_classes']} classes, which {cfg.model.weights} has not; drawn anew")
    if cfg.sync_bn and ranks.world > 1:
        from timm.layers import convert_sync_batchnorm  # torch's own drops the activations in timm's BatchNormAct2d

        model = convert_sync_batchnorm(model)
    model.to(device, memory_format=memory_format)
    with catch_warnings():
        if trained:  # said among the run's first lines
            filterwarnings("ignore", message=".* masks set .* weights to 0")
        topology = make(cfg, "topology", model)
    example = torch.zeros(1, data.in_channels, data.image_size, data.image_size, device=device)
    topology.example = example
    right = "scales weights that are drawn, not those of model.weights or model.pretrained; leave it out"
    require(not trained or cfg.init == "dense_fan_in", "init", cfg.init, right)
    if cfg.init in SCALED:
        SCALED[cfg.init](topology)

    steps = len(data.train)
    length = {"batch_size": cfg.batch_size, "steps_per_epoch": steps, "epochs": cfg.epochs}
    schedule = make(cfg, "lr_schedule", base_lr=cfg.lr, **length)
    groups = parameter_groups(model, cfg.weight_decay_on, cfg.one_dimensional_lr)
    optimizer = make(cfg, "optimizer", groups, topology, lr=cfg.lr)
    updater = None
    if cfg.dst is not None:
        updater = make(cfg, "dst", topology, optimizer, total_steps=cfg.epochs * steps, seed=cfg.seed)
    else:
        topology.require_pruned(gradual=False)

    forward = model
    if ranks.world > 1:  # running statistics are averaged where they are used; until then each rank has its own
        forward = DistributedDataParallel(model, **{BUFFERS: False})
    if cfg.compile:
        forward = torch.compile(forward, mode=None if cfg.compile is True else cfg.compile)
    share = dense_gradient_share(optimizer, updater, cfg.epochs * steps)
    with blamed(cfg, "model"):  # it may not take images of this size
        flops = layer_flops(model, example)
        if cfg.batch_size == (1 if cfg.sync_bn else ranks.world):
            require_more_than_one_value(model, example, cfg.batch_size)
    execution = execute(cfg, model, topology, ranks, example.expand(-(-cfg.batch_size // ranks.world), -1, -1, -1))
    layers, during = final_densities(topology, updater), average_densities(topology, updater, cfg.epochs * steps)
    return Run(
        epochs=cfg.epochs,
        seed=cfg.seed,
        data=data,
        model=model,
        forward=forward,
        topology=topology,
        optimizer=optimizer,
        updater=updater,
        schedule=schedule,
        device=device,
        memory_format=memory_format,
        autocast=cfg.amp == "bf16",
        label_smoothing=cfg.label_smoothing,
        trained=trained,
        metadata={
            **metadata(cfg, run_name(cfg, choices()), device),
            **({"data": data.files} if data.files else {}),
            "processes": ranks.world,
            "execution": execution,
            "model_arguments": sizes,
            "layers": layers,
            "flops": relative_flops(flops, layers, share, during),
        },
        ranks=ranks,
        graph=StepGraph() if execution == GRAPH else None,
    )


def loading(cfg: DictConfig, device: torch.device, ranks: Ranks) -> Loading:
    """How `cfg` has its data loaded."""
    cpus = ranks.cpus()  # asked by all ranks, whatever `workers` each was given
    workers = cpus if cfg.workers is None else cfg.workers
    return Loading(cfg.data_dir, cfg.batch_size, cfg.seed, device, cfg.download, workers, ranks)


def execute(cfg: DictConfig, model: nn.Module, topology: Topology, ranks: Ranks, batch: Tensor) -> str:
    """Have linear layers run as `execution` asks, and give in words how the run's steps are computed.

    Raises:
        ConfigError: for `csr` or `graph` beside what it does not work with; for `csr` without a layer for it.
    """
    if cfg.execution == DENSE:
        return DENSE
    against = {"several processes": ranks.world > 1}
    if cfg.execution == GRAPH:
        against |= {"device=cpu": batch.device.type == "cpu", f"compile={cfg.compile}": isinstance(cfg.compile, str)}
    else:
        against |= {f"compile={cfg.compile}": cfg.compile, f"amp={cfg.amp}": cfg.amp != "none"}
    found = next((name for name, there in against.items() if there), None)
    right = f"does not work with {found}; use execution=dense"
    require(found is None or cfg.execution == "auto", "execution", cfg.execution, right)
    if found is not None or cfg.execution == GRAPH:
        return DENSE if found else GRAPH
    taken = use_csr(model, topology, if_faster_on=batch if cfg.execution == "auto" else None)
    right = "works for sparse linear layers, of which this model has none; use execution=dense"
    require(bool(taken) or cfg.execution != CSR, "execution", cfg.execution, right)
    return f"{CSR} for {', '.join(taken)}" if taken else DENSE


def require_more_than_one_value(model: nn.Module, example: torch.Tensor, batch_size: int) -> None:
    """With one image per process, a channel of one pixel is a single value, and normalization reduces it to 0.

    Raises:
        ConfigError: names the first such layer.
    """
    seen: list[str] = []

    def look(name: str) -> Callable:
        return lambda _module, inputs, _output: seen.append(name) if inputs[0][:, 0].numel() == 1 else None

    norms = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    hooks = [model.get_submodule(name).register_forward_hook(look(name)) for name in norms]
    with torch.no_grad():
        model.eval()(example)
    model.train()
    for hook in hooks:
        hook.remove()
    right = f"leaves {seen[0] if seen else ''} one value a channel to normalize; give each process two images or more"
    require(not seen, "batch_size", batch_size, right)


def parameter_groups(model: nn.Module, weight_decay_on: str, one_dimensional_lr: float = 1.0) -> list[dict]:
    """All parameters in one group; or the weights (ndim > 1), and then the others, where these are treated differently.

    Args:
        weight_decay_on: "all", or the "weights": the others then have no decay.
        one_dimensional_lr: `lr_scale` of the others, which `Run.set_lr` multiplies their learning rate by.
    """
    parameters = list(model.parameters())
    if weight_decay_on == "all" and one_dimensional_lr == 1:
        return [{"params": parameters}]
    weights: dict = {"params": [p for p in parameters if p.ndim > 1]}
    others: dict = {"params": [p for p in parameters if p.ndim <= 1]}
    if weight_decay_on == "weights":
        others["weight_decay"] = 0.0
    if one_dimensional_lr != 1:
        others["lr_scale"] = one_dimensional_lr
    return [weights, others]


def dense_gradient_share(optimizer: SparseSGD, updater: Updater | None, total_steps: int) -> float:
    """Share of the steps that need the dense gradient: for growth, or always where its norm is bounded."""
    if optimizer.renorm is not None and optimizer.renorm.over == "dense":
        return 1.0
    if updater is None:
        return 0.0
    return sum(updater.needs_dense_gradient(step) for step in range(total_steps)) / total_steps


def average_densities(topology: Topology, updater: Updater | None, steps: int) -> dict[str, float] | None:
    """Of each layer over the whole run, where its number of weights changes; else None."""
    if updater is None or not updater.prunes:
        return None
    average = dict.fromkeys(topology.masks, 0.0)
    for start in range(0, steps, updater.every):  # in between nothing changes
        part = min(updater.every, steps - start) / steps
        for name, count in updater.planned(start).items():
            average[name] += part * count / topology.masks[name].numel()
    return average


def final_densities(topology: Topology, updater: Updater | None) -> dict[str, float]:
    """Of each layer in the trained network, as far as they are known before."""
    if updater is None or not updater.prunes:
        return topology.densities()
    return {name: count / topology.masks[name].numel() for name, count in topology.targets.items()}
