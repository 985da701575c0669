"""Which parameters of a model are sparse, what they are called, and where their neurons are."""

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from sparse_train.errors import require

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (nn.Linear, *CONVOLUTIONS)
PACKED = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of nn.MultiheadAttention
BY_INPUT = (nn.Embedding, nn.EmbeddingBag, _ConvTransposeNd)  # a row of their weights is an input's, not a neuron's
FIRST_CONV = "first_conv"
WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)

Owners = list[tuple[nn.Module, str]]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model whose parameters have the names we use: within all that only puts `module` or `_orig_mod` before them.

    A wrapper may have a forward of its own; to run the model, take `stripped`.
    """
    while [*model._modules] in (["module"], ["_orig_mod"]) and not model._parameters:
        [model] = model.children()
    return model


def stripped(model: nn.Module) -> nn.Module:
    """The model within torch's own wrappers, whose outputs are the model's: DDP, `torch.compile`, `AveragedModel`."""
    while isinstance(model, WRAPPERS) or [*model._modules] == ["_orig_mod"]:
        [model] = model.children()
    return model


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters by the names that they have in the bare model."""
    return {bare(name): p for name, p in unwrapped(model).named_parameters()}


def last_weight(model: nn.Module) -> str:
    """The name of the model's last parameter with two or more dimensions, whose neurons are its outputs."""
    return [name for name, p in parameters(model).items() if p.ndim > 1][-1]


def bare(name: str) -> str:
    """The name without what `torch.compile` puts into it where a part of a model is compiled."""
    return name.replace("_orig_mod.", "")


def sparse_parameters(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters that `Topology` masks, in the model's order; warns of those that it leaves dense unasked."""
    held = owners(model)
    candidates = {name: p for name, p in parameters(model).items() if is_lazy(p) or p.ndim > 1}
    convolutions = (name for name, p in candidates.items() if isinstance(held[p][0][0], CONVOLUTIONS))
    first = next(convolutions, FIRST_CONV)
    exclude = [first if pattern == FIRST_CONV else pattern for pattern in exclude]
    modules = [f"{bare(name)}." for name, _ in unwrapped(model).named_modules()]  # one without weights is dense already
    for key, patterns, named in (("include", include, [*candidates]), ("exclude", exclude, [*candidates, *modules])):
        for pattern in patterns:
            right = f"matches no weight of the model; there are {', '.join(candidates)}"
            require(any(fnmatchcase(name, pattern) for name in named), key, pattern, right)
    sparse, unknown, taken = {}, [], []
    for name, p in candidates.items():
        if _matches(name, exclude):
            continue
        require(not is_lazy(p), "model", name, "has no shape yet; run a batch through the model first")
        if _matches(name, include) or all(_is_weight(*owner) for owner in held[p]):
            _require_plain(name, p)
            sparse[name] = p
            if not any(_has_known_rows(*owner) for owner in held[p]):
                taken.append(name)
        elif p.shape[0] > 1 and not any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module, _ in held[p]):
            unknown.append(name)
    right = f"leaves no sparse layer; `include` may name others: {', '.join(candidates) or 'there are none'}"
    require(bool(sparse), "exclude", list(exclude), right)
    if taken:
        said = "are weights of layers that are not torch's; SparseOpt and constant fan-in take each row for a neuron"
        warnings.warn(f"{', '.join(taken)}: {said}", stacklevel=3)
    if unknown:
        said = "are not the weights of linear or convolution layers and stay dense; name them in include or exclude"
        warnings.warn(f"{', '.join(unknown)}: {said}", stacklevel=3)
    return sparse


def by_input(model: nn.Module) -> set[nn.Parameter]:
    """Weights whose rows are not neurons: of embeddings (a row is a token's) and transposed convolutions."""
    return {p for p, held in owners(model).items() if any(isinstance(module, BY_INPUT) for module, _ in held)}


def by_column(model: nn.Module) -> set[nn.Parameter]:
    """Weights whose columns are neurons: those of the `Conv1D` of Hugging Face's GPT-2, a linear layer of (in, out)."""
    return {p for p, held in owners(model).items() if any(_is_conv1d(*owner) for owner in held)}


def owners(model: nn.Module) -> dict[nn.Parameter, Owners]:
    """Parameter -> the modules that hold it, several if it is tied, and under which name."""
    found: dict[nn.Parameter, Owners] = {}
    for module in model.modules():
        for key, p in module.named_parameters(recurse=False):
            found.setdefault(p, []).append((module, key))
    return found


def _is_weight(module: nn.Module, key: str) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return key in PACKED
    return (isinstance(module, WEIGHTED) and key == "weight") or _is_conv1d(module, key)


def _is_conv1d(module: nn.Module, key: str) -> bool:
    """By name, so that `transformers` need not be there."""
    return type(module).__name__ == "Conv1D" and key == "weight" and module.weight.ndim == 2


def _has_known_rows(module: nn.Module, key: str) -> bool:
    return _is_weight(module, key) or isinstance(module, (*BY_INPUT, nn.Bilinear, nn.RNNBase, nn.RNNCellBase))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _require_plain(name: str, p: Tensor) -> None:
    """What cannot be masked is said now, and not by an operation deep in a step."""
    right = "is split over processes by fully_shard; masks need whole weights, as DistributedDataParallel keeps them"
    require(not hasattr(p, "full_tensor"), "model", name, right)
    require(p.is_floating_point(), "model", name, f"is {p.dtype}; masks need real weights; exclude it")
