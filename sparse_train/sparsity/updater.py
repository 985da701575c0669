"""When a method changes the masks, and the checks that make it safe."""

import warnings
from collections.abc import Callable
from math import ceil, cos, pi
from numbers import Integral

import torch
from torch import Tensor

from sparse_train.errors import ConfigError, DivergedError, MaskMismatchError, require, require_one_of
from sparse_train.process.distributed import Ranks, present
from sparse_train.sparsity.foreign import Adopted, Attached, require_trains, saved_with
from sparse_train.sparsity.method import Layer, Method, overrides, owner, require_method
from sparse_train.sparsity.topology import Topology, named


def cosine(fraction: float, progress: float) -> float:
    """RigL's decay (Evci et al. 2020, Section 3): fraction / 2 * (1 + cos(pi * progress)), 0 at progress 1."""
    return fraction / 2 * (1 + cos(pi * progress))


def constant(fraction: float, progress: float) -> float:
    """The same share at every update."""
    return fraction


def linear(fraction: float, progress: float) -> float:
    """fraction * (1 - progress): the "inverse power" of Evci et al. 2020 with k = 1."""
    return fraction * (1 - progress)


def inverse_power(fraction: float, progress: float) -> float:
    """fraction * (1 - progress)^3: the same with k = 3, the cube by which Zhu & Gupta (2017) prune."""
    return fraction * (1 - progress) ** 3


DECAYS: dict[str, Callable[[float, float], float]] = {
    "cosine": cosine,
    "constant": constant,
    "linear": linear,
    "inverse_power": inverse_power,
}


