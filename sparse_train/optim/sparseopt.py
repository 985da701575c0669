"""SparseOpt (arXiv 2605.27541, Eq. 12): undo the gradient skew that normalization causes in sparse layers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_train.errors import require, require_one_of
from sparse_train.sparsity.topology import Topology

AVERAGES = ("layer", "global", "none")


def neuron_scale(mask: Tensor, average: float | Tensor | None = None, ablates: bool = False) -> Tensor:
    """The factor of each neuron's gradient, Eq. 12:

        sqrt(1 - s_i) / sqrt(1 - s_avg),    s_i = 1 - fan_in_i / N

    Neuron i is row i of the weight, one output unit or channel; fan_in_i its active and N its possible incoming
    weights. (The paper writes columns: its arrays are (in, out).) A layer whose neurons all have the same fan-in gets
    factors of exactly 1; a neuron without incoming weights gets 0. (Transposed convolutions keep their weights as
    (in, out, ...); this is not for them.)

    >>> mask = torch.tensor([[True, True, True, True], [True, False, False, False], [False, False, False, False]])
    >>> neuron_scale(mask, average=1.0)  # D alone: square roots of the densities 1, 1/4 and 0
    tensor([[1.0000],
            [0.5000],
            [0.0000]], dtype=torch.float64)

    Args:
        mask: boolean, of the weight's shape (out, in, *kernel).
        average: 1 - s_avg, to take another average than this layer's own mean over its neurons; 1.0 gives the
            diagonal D alone.
        ablates: leave neurons without weights out of that mean, as methods do that take neurons away
            (`Topology.ablates`): with a constant fan-in all factors that count are then 1.

    Returns:
        Tensor of shape (out, 1, ..., 1), broadcastable over the weight; float64, for the caller to round once.
    """
    fan_in = mask.flatten(1).sum(1, dtype=torch.float64)
    # Counts of weights are exact in float64, so equal fan-ins give the ratio 1.0 to the bit.
    reference = _mean(fan_in, ablates) if average is None else average * mask[0].numel()
    return torch.where(fan_in > 0, fan_in / reference, 0.0).sqrt().view(-1, *[1] * (mask.ndim - 1))


class SparseOpt:
    """The preconditioning slot of `SparseSGD`: which layers Eq. 12 corrects, and against which average.

    The gradient of neuron i, a row of the weight with sparsity s_i, becomes

        g_i <- sqrt(1 - s_i) / sqrt(1 - s_avg) * g_i        (Eq. 12, `neuron_scale`)

    before momentum and weight decay see it. The factors are made anew only where masks change.

        topology = Topology(model, sparsity=0.9)
        optimizer = SparseSGD(model.parameters(), topology, lr=0.1, momentum=0.9, precondition=SparseOpt())

    Args:
        average: s_avg over the neurons of each "layer" (Eq. 12 as the authors' page has it), over those of all
            corrected layers ("global"), or "none": D alone, as Appendix F on one reading.
        layers: "all" sparse layers, only those that are "normalized" (`Topology.normalized`, which needs an example of
            the model's inputs), or a list of weight names.
        scale_decay: scale weight decay with the gradient. False adds it after the correction.
        per: the "neuron" (Eq. 12); or, as a control, the "layer": all of its neurons get the mean of their factors.
    """

    def __init__(
        self,
        average: str = "layer",
        layers: str | Sequence[str] = "all",
        scale_decay: bool = False,
        per: str = "neuron",
    ):
        right = "is no optimizer's parameters: SparseSGD(params, topology, lr, precondition=SparseOpt()) takes them"
        require(isinstance(average, str), "average", type(average).__name__, right)
        require_one_of("average", average, AVERAGES)
        require_one_of("per", per, ("neuron", "layer"))
        named = not isinstance(layers, str) or layers in ("all", "normalized")
        require(named, "layers", layers, "must be all, normalized, or a list of weight names")
        self.average, self.layers, self.scale_decay, self.per = average, layers, scale_decay, per

    def scales(self, topology: Topology) -> dict[str, Tensor]:
        """Weight name -> its factors (`neuron_scale`) for every corrected layer."""
        masks = {name: topology.rows(name, topology.masks[name]) for name in self._corrected(topology)}
        if not masks:
            return {}
        average = self._average(list(masks.values()), topology.ablates)
        scales = {name: neuron_scale(mask, average, topology.ablates) for name, mask in masks.items()}
        if self.per == "layer":
            scales = {name: _mean(scale, topology.ablates).expand_as(scale) for name, scale in scales.items()}
        return {name: topology.rows(name, scale) for name, scale in scales.items()}

    def _corrected(self, topology: Topology) -> Sequence[str]:
        if self.layers == "all":
            return topology.by_neuron
        if self.layers == "normalized":
            require(bool(topology.normalized), "layers", self.layers, "the model has no layer that is normalized")
            return topology.normalized
        unknown = [name for name in self.layers if name not in topology.by_neuron]
        right = f"no such sparse weights; there are {', '.join(topology.by_neuron)}, which have neurons"
        require(not unknown, "layers", unknown, right)
        return self.layers

    def _average(self, masks: list[Tensor], ablates: bool) -> Tensor | float | None:
        """1 - s_avg, or None for each layer's own."""
        if self.average == "layer":
            return None
        if self.average == "none":
            return 1.0
        densities = torch.cat([mask.flatten(1).mean(1, dtype=torch.float64) for mask in masks])
        return _mean(densities, ablates)


def _mean(of_neurons: Tensor, ablates: bool) -> Tensor:
    """Over all neurons, or over those that have weights."""
    return of_neurons.sum() / (of_neurons > 0).sum() if ablates else of_neurons.mean()
