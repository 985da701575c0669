"""Linear layers that multiply only the weights that exist while they train, as compressed sparse rows (CSR).

A layer's three products are torch's own: forward `W x`, the gradient of its input `W^T g`, and the gradient of its
weights at the mask alone (`torch.sparse.sampled_addmm`). Convolutions stay dense.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple
from warnings import catch_warnings, filterwarnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from sparse_train.sparsity.topology import Topology

DENSE, CSR = "dense", "csr"  # how a run's layers are executed, in words
DTYPES = (torch.float32, torch.float64)  # of which torch has these products
ROUNDS = 7  # of timing a layer both ways


def use_csr(model: nn.Module, topology: Topology, if_faster_on: Tensor | None = None) -> list[str]:
    """Let the model's sparse linear layers multiply only the weights that exist; gives the names of their weights.

    Results are those of the masked layers up to the rounding of sums, and all else is as with them: names, parameters,
    masks, checkpoints. A weight stays a dense parameter, 0 off its mask, and is up to date after every step. But its
    `.grad` is sparse, of the weights that exist, unless `topology.dense_gradients`: an attached `Updater` asks for
    dense ones at the steps that look at them. `SparseSGD` steps the vector of these weights, whatever its slots; other
    optimizers need an `Updater`, and step the whole weight.

    It takes layers of class `nn.Linear` in float32 or float64 that are to have fewer weights than places (`targets`)
    and share them with no other layer. Products are in that dtype, under autocast too. Weights off the masks, which an
    average over steps may have, are not multiplied. After a write to `weight.data` in training call `topology.apply()`,
    as with `SparseSGD`. It is not for DistributedDataParallel and `torch.compile`. Copies and pickles of the model have
    plain layers. A second call chooses anew; `use_dense` goes back.

    Args:
        if_faster_on: a batch of inputs as in training: every layer is timed both ways on as many vectors as it gets
            there, forward and backward, and taken only where CSR is faster. The masks are those of now.
    """
    use_dense(model, topology)
    by_rows = any(isinstance(layer, _BatchNorm) for layer in model.modules())
    with catch_warnings():  # torch says once that its CSR tensors are in beta
        filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        found = {
            name: (layer, Rows(name, layer.weight, topology, by_rows)) for name, layer in _candidates(model, topology)
        }
    if if_faster_on is not None:
        sizes = _sizes(model, {layer: name for name, (layer, _) in found.items()}, if_faster_on)
        found = {name: both for name, both in found.items() if name in sizes and _faster(*both, *sizes[name])}
    for layer, rows in found.values():
        layer.__class__, layer.rows = CSRLinear, rows
        topology.vectors[layer.weight] = rows
    return list(found)


def use_dense(model: nn.Module, topology: Topology) -> None:
    """Give the layers that `use_csr` changed their dense products again."""
    for layer in model.modules():
        if isinstance(layer, CSRLinear):
            topology.vectors.pop(layer.weight, None)
            del layer.rows
            layer.__class__ = nn.Linear


class Structure(NamedTuple):
    """What follows from a mask alone: both forms of its compressed sparse rows, with 32-bit indices.

    Attributes:
        shape: of the weight, (out, in).
        starts, columns: CSR of the weight: `columns[starts[i]:starts[i + 1]]` are those of neuron i's weights.
        starts_t, columns_t: the same of its transpose, whose values are `values[order]`.
        places: of the weights, row by row, in the flattened weight.
        indices: (row, column) of each, as torch's COO tensors have them.
    """

    shape: torch.Size
    starts: Tensor
    columns: Tensor
    starts_t: Tensor
    columns_t: Tensor
    order: Tensor
    places: Tensor
    indices: Tensor

    def matrix(self, values: Tensor) -> Tensor:
        """The weight, as a CSR tensor."""
        return _csr(self.starts, self.columns, values, self.shape)

    def gather(self, dense: Tensor) -> Tensor:
        """Of a tensor of the weight's shape, what belongs to the weights that exist."""
        return dense.reshape(-1).index_select(0, self.places)

    def of_rows(self, factors: Tensor) -> Tensor:
        """For each weight that exists the factor of its row, of a scalar or one for each row (out, 1)."""
        return factors.expand(self.shape[0], 1).flatten().index_select(0, self.indices[0])

    def spread(self, values: Tensor) -> Tensor:
        """The tensor of the weight's shape, 0 where no weight is."""
        return values.new_zeros(self.shape.numel()).scatter_(0, self.places, values).view(self.shape)

    def transposed(self, values: Tensor) -> Tensor:
        """Its transpose, as a CSR tensor."""
        return _csr(self.starts_t, self.columns_t, values.index_select(0, self.order), self.shape[::-1])


