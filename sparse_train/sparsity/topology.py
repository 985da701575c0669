"""Which weights exist."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_train.errors import ConfigError, MaskMismatchError, closest, require
from sparse_train.pinned import file, is_path, tensors
from sparse_train.randomness import generator
from sparse_train.sparsity.density import allotted, apportioned
from sparse_train.sparsity.layers import by_column, by_input, last_weight, parameters, sparse_parameters
from sparse_train.sparsity.masks import INITIAL, by_layer, checksum, looks_drawn
from sparse_train.sparsity.normalized import normalized

NAMES = (*INITIAL, "global_magnitude")
RIGHT = f"must be one of {', '.join(NAMES)}; or masks, a run's directory or a file of masks"
ROUNDED = 5e-4  # a sparsity that is typed with three digits is that of the masks
SPARSE = 0.05  # a model with this share of zeros has been pruned: no draw of weights has so many
LATER = "make the topology first, if its weights are to be loaded or set to 0 later"


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
            first convolution. A pattern may match a part that has no weights, such as a
            padded shortcut.
        include: the same of other parameters to make sparse, with two or more dimensions. If their layer is not one of
            torch's, each of their rows is taken for a neuron, with a warning.
        initial: the first masks (`sparsity.masks`). Of a model that is drawn anew: "random", with exactly as many
            weights as asked for; "constant_fan_in", as many in every neuron; or "dense", all, for methods that prune.
            Of a trained model: "magnitude", the largest |w| of each layer, as many as the distribution gives it;
            "global_magnitude", the largest of the network, so the distribution is not used; "nonzero", the weights
            that are not 0; or masks of one's own, parameter name -> BoolTensor, or the path of a run's directory or
            of a file with such masks. With the last two, `sparsity` is None or that of the masks; a method that
            prunes starts from them, and then `sparsity` says where it ends.

    Attributes:
        masks: parameter name -> BoolTensor of the parameter's shape, True where the weight exists. Read it; to
            change a mask call `replace`.
        weights: parameter name -> the parameter itself. Names are those of the bare model: the prefixes of
            `torch.compile` and DDP are left out.
        targets: parameter name -> active weights that sparsity and distribution ask for, or that given masks have.
        counts: parameter name -> active weights, which only some methods' updates change.
        first: parameter name -> active weights of the first masks.
        ablates: whether a neuron without weights is no longer one of its layer, as a method says that takes neurons
            away (`sparsity.methods.srigl`).
        outputs: name of the weight whose neurons are the model's outputs; at first its last one, so set it where the
            head is registered before other layers.
        by_neuron: names of the sparse weights that have neurons: all but embeddings and transposed convolutions.
        by_column: names of those whose columns are their neurons: GPT-2's `Conv1D` (see `rows`).
        example: None, or an input of the model with its batch dimension, such as `images[:1]`: `normalized` needs it.
        visited: parameter name -> which weights have been active so far, the initial masks included.
        version: grows by one whenever a mask is replaced, for those who cache what follows from the masks.
        trained: names of the weights that a step or an update has had a gradient for.
        vectors: weight -> its vector of existing weights, where a layer multiplies only these (`sparsity.csr.use_csr`).
        dense_gradients: whether such a layer's backward gives the gradient of all weights, or of existing ones alone.

    Raises:
        ConfigError: for a sparsity that cannot be met, an unknown distribution, a pattern that matches nothing, a
            model without a sparse tensor, or weights that cannot be masked (lazy, complex, split by `fully_shard`).
        MaskMismatchError: for a model that is sparse already, of which random masks would take weights.

    Warns:
        UserWarning: with their number, if random masks take weights that are frozen or look trained.
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: float | None,
        distribution: str | Mapping[str, float] = "erk",
        seed: int = 0,
        exclude: str | Sequence[str] = (),
        include: str | Sequence[str] = (),
        initial: str | Path | Mapping[str, Tensor] = "random",
    ):
        given = isinstance(initial, Mapping | Path) or is_path("topology.initial", initial)
        require(given or initial in NAMES, "initial", initial, RIGHT + closest(str(initial), NAMES))
        self.weights = sparse_parameters(model, _listed(include), _listed(exclude))
        shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        transposed = by_input(model)
        self.outputs = last_weight(model)
        self.by_neuron = [name for name, weight in self.weights.items() if weight not in transposed]
        columns = by_column(model)
        self.by_column = {name for name, weight in self.weights.items() if weight in columns}
        self._model, self.example = model, None
        self.initial, self.ablates = "given" if given else initial, False
        others = [name for name in self.weights if name not in self.by_neuron]
        right = f"needs rows that are neurons; exclude {', '.join(others)}"
        require(initial != "constant_fan_in" or not others, "initial", initial, right)
        fixed = given or initial == "nonzero"
        self.masks, self.counts, self.targets = {}, {}, {}
        if not fixed or sparsity is not None or isinstance(distribution, Mapping):
            self.targets = allotted(shapes, distribution, sparsity)
        if initial == "global_magnitude":
            sizes = {name: weight.detach().abs().flatten().float().cpu() for name, weight in self.weights.items()}
            self.targets = by_layer(sizes, sum(self.targets.values()), largest=True)
            empty = [name for name, count in self.targets.items() if not count]
            require(not empty, "initial", initial, f"leaves no weight in {', '.join(empty)}; exclude it, or magnitude")
        if given:
            self._give(initial)
        else:
            for name, weight in self.weights.items():
                first, rows = INITIAL[initial.removeprefix("global_")], self.rows(name, weight)
                mask, count = first(rows, self.targets.get(name, 0), generator(seed, "mask", name))
                self.masks[name], self.counts[name] = _like(self.rows(name, mask), weight), count
        self.first = dict(self.counts)
        if fixed:
            self._aim(sparsity)
        self.visited = {name: mask.clone() for name, mask in self.masks.items()}
        self.version, self.trained, self._told = 0, set(), False
        self.vectors: dict[Tensor, Any] = {}
        self.dense_gradients = False
        if initial in ("random", "constant_fan_in", "dense"):
            self._look_at_what_is_lost()
        self.apply()
        self.agreed = False  # somebody may load a model's state alone

    def rows(self, name: str, tensor: Tensor) -> Tensor:
        """A view of what has a weight's dimensions with a neuron in each row; of such rows, the way back."""
        return tensor.transpose(0, 1) if name in self.by_column else tensor

    @cached_property
    def normalized(self) -> list[str]:
        """Names of the weights `by_neuron` whose layer is normalized, so its scale does not matter to the outputs.

        It is measured once (`sparsity.normalized`).

        Raises:
            ConfigError: without an `example`, or for one that gives no gradient.
        """
        right = "must be an input of the model, to measure which layers are normalized: topology.example = images[:1]"
        require(self.example is not None, "example", None, right)
        return normalized(self._model, self.by_neuron, self.example)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles know what was measured, and neither the model nor an example."""
        return {**vars(self), "_model": None, "example": None}

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

    def _give(self, initial: Path | str | Mapping[str, Tensor]) -> None:
        """Take masks that the user has."""
        masks, said = initial, "masks"
        if not isinstance(initial, Mapping):
            said = file("topology.initial", str(initial))
            try:
                masks = tensors(said)
            except (OSError, ValueError) as error:
                right = "cannot be read: it must be the masks.safetensors of a run, or like it"
                raise ConfigError("initial", said, right) from error
        for name in [*self.weights, *masks]:
            there = name in masks and name in self.weights
            right = "has no mask of" if name in self.weights else f"has a mask of {name}, which is no sparse weight of"
            require(there, "initial", said, f"{right} {name if name in self.weights else 'this model'}; see exclude")
            mask, weight = masks[name], self.weights[name]
            fits = isinstance(mask, Tensor) and mask.shape == weight.shape
            require(fits, "initial", said, f"must have a mask of {tuple(weight.shape)} for {name}")
            mask = mask.bool()
            require(bool(mask.any()), "initial", said, f"leaves no weight in {name}; exclude that layer")
            self.masks[name], self.counts[name] = _like(mask, weight), int(mask.sum())

    def _aim(self, sparsity: float | None) -> None:
        """The targets of masks that came with a number of weights: that, or fewer, which a method prunes to."""
        have, total = sum(self.counts.values()), sum(mask.numel() for mask in self.masks.values())
        asked = sum(self.targets.values()) or have
        if abs(have - asked) <= total * ROUNDED:
            self.targets = dict(self.counts)
        else:
            right = f"the masks have {1 - have / total:.4g} already; give that, or more for a method that prunes"
            require(asked < have, "sparsity", sparsity, right)
            self.targets = apportioned(asked, self.targets, self.counts)

    def _look_at_what_is_lost(self) -> None:
        """Random masks are for weights that are random too."""
        if self._shapes_alone():
            return
        lost, sizes = self._lost(self.masks), {n: int(w.count_nonzero()) for n, w in self.weights.items()}
        total = sum(w.numel() for n, w in self.weights.items() if sizes[n])
        zeros = total - sum(sizes.values())
        if zeros >= SPARSE * total and self.initial == "dense":
            said = f"lets {zeros:,} weights grow again that are 0 in this model; initial='nonzero' keeps them out"
            warnings.warn(f"initial=dense {said}", stacklevel=3)
        elif zeros >= SPARSE * total and any(lost.values()):
            found = f"{zeros / total:.1%} of its weights are 0, and random masks would take {sum(lost.values()):,} more"
            right = f"topology.initial=nonzero keeps those that are left, magnitude the largest; {LATER}"
            raise MaskMismatchError(f"the model is sparse already: {found}; {right}")
        elif taken := sum(lost.values()):
            frozen = sum(count for name, count in lost.items() if not self.weights[name].requires_grad)
            if frozen or self._looks_trained():
                of = f"{frozen or taken:,} of {sum(sizes.values()):,} weights"
                said = f"{self.initial} masks set {of} to 0 that are {'frozen' if frozen else 'trained'}"
                warnings.warn(f"{said}; initial='magnitude' keeps the largest of each layer", stacklevel=3)

    def _looks_trained(self) -> bool:
        drawn = [one for w in self.weights.values() if (one := looks_drawn(w)) is not None]
        return sum(drawn) < len(drawn) / 2

    @torch.no_grad()
    def _lost(self, masks: dict[str, Tensor]) -> dict[str, int]:
        """How many weights these masks would set to 0; what is not a number is none."""
        return {n: int((w.isfinite() & (w != 0) & ~masks[n].to(w.device)).sum()) for n, w in self.weights.items()}

    def require_pruned(self, gradual: bool) -> None:
        """Raise a `ConfigError` if it starts from more weights than asked for, and no `gradual` method prunes them."""
        if gradual or self.initial not in ("dense", "nonzero", "given") or self.counts == self.targets:
            return
        total = sum(mask.numel() for mask in self.masks.values())
        have, asked = (1 - sum(counts.values()) / total for counts in (self.counts, self.targets))
        needs = "needs a method that prunes, such as dst=gmp"
        require(self.initial != "dense", "topology.initial", "dense", f"{needs}; choose random")
        raise ConfigError("sparsity", f"{asked:.4g}", f"the masks have {have:.4g}; give that, as more {needs}")

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