class Updater:
    """A method, applied on a schedule.

    At step t (counted from 0) with `t > 0`, `t % every == 0` and `t_0 <= t < t_1`, the method drops weights and grows
    others (`sparsity.method`); t_0 and t_1 are `start_fraction` and `stop_fraction` of `total_steps`. The share f_t of
    weights that it replaces decays from `drop_fraction`, its progress being (t - t_0) / (t_1 - t_0).

    A grown weight starts at 0 with zero momentum. One dropped and regrown in the same update has not left the network
    and keeps both, as in the RigL authors' code and jaxpruner.

    Args:
        topology, optimizer: what to change. The weights' `.grad` must be that of the current step; with a
            `GradScaler`, call its `unscale_(optimizer)` before `update`. An optimizer that is not a `SparseSGD` is
            made to keep masked weights, and its state of them, at 0 (`sparsity.foreign`).
        method: such as `RigL()` or `SET()` (`sparsity.methods`). If it observes gradients, call `observe` in every
            step. The optimizer's `state_dict` has its state.
        total_steps: steps of the whole run, at least 1.
        drop_fraction: f_0 in [0, 1].
        every: steps between updates, at least 1.
        stop_fraction: share of the run after which the topology stays, in [0, 1].
        decay: "cosine", "constant", "linear" or "inverse_power"; or a function of `drop_fraction` and progress.
        skip_step: leave out the optimizer's step where the topology is updated. The loop acts on it, not this class.
        seed: of random growth scores.
        start_fraction: share of the run before the first update, in [0, stop_fraction].

    Attributes:
        prunes: whether weights become fewer while the network trains.
        plan: weight name -> how many weights the last update dropped, and how many it grew.

    Raises:
        ConfigError: for arguments out of range, or a method, a topology and an optimizer that do not fit together.
    """

    def __init__(
        self,
        topology: Topology,
        optimizer: torch.optim.Optimizer,
        method: Method,
        total_steps: int,
        drop_fraction: float = 0.3,
        every: int = 100,
        stop_fraction: float = 0.75,
        decay: str | Callable[[float, float], float] = "cosine",
        skip_step: bool = True,
        seed: int = 0,
        start_fraction: float = 0.0,
    ):
        right = "must be a Topology; the order is Updater(topology, optimizer, method, total_steps)"
        require(isinstance(topology, Topology), "topology", type(topology).__name__, right)
        require_method(method)
        require(0 <= drop_fraction <= 1, "drop_fraction", drop_fraction, "must be in [0, 1]: active weights to replace")
        counted = isinstance(total_steps, Integral) and total_steps > 0
        require(counted, "total_steps", total_steps, "must be a whole number above 0")
        counted = isinstance(every, Integral) and every >= 1
        require(counted, "every", every, "must be a whole number of at least 1: steps between mask updates")
        require(0 <= stop_fraction <= 1, "stop_fraction", stop_fraction, "must be in [0, 1]: a share of the run")
        if not callable(decay):
            require_one_of("decay", decay, DECAYS)
        right = f"must be in [0, {stop_fraction:g}]: a share of the run, before stop_fraction"
        require(0 <= start_fraction <= stop_fraction, "start_fraction", start_fraction, right)
        self.prunes = method.initial == "dense"
        topology.require_pruned(self.prunes)
        begins = method.initial or topology.initial
        own = ("nonzero", "given") if self.prunes else ("nonzero", "given", "magnitude", "global_magnitude")
        right = f"must be {begins} for this method, or of a trained model: {', '.join(own)}"
        require(topology.initial in (begins, *own), "topology.initial", topology.initial, right)
        self.drop_fraction, self.every, self.skip_step = drop_fraction, every, skip_step
        self.decay = decay if callable(decay) else DECAYS[decay]
        self.start, self.stop = start_fraction * total_steps, stop_fraction * total_steps
        self.last_update = max(ceil(self.stop / every) - 1, 0) * every
        right = f"must leave a mask update before step {self.stop:g} (stop_fraction), or nothing is pruned"
        require(self.due(self.last_update) or not self.prunes, "every", every, right)
        self.topology, self.method, self.seed = topology, method, seed
        self._given = optimizer  # `optimizer` may be a wrapper of it
        self.plan: dict[str, tuple[int, int]] = {}
        self._told: set[str] = set()  # weights whose lack of a gradient was warned of
        self.optimizer = optimizer if hasattr(optimizer, "mask_momentum") else Adopted(optimizer, topology)
        require_trains(optimizer, topology)
        topology.dense_gradients = True  # until `attach` or `ask` knows better
        method.begin(topology, optimizer)
        if overrides(method, "state_dict"):
            saved_with(optimizer, "method", method, f"the state of {owner(method.state_dict)}, so it cannot resume")

    def attach(self) -> "Updater":
        """Let the optimizer's own `step` do the updates, so that any training loop runs this method as it is.

        Do not call `update` then. `Attached` says what happens in a step; the optimizer's state has the count of steps.
        """
        Attached(self._given, self.looks, self._act, self.ask)
        if isinstance(self.optimizer, Adopted):
            self.optimizer.run_last()
        if warning := self.idle():
            warnings.warn(warning, stacklevel=2)
        return self

    def _act(self, step: int) -> bool:
        """Observe, and update where that is due; whether the optimizer's step is then to be left out."""
        self.observe(step)
        if not self.due(step):
            return False
        self.update(step)
        return self.skip_step

    def idle(self) -> str:
        """A warning if no mask update of the run replaces a weight, though some are to be replaced; else nothing."""
        first = max(ceil(self.start / self.every), 1) * self.every
        most = max(map(self.fraction, (first, self.last_update)))  # of all updates, if f_t falls or rises
        replaces = self.due(first) and most * max(self.topology.counts.values()) >= 1
        if not self.drop_fraction or self.prunes or replaces:
            return ""
        return f"every={self.every}: no mask update of this run replaces a weight, so its masks stay"

    def due(self, step: int) -> bool:
        """Whether the topology changes at this step."""
        return step > 0 and step % self.every == 0 and self.start <= step < self.stop

    def fraction(self, step: int) -> float:
        """f_t, the share of active weights to drop at this step."""
        length = self.stop - self.start
        progress = min(max(step - self.start, 0.0) / length, 1.0) if length else 1.0
        return self.decay(self.drop_fraction, progress)

    def pruning_progress(self, step: int) -> float:
        """How far a method that prunes is: 0 up to t_0, 1 from the last update of the run on."""
        length = self.last_update - self.start
        return min(max(step - self.start, 0.0) / length, 1.0) if length > 0 else 1.0

    def looks(self, step: int) -> bool:
        """Whether it has anything to do at this step: `observe`, `update` or both."""
        return self.due(step) or self.observes(step)

    def ask(self, step: int) -> None:
        """Before a step's backward pass: dense gradients only where they are looked at, of layers under `use_csr`.

        Without it, or `attach`, these layers give dense gradients at every step, which is right and slower.
        """
        always = getattr(self._given, "needs_dense_gradients", False)
        self.topology.dense_gradients = always or self.looks(step)

    def needs_dense_gradient(self, step: int) -> bool:
        """Whether the gradients of weights that do not exist are looked at in this step."""
        return self.method.needs_gradient and (self.observes(step) if self.method.observed else self.due(step))

    def planned(self, step: int) -> dict[str, float]:
        """Active weights of each layer after this step, as far as they are known before the run.

        A method that prunes is taken to prune each layer alike, and one that moves weights between layers to move none.
        """
        if not self.prunes:
            return self.topology.first
        done = self.pruning_progress(step - step % self.every)
        return {
            name: self.method.left(count, self.topology.targets[name], done)
            for name, count in self.topology.first.items()
        }

    def observes(self, step: int) -> bool:
        """Whether `observe` has anything to do in this step."""
        update = max(ceil(step / self.every), 1) * self.every
        return self.due(update) and update - step < self.method.observed

    @torch.compiler.disable
    @torch.no_grad()
    def observe(self, step: int) -> None:
        """Show the gradients of this step to the method, if it wants them; before `update`, with gradients unscaled."""
        if self.observes(step):
            grads = {name: weight.grad for name, weight in self.topology.weights.items() if weight.requires_grad}
            seen = {name: self.topology.rows(name, grad) for name, grad in grads.items() if grad is not None}
            self.method.observe(seen)

    @torch.compiler.disable
    @torch.no_grad()
    def update(self, step: int) -> bool:
        """Drop and grow in every layer, then clear the momentum of what was dropped.

        Frozen weights keep their masks. All masks stay if a gradient is not finite. Returns whether masks were updated.

        A layer that this step's loss did not use (LayerDrop, an auxiliary head) has no gradient: under a method that
        needs one it replaces no weight in this update, with one warning; its f_t is 0. Under others it is as all are.

        Raises:
            DivergedError: a weight is not finite. Masks are as they were.
            ConfigError: the method gives a score or a mask of another shape than the weight's, a NaN score while all
                gradients are finite, or numbers that a layer cannot drop and grow; or the optimizer does not train a
                weight, unfrozen since. Masks are as they were.
            RuntimeError: a weight has never had a gradient, or no parameter has one now; or there is no average.
            MaskMismatchError: on every rank, if their masks differ now, as their gradients were not averaged.
        """
        require_trains(self._given, self.topology)
        self.topology.require_agreement()
        self.topology.follow()
        unused = self._unused(step)
        layers, masks, extremes = self._layers(step, unused), {}, []
        self.plan = self._planned(layers, unused) if layers else {}
        for name, plan in self.plan.items():
            if name in unused and plan == (0, 0):
                continue
            layer = layers[name]
            masks[name] = self._selected(layer, *plan)
            seen = {"weight": layer.weight, "gradient": layer.gradient}
            seen |= {"drop_score": layer.drop_score.where(layer.mask, 0), "growth_score": layer.growth_score}
            extremes += [(name, kind, end) for kind, one in seen.items() if one is not None for end in one.aminmax()]
        ranks = present()
        if not finite(extremes, self.topology, self.method, step, ranks):
            return False
        counts = {name: self._counted(layers[name], mask) for name, mask in masks.items()}
        warn_of_starved(layers, counts, step)
        for name, mask in masks.items():
            self.topology.replace(name, self.topology.rows(name, mask), counts[name])
            self.method.replaced(layers[name], mask)
        self.optimizer.mask_momentum()
        require_same_masks(self.topology, step, ranks)
        return True

    def _unused(self, step: int) -> set[str]:
        """The trained weights without a gradient on some rank, where the method needs one."""
        ranks, weights = present(), self.topology.weights
        self.topology.trained.update(name for name, weight in weights.items() if weight.grad is not None)
        backward = any(p.grad is not None for group in self._given.param_groups for p in group["params"])
        lacks = [
            (weight.requires_grad and weight.grad is None) * (1 if backward and name in self.topology.trained else 2)
            for name, weight in weights.items()
        ]
        if ranks.world > 1:  # all keep the same masks, or raise the same error
            lacks = ranks.max(torch.tensor(lacks, device=next(iter(weights.values())).device)).tolist()
        if never := next((name for name, lack in zip(weights, lacks, strict=True) if lack == 2), None):
            raise RuntimeError(
                f"{never} has no gradient to update its mask by at step {step}: call backward first; exclude a layer"
                " that the loss does not use; make the topology again if the layer was replaced after it"
            )
        if not (self.method.needs_gradient or self.method.observed):
            return set()
        unused = {name for name, lack in zip(weights, lacks, strict=True) if lack}
        if new := [name for name in weights if name in unused - self._told]:
            self._told |= unused
            said = "this step's loss does not use it, or the layer was replaced; its mask stays in such an update"
            warnings.warn(f"no gradient at the mask update of step {step} in {named(new)}: {said}", stacklevel=5)
        return unused

    def _layers(self, step: int, unused: set[str]) -> dict[str, Layer]:
        """What the method sees of the weights that are trained."""
        layers = {}
        for name, weight in self.topology.weights.items():
            if not weight.requires_grad:
                continue
            if weight.grad is not None and weight.grad.is_sparse:
                raise RuntimeError(
                    f"{name} has the gradient of its existing weights alone at step {step}: call updater.ask(step)"
                    " before backward, or set topology.dense_gradients = True"
                )
            layer = Layer(
                name=name,
                weight=self.topology.rows(name, weight),
                gradient=self.topology.rows(name, torch.zeros_like(weight) if weight.grad is None else weight.grad),
                mask=self.topology.rows(name, self.topology.masks[name]),
                count=self.topology.counts[name],
                first=self.topology.first[name],
                target=self.topology.targets[name],
                fraction=0.0 if name in unused else self.fraction(step),
                progress=self.pruning_progress(step),
                output=name == self.topology.outputs,
                method=self.method,
                seed=self.seed,
                step=step,
            )
            layers[name] = layer if name in unused else self.method.seen(layer)
        return layers

    def _planned(self, layers: dict[str, Layer], unused: set[str]) -> dict[str, tuple[int, int]]:
        """How many weights the method drops and grows, in numbers that each layer can."""
        plan, keeps = self.method.counts(layers), self.method.keeps_counts
        if keeps:
            plan.update(dict.fromkeys(unused, (0, 0)))
        for name, (dropped, grown) in plan.items():
            count = layers[name].count if name in layers else 0
            room = layers[name].mask.numel() - count if name in layers else 0
            fits = type(dropped) is type(grown) is int and 0 <= dropped <= count and 0 <= grown <= room + dropped
            if not fits or (keeps and dropped != grown):
                rule = "as many as it drops, since it keeps_counts" if keeps else f"{room} more than it drops"
                right = f"must drop at most {count} weights of {name} and grow {rule}, in whole numbers"
                given = f"not drop {dropped!r} and grow {grown!r}"
                raise ConfigError("method", owner(self.method.counts), f"{right}, {given}")
        return plan

    def _selected(self, layer: Layer, dropped: int, grown: int) -> Tensor:
        """The layer's new mask."""
        right = f"must have a growth_score where it grows weights, {grown} of {layer.name}"
        require(layer.growth_score is not None or not grown, "method", owner(self.method.growth_score), right)
        mask = self.method.select(layer, dropped, grown)
        fits = isinstance(mask, Tensor) and mask.shape == layer.mask.shape and mask.dtype == torch.bool
        right = f"must select a boolean mask of {tuple(layer.mask.shape)} for {layer.name}"
        require(fits, "method", owner(self.method.select), right)
        return mask

    def _counted(self, layer: Layer, mask: Tensor) -> int:
        """How many weights the new mask has: known by the plan, unless the method selects in its own way."""
        dropped, grown = self.plan[layer.name]
        known = layer.count - dropped + grown
        if not overrides(self.method, "select"):
            return known
        found = int(mask.sum())
        right = f"must select {known} weights of {layer.name}, not {found}, since it keeps_counts"
        require(found == known or not self.method.keeps_counts, "method", owner(self.method.select), right)
        return found