def structure(mask: Tensor) -> Structure:
    """The structure of a mask of two dimensions."""
    rows, columns = mask.nonzero(as_tuple=True)
    starts = F.pad(mask.sum(1).cumsum(0), (1, 0)).int()
    numbered = _csr(starts, columns.int(), torch.arange(len(rows), device=mask.device), mask.shape).to_sparse_csc()
    places, indices = rows * mask.shape[1] + columns, torch.stack([rows, columns])
    transposed = numbered.ccol_indices(), numbered.row_indices(), numbered.values()
    return Structure(mask.shape, starts, columns.int(), *transposed, places, indices)


class Rows:
    """The weights of one layer that exist, as a vector beside the dense parameter, each following the other.

    Attributes:
        structure: of the mask.
        values: the weights that exist, row by row: what is multiplied and, by `SparseSGD`, stepped.
        by_rows: whether outputs and gradients lie in memory row by row, (n, out), as torch's batch normalization wants
            them, which takes 20 times as long otherwise. The products have them column by column, so this is a copy.
    """

    def __init__(self, name: str, weight: nn.Parameter, topology: Topology, by_rows: bool):
        self.name, self.weight, self.topology, self.by_rows = name, weight, topology, by_rows
        self._mask: Tensor | None = None  # that `structure` is of; masks are never changed in place
        self._seen: tuple = ()
        self.refresh()

    @torch.inference_mode(False)  # what an evaluation makes, training uses
    @torch.no_grad()
    def refresh(self) -> None:
        """Follow a new mask, and what other code wrote to the dense weight."""
        mask = self.topology.masks[self.name]
        if mask.device != self.weight.device:
            self.topology.follow()
            mask = self.topology.masks[self.name]
        if self._mask is not mask:
            self.structure, self._mask, self._seen = structure(mask), mask, ()
        if self._seen != self._now():
            self.values = self.gather(self.weight)
            self._seen = self._now()

    def gather(self, dense: Tensor) -> Tensor:
        """`Structure.gather`; of a sparse gradient, its values."""
        if not dense.is_sparse:
            return self.structure.gather(dense)
        values = dense._values()  # one backward pass, the sum of several, or none since `zero_` emptied it
        if not len(values):
            return values.new_zeros(len(self.structure.places))
        return values if len(values) == len(self.structure.places) else dense.coalesce().values()

    @torch.no_grad()
    def fill(self) -> None:
        """Write the vector to the dense weight, which is 0 elsewhere."""
        self.weight.view(-1).scatter_(0, self.structure.places, self.values)
        self._seen = self._now()

    def _now(self) -> tuple:
        return self.weight._version, self.weight.data_ptr(), self.weight.dtype


class CSRLinear(nn.Linear):
    """`nn.Linear` whose products are those of the weights that exist. Its copies and pickles are plain `nn.Linear`s."""

    rows: Rows

    def forward(self, x: Tensor) -> Tensor:
        if not x.numel():
            return F.linear(x, self.weight, self.bias)
        rows, weight = self.rows, self.weight
        rows.refresh()
        values = rows.values if self.training else rows.gather(weight.detach())  # tests see writes to `weight.data` too
        with torch.autocast(x.device.type, enabled=False):  # it has no such products in lower precision
            y = _Product.apply(x.reshape(-1, x.shape[-1]).to(weight.dtype), weight, self.bias, rows, values)
        return y.reshape(*x.shape[:-1], -1)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return nn.Linear.__new__, (nn.Linear,), {key: value for key, value in vars(self).items() if key != "rows"}


