"""A trained sparse network that stores and multiplies only the weights that exist: compressed sparse rows (CSR)."""

from collections.abc import Mapping
from copy import deepcopy
from warnings import catch_warnings, filterwarnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_train.errors import require
from sparse_train.sparsity.csr import structure
from sparse_train.sparsity.layers import parameters, stripped, unwrapped


def compress(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy for inference whose sparse linear layers and ungrouped 2-D convolutions hold their weights as CSR.

    Its outputs are those of the model up to the rounding of sums. It is smaller than the dense model below half
    density. Whether it is faster depends on layer, density and hardware: results/performance.md has a CPU's times.
    Layers of other kinds, grouped convolutions, padding other than zeros, and the layers within torch's own Transformer
    encoder, which reads their weights itself, stay dense. Products are in the weights' dtype, under autocast too; those
    of bfloat16 and float16, which a CPU does not have, in float32 and then rounded.

    Args:
        model: whose masked weights are 0, such as `sparse_train.load(run_dir)`; it is left as it is. DDP's and
            `torch.compile`'s wrappers are left out of the copy.
        masks: parameter name -> BoolTensor, True where the weight exists, such as `sparse_train.load_masks(run_dir)`.

    Raises:
        ConfigError: for a mask of no parameter, or a weight that its mask says does not exist and that is not 0.
    """
    copy = deepcopy(stripped(model)).eval().requires_grad_(False)
    bare, weights = unwrapped(copy), parameters(copy)
    for name, mask in masks.items():
        right = "is no weight of this model" if name not in weights else "has another shape than its weight"
        require(name in weights and weights[name].shape == mask.shape, "masks", name, right)
        require(
            not weights[name][~mask].any(), "masks", name, "leaves out weights that are not 0; apply the masks first"
        )
        path, _, key = name.rpartition(".")
        within = bare.get_submodule(path.rpartition(".")[0])
        if not path or key != "weight" or isinstance(within, nn.TransformerEncoderLayer):
            continue
        if made := _made(bare.get_submodule(path), mask):
            bare.set_submodule(path, made)
    return copy


def size(model: nn.Module) -> int:
    """Bytes of all parameters and buffers; a CSR tensor counts its values and its two index tensors."""
    return sum(part.nbytes for tensor in model.state_dict().values() for part in _parts(tensor))


class CSR(nn.Module):
    """What is common: a weight of (out, in * kernel) as CSR, with 32-bit indices, and a bias."""

    def __init__(self, weight: Tensor, mask: Tensor, bias: Tensor | None):
        super().__init__()
        with catch_warnings():  # torch says once that its CSR tensors are in beta
            filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            known = structure(mask.flatten(1))
            self.register_buffer("weight", known.matrix(known.gather(weight)))
        self.register_buffer("bias", bias)

    def product(self, columns: Tensor) -> Tensor:
        """weight @ columns (+ bias): (in * kernel, n) -> (out, n)."""
        if not columns.numel():
            return columns.new_zeros(len(self.weight), columns.shape[1])
        with torch.autocast(columns.device.type, enabled=False):  # it has no such products in lower precision
            dtype = torch.promote_types(self.weight.dtype, torch.float32)
            product = (self.weight.to(dtype) @ columns.to(dtype)).to(self.weight.dtype)
        return product if self.bias is None else product + self.bias[:, None]


class CSRLinear(CSR):
    """`nn.Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], len(self.weight))


class CSRConv2d(CSR):
    """`nn.Conv2d`: the windows of the images side by side (im2col), then one product.

    Channels come first in memory, in what it reads and gives, as the product has them.
    """

    def __init__(self, layer: nn.Conv2d, mask: Tensor):
        super().__init__(layer.weight.detach(), mask, layer.bias)
        self.kernel, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        self.padding = [side for pad in reversed(layer.padding) for side in (pad, pad)]

    def forward(self, x: Tensor) -> Tensor:
        return self.images(x) if x.dim() == 4 else self.images(x[None])[0]

    def images(self, x: Tensor) -> Tensor:
        """Of a batch of them."""
        windows = F.pad(x.transpose(0, 1), self.padding)  # (in, images, height, width)
        for dim, (kernel, stride, dilation) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True), 2):
            windows = windows.unfold(dim, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        images_and_places = windows.shape[1:4]
        columns = windows.permute(0, 4, 5, 1, 2, 3).reshape(self.weight.shape[1], -1)
        return self.product(columns).view(len(self.weight), *images_and_places).transpose(0, 1)


def _made(layer: nn.Module, mask: Tensor) -> CSR | None:
    if type(layer) is nn.Linear:
        return CSRLinear(layer.weight.detach(), mask, layer.bias)
    zeros = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
    return CSRConv2d(layer, mask) if zeros and layer.groups == 1 else None


def _parts(tensor: Tensor) -> list[Tensor]:
    if tensor.layout == torch.sparse_csr:
        return [tensor.values(), tensor.crow_indices(), tensor.col_indices()]
    return [tensor]