def warn_of_starved(layers: dict[str, Layer], counts: dict[str, int], step: int) -> None:
    """Warn of layers that an update leaves with one weight or none, as one may that moves weights between layers.

    Such a layer may stay so to the end: growth in proportion to the weights that it has gives it nothing.
    """
    starved = [name for name, count in counts.items() if count < min(layers[name].count, 2)]
    if starved:
        said = ", ".join(f"{counts[name]} of the {layers[name].mask.numel()} weights of {name}" for name in starved)
        right = "exclude such a layer to keep it dense, or ask for less sparsity"
        warnings.warn(f"the mask update of step {step} leaves {said}: {right}", stacklevel=5)


def finite(
    extremes: list[tuple[str, str, Tensor]], topology: Topology, method: Method, step: int, ranks: Ranks
) -> bool:
    """Whether all weights, gradients and scores are, on all ranks: waits for the device once; warns of a gradient.

    Args:
        extremes: (layer, "weight", "gradient", "drop_score" or "growth_score", the smallest or largest number).

    Raises:
        DivergedError: for a weight that is not; with the cause where the weight does not exist, so was 0.
        ConfigError: for a score that is not, though all gradients are.
    """
    if not extremes:  # nothing is trained
        return True
    device = extremes[0][2].device
    bad = ~torch.stack([value.float().to(device) for *_, value in extremes]).isfinite()
    found = [extremes[place][:2] for place in ranks.max(bad.int()).nonzero()[:, 0].tolist()]
    for name, kind in found:
        if kind == "weight":
            off = int((~topology.weights[name].isfinite() & ~topology.masks[name]).sum())
            cause = f": {off} of its weights are off the mask, where a gradient was inf or NaN" if off else ""
            raise DivergedError(f"{name} is not finite at the mask update of step {step}{cause}")
    if name := next((name for name, kind in found if kind == "gradient"), None):
        said = f"its gradient is not finite at the mask update of step {step}: masks stay as they are"
        warnings.warn(f"{name}: {said}, as under a GradScaler that skips the step", stacklevel=5)
    elif found:
        name, kind = found[0]
        right = f"{kind} must not be NaN, as for {name} at step {step}"
        raise ConfigError("method", owner(getattr(method, kind)), right)
    return not found


def require_same_masks(topology: Topology, step: int, ranks: Ranks) -> None:
    """All ranks must have the same masks: compare a checksum of each.

    Raises:
        MaskMismatchError: on every rank, with the layer's name.
    """
    if ranks.world > 1:
        sums = ranks.gathered(topology.checksums())
        for name, differs in zip(topology.masks, (sums != sums[0]).any(0).tolist(), strict=True):
            if differs:
                raise MaskMismatchError(
                    f"the processes have different masks for {name} after the update at step {step}: update where"
                    " gradients have just been averaged, so not within no_sync, and with one seed"
                )