class _Product(torch.autograd.Function):
    """x W^T + b of (n, in), (out, in) and (out,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Rows, values: Tensor) -> Tensor:
        columns = x.t().contiguous()
        ctx.structure, ctx.rows = rows.structure, rows
        ctx.save_for_backward(columns, values)
        matrix = rows.structure.matrix(values)
        product = matrix @ columns if bias is None else torch.addmm(bias[:, None], matrix, columns)
        return _laid(product.t(), rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple:
        (columns, values), known = ctx.saved_tensors, ctx.structure
        of_x = of_weight = None
        of_bias = g.sum(0) if ctx.needs_input_grad[2] else None
        g = g.t().contiguous()
        if ctx.needs_input_grad[0]:
            of_x = _laid((known.transposed(values) @ g).t(), ctx.rows)
        if ctx.needs_input_grad[1]:
            if ctx.rows.topology.dense_gradients:
                of_weight = g @ columns.t()
            else:
                at_mask = known.matrix(torch.zeros_like(values))
                at_mask = torch.sparse.sampled_addmm(at_mask, g, columns.t(), beta=0).values()
                of_weight = torch.sparse_coo_tensor(
                    known.indices, at_mask, known.shape, is_coalesced=True, check_invariants=False
                )
        return of_x, of_weight, of_bias, None, None


def _laid(columns: Tensor, rows: Rows) -> Tensor:
    return columns.contiguous() if rows.by_rows else columns


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, size=shape, check_invariants=False)


def _candidates(model: nn.Module, topology: Topology) -> Iterator[tuple[str, nn.Linear]]:
    """All layers that can run as CSR, each with the name of its weight."""
    names = {weight: name for name, weight in topology.weights.items()}
    held = Counter(p for module in model.modules() for p in module._parameters.values())
    for layer in model.modules():
        if type(layer) is not nn.Linear or held[layer.weight] > 1 or layer.weight not in names:
            continue
        weight, name = layer.weight, names[layer.weight]
        if weight.dtype in DTYPES and weight.is_contiguous() and topology.targets[name] < weight.numel():
            yield name, layer


def _sizes(model: nn.Module, names: Mapping[nn.Module, str], inputs: Tensor) -> dict[str, tuple[int, bool]]:
    """Name -> how many vectors its layer multiplies in a forward pass, and whether backward needs their gradient."""
    found = {}

    def look(layer: nn.Module, given: tuple, _output: Tensor) -> None:
        found[names[layer]] = given[0].numel() // layer.in_features, given[0].requires_grad

    modes, hooks = {m: m.training for m in model.modules()}, [layer.register_forward_hook(look) for layer in names]
    try:
        with torch.enable_grad():
            model.eval()(inputs)
    finally:
        for module, training in modes.items():
            module.training = training
        for hook in hooks:
            hook.remove()
    return found


def _faster(layer: nn.Linear, rows: Rows, vectors: int, of_input: bool) -> bool:
    """Whether a layer's forward and backward products take less time as CSR: medians, both ways in turn."""
    weight = layer.weight
    x = weight.new_ones(vectors, layer.in_features).requires_grad_(of_input)
    g, wanted = weight.new_ones(vectors, layer.out_features), [t for t in (x, weight) if t.requires_grad]
    ways: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: F.linear(x, weight),
        "csr": lambda: _Product.apply(x, weight, None, rows, rows.values),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    asked, rows.topology.dense_gradients = rows.topology.dense_gradients, False
    try:
        for _ in range(ROUNDS):
            for way, product in ways.items():
                started = time.perf_counter()
                torch.autograd.grad(product(), wanted, g)
                if weight.is_cuda:
                    torch.cuda.synchronize()
                times[way].append(time.perf_counter() - started)
    finally:
        rows.topology.dense_gradients = asked
    return median(times["csr"][1:]) < median(times["dense"][1:])
