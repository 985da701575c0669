"""Which weights exist."""

import warnings
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from sparse_train.errors import MaskMismatchError, require, require_one_of
from sparse_train.randomness import generator
from sparse_train.sparsity.density import allotted
from sparse_train.sparsity.layers import by_input, last_weight, normalizations, parameters, sparse_parameters
from sparse_train.sparsity.masks import INITIAL, checksum


class Topology:
    """One boolean mask for every sparse weight of a model, the weights being stored already masked.

    The model's forward pass is left alone, so `torch.compile`, DDP and foreign models need nothing special, and after
    `backward()` a weight's `.grad` is the *dense* gradient. `SparseSGD` keeps masked weights at 0.

    The weights of linear and convolution layers are sparse (first convolution, shortcuts and classifier too; also
    frozen ones), and those that attention packs into one. Embeddings, positions, tokens and transposed convolutions
    are not. `include` and `exclude` name others.

    Args:
        model: its parameters are masked in place. The topology keeps references to them and follows them to another
            device, dtype or memory format. It does not know of copies: make it after `copy.deepcopy(model)`, and call
            `apply` after `model.load_state_dict`.
        sparsity: the share of zeros among all weights of the sparse tensors, in [0, 1); met to the weight by `targets`.
        distribution: "erk" or "uniform" (`sparsity.density`); or densities, pattern -> density, and `sparsity` None.
        seed: of the initial masks.
        exclude: names or patterns (`fnmatch`) of parameters to keep dense and out of the count; "first_conv" is the
            first convolution.
        include: the same of other parameters to make sparse, with two or more dimensions. If their layer is not one of
            torch's, each of their rows is taken for a neuron, with a warning.
        initial: the first masks (`sparsity.masks`): "random", with exactly as many weights as asked for;
            "constant_fan_in", as many in every neuron; or "dense", all, for methods that prune.

    Attributes:
        masks: parameter name -> BoolTensor of the parameter's shape, True where the weight exists. Read it; to
            change a mask call `replace`.
        weights: parameter name -> the parameter itself. Names are those of the bare model: the prefixes of
            `torch.compile` and DDP are left out.
        targets: parameter name -> active weights that sparsity and distribution ask for.
        counts: parameter name -> active weights, which only some methods' updates change.
        ablates: whether a neuron without weights is no longer one of its layer, as a method says that takes neurons
            away (`sparsity.methods.srigl`).
        outputs: name of the model's last weight, whose neurons are its outputs.
        by_neuron: names of the sparse weights whose rows are neurons: all but embeddings and transposed convolutions.
        normalized: names of the sparse weights whose layer is followed by a normalization layer.
        visited: parameter name -> which weights have been active so far, the initial masks included.
        version: grows by one whenever a mask is replaced, for those who cache what follows from the masks.
        trained: names of the weights that a step or an update has had a gradient for.

    Raises:
        ConfigError: for a sparsity that cannot be met, an unknown distribution, a pattern that matches nothing, a
            model without a sparse tensor, or weights that cannot be masked (lazy, complex, split by `fully_shard`).
        MaskMismatchError: for a model that is trained at this sparsity already: new masks would take weights from it.
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: float | None,
        distribution: str | Mapping[str, float] = "erk",
        seed: int = 0,
        exclude: str | Sequence[str] = (),
        include: str | Sequence[str] = (),
        initial: str = "random",
    ):
        require_one_of("initial", initial, INITIAL)
        self.weights = sparse_parameters(model, _listed(include), _listed(exclude))
        shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        transposed = by_input(model)
        self.outputs = last_weight(model)
        self.by_neuron = [name for name, weight in self.weights.items() if weight not in transposed]
        self.initial, self.ablates = initial, False
        others = [name for name in self.weights if name not in self.by_neuron]
        right = f"needs rows that are neurons; exclude {', '.join(others)}"
        require(initial != "constant_fan_in" or not others, "initial", initial, right)
        self.targets = allotted(shapes, distribution, sparsity)
        self.masks, self.counts = {}, {}
        for name, weight in self.weights.items():
            mask, count = INITIAL[initial](shapes[name], self.targets[name], generator(seed, "mask", name))
            self.masks[name], self.counts[name] = _like(mask, weight), count
        self.normalized = [name for name in normalizations(model) if name in self.masks]
        self.visited = {name: mask.clone() for name, mask in self.masks.items()}
        self.version, self.trained, self._told = 0, set(), False
        self._require_untrained()
        self.apply()
        self.agreed = False  # somebody may load a model's state alone

    def replace(self, name: str, mask: Tensor, count: int | None = None) -> None:
        """Make `mask` the mask of one weight, zero what it switches off or on, and count it as visited.

        Args:
            mask: of the weight's shape.
            count: its active weights, if known: spares waiting for the device.
        """
        if mask.shape != self.weights[name].shape:
            raise ValueError(f"{name}: a mask of shape {tuple(mask.shape)} for {tuple(self.weights[name].shape)}")
        weight, old = self.weights[name], self.masks[name]
        self.masks[name] = _like(mask, weight)
        self.counts[name] = int(mask.sum()) if count is None else count
        self.visited[name] |= self.masks[name]
        self.version += 1
        with torch.no_grad():
            weight.mul_(self.masks[name] & old.to(weight.device))
        self._written[name] = _writes(weight)

    @torch.no_grad()
    def apply(self) -> None:
        """Set every masked weight to 0."""
        self.follow()
        for name, weight in self.weights.items():
            weight.mul_(self.masks[name])
        self.agreed = True
        self.note()

    def note(self) -> None:
        """Take the weights as they are now for our own work: what is written from here on is others'."""
        self._written = {name: _writes(weight) for name, weight in self.weights.items()}

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> None:
        """Set the masked weights of another model of the same structure to 0, such as an average of weights over steps.

        That average holds what weights were before they were dropped, so it is denser than the model. It may be
        wrapped, as `torch.optim.swa_utils.AveragedModel` wraps it.

        Raises:
            ConfigError: for a model without one of the weights.
        """
        others = parameters(model)
        for name, mask in self.masks.items():
            same = name in others and others[name].shape == mask.shape
            require(
                same, "model", type(model).__name__, f"has no {name} of shape {tuple(mask.shape)}, as the masks have"
            )
        for name, mask in self.masks.items():
            others[name].mul_(mask.to(others[name].device))

    def follow(self) -> None:
        """Bring the masks to where the weights are now, should the model have moved."""
        for name, weight in self.weights.items():
            mask = self.masks[name]
            if mask.device != weight.device or mask.stride() != weight.stride():
                self.masks[name] = _like(mask, weight)
                self.visited[name] = _like(self.visited[name], weight)
                self.version += 1

    def checksums(self) -> Tensor:
        """An int64 for each mask, on the device of the first."""
        sums = [checksum(mask) for mask in self.masks.values()]
        return torch.stack([one.to(sums[0].device) for one in sums])

    def _shapes_alone(self) -> bool:
        return any(weight.is_meta or hasattr(weight, "fake_mode") for weight in self.weights.values())

    def _require_untrained(self) -> None:
        if self._shapes_alone():
            return
        sizes = {name: int(weight.count_nonzero()) for name, weight in self.weights.items()}
        if any(size > self.counts[name] for name, size in sizes.items()):
            return
        for name, lost in self._lost(self.masks).items():
            if lost:
                found = f"{name} has {sizes[name]} weights, of which new random masks would take {lost}"
                right = "make the topology of the untrained model, then load what was trained"
                raise MaskMismatchError(f"the model is sparse already: {found}; {right}")

    @torch.no_grad()
    def _lost(self, masks: dict[str, Tensor]) -> dict[str, int]:
        """How many weights these masks would set to 0; what is not a number is none."""
        return {n: int((w.isfinite() & (w != 0) & ~masks[n].to(w.device)).sum()) for n, w in self.weights.items()}

    def require_pruned(self, gradual: bool) -> None:
        """Raise a `ConfigError` if it starts from dense masks that no `gradual` method prunes to its sparsity."""
        pruned = gradual or self.initial != "dense" or self.counts == self.targets
        require(pruned, "topology.initial", "dense", "needs a method that prunes, such as dst=gmp; choose random")

    def densities(self) -> dict[str, float]:
        """The realised density of each sparse tensor, counted in its mask."""
        return {name: int(mask.sum()) / mask.numel() for name, mask in self.masks.items()}

    def sparsity(self) -> float:
        """The realised share of zeros among all weights of the sparse tensors, counted in the masks."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(mask.sum()) for mask in self.masks.values()) / total

    def itop_rate(self) -> float:
        """In-time over-parameterization (Liu et al. 2021), in [0, 1]; a layer that is kept dense counts as explored.

        R_m = |union of all masks so far, the initial one included| / |all weights of the sparse tensors|
        """
        total = sum(mask.numel() for mask in self.visited.values())
        return sum(int(mask.sum()) for mask in self.visited.values()) / total

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"masks": dict(self.masks), "visited": dict(self.visited)}

    def restore(self, state: dict[str, dict[str, Tensor]] | None) -> None:
        """Take over what an optimizer's state brings along. Weights stay; the model's state may come before or after.

        Args:
            state: None, from an optimizer that had no masks, for the masks that there are.
        """
        self.agreed = False
        if state is not None:
            self._take(state)
            self.trained = set(self.weights)

    @torch.compiler.disable
    def require_agreement(self) -> None:
        """Check before the first step, and again after each load, that the masks would not zero a nonzero weight.

        Later, warn once if other code wrote such weights, which the step or update that follows sets to 0. Version
        counters show that it wrote, so that a step waits for the device only then; writes to `weight.data` they miss.

        Raises:
            MaskMismatchError: names the first tensor with such weights; they are as they were.
        """
        ours = self._told or all(_writes(weight) == self._written[name] for name, weight in self.weights.items())
        if (self.agreed and ours) or self._shapes_alone():
            return
        if not self.agreed:
            if name := next((n for n, lost in self._lost(self.masks).items() if lost), None):
                found = f"{name} has nonzero weights off its mask"
                right = "load model and optimizer from one checkpoint (an optimizer other than SparseSGD after making"
                right += " its Updater), or call topology.apply() to set these weights to 0"
                raise MaskMismatchError(f"{found}: {right}")
            self.agreed = True
        elif lost := {name: count for name, count in self._lost(self.masks).items() if count}:
            self._told = True
            found = f"{sum(lost.values())} nonzero weights off the masks, in {named(lost)}"
            right = "with the model's state load the optimizer's of the same checkpoint, which has the masks"
            warnings.warn(f"other code wrote {found}: they are set to 0 now; {right}", stacklevel=2)

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over masks and visited weights; the weights themselves come with the model's own state."""
        self._take(state)
        self.apply()

    def _take(self, state: dict[str, dict[str, Tensor]]) -> None:
        if {n: m.shape for n, m in state["masks"].items()} != {n: m.shape for n, m in self.masks.items()}:
            raise ValueError("the saved masks belong to a model with other sparse tensors")
        for name, weight in self.weights.items():
            self.masks[name] = _like(state["masks"][name], weight)
            self.counts[name] = int(self.masks[name].sum())
            self.visited[name] = _like(state["visited"][name], weight)
        self.version += 1


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _like(mask: Tensor, weight: Tensor) -> Tensor:
    """The mask on the weight's device and in its memory layout, so that products of the two run at full speed."""
    return torch.empty_like(weight, dtype=torch.bool).copy_(mask)


def named(names: Collection[str]) -> str:
    """`conv1.weight`, or `conv1.weight and 53 more`."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{next(iter(names))}{more}"


def _writes(weight: Tensor) -> int:
    """How often a weight has been written to: its version counter, which inference tensors do not have."""
    return 0 if weight.is_inference() else weight._version
