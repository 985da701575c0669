"""Authors' own code of methods on whole networks of ours, as `parity.adapters` has it of single layers.

`python -m parity.networks CASE IN OUT` runs in our environment, in the peer's clone and with its packages on the path.
Where they put masks on a GPU, the masks are put where their code would put them.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.ours import SPARSITIES, UPDATES
from parity.updates import Update, load, pack, torch_layer

ABLATION, GAMMA = 0.6, 1.0


def moments(updates: list[Update]) -> Iterator[tuple[int, float, list[Update]]]:
    """(number of the update, sparsity, its layers) of a trace, in order."""
    layers = len(updates) // UPDATES // len(SPARSITIES)
    for i in range(UPDATES * len(SPARSITIES)):
        yield i % UPDATES + 1, SPARSITIES[i // UPDATES], updates[i * layers : (i + 1) * layers]


def srigl(number: int, sparsity: float, layers: list[Update]) -> list[np.ndarray]:
    """Each layer after one that it keeps dense. Half a weight more than there are gives their count when cut off."""
    from rigl_torch.rigl_constant_fan import RigLConstFanScheduler

    found = []
    for update in layers:
        model = nn.Sequential(nn.Linear(1, 1), torch_layer(update.weight, update.grad))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"dense_allocation": 0.5, "T_end": 10, "keep_first_layer_dense": True, "dynamic_ablation": True}
        options |= {"min_salient_weights_per_neuron": ABLATION, "use_sparse_const_fan_in_for_ablation": True}
        scheduler = RigLConstFanScheduler(model, optimizer, alpha=float(update.fraction), **options)
        model[1].weight.data.copy_(torch.from_numpy(update.weight))
        scheduler.S[1] = 1 - (update.mask.sum() + 0.5) / update.mask.size
        scheduler.backward_masks[1] = torch.from_numpy(update.mask)
        scheduler.backward_hook_objects[1].dense_grad = model[1].weight.grad.clone()
        scheduler._rigl_step()
        found.append(scheduler.backward_masks[1].numpy())
    return found


def mest(number: int, sparsity: float, layers: list[Update]) -> list[np.ndarray]:
    """What stays. Its cut is a percentile: the one between two scores that leaves the number asked for."""
    from prune_utils.utils_pr import weight_pruning

    found = []
    for update in layers:
        layer, count = torch_layer(update.weight, update.grad * update.mask), int(update.mask.sum())
        stay = count - int(float(update.fraction) * count * (1 + 1e-9))
        ratio = (update.mask.size - stay - 0.5) / (update.mask.size - 1)
        args = Namespace(sp_lmd=GAMMA, sp_admm_sparsity_type="irregular")
        kept, _ = weight_pruning(args, None, "weight", layer.weight, ratio)
        found.append(kept.numpy().astype(bool))
    return found


def granet(number: int, sparsity: float, layers: list[Update], method: str = "GraNet") -> list[np.ndarray]:
    from sparselearning.core import Masking

    model = nn.Sequential(*(torch_layer(update.weight, update.grad) for update in layers))
    args = Namespace(method=method, sparse_init="", fix=False, update_frequency=1, multiplier=1)
    args.__dict__ |= {"init_density": 1.0, "final_density": 1 - sparsity, "init_prune_epoch": 0}
    args.final_prune_epoch = UPDATES
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masking = Masking(optimizer, prune_rate=float(layers[0].fraction), args=args, train_loader=[None])
    masking.modules = [model]
    masking.masks = {f"{i}.weight": torch.from_numpy(update.mask).float() for i, update in enumerate(layers)}
    masking.total_params = sum(update.mask.size for update in layers)
    if method == "GMP_uniform":
        masking.pruning_uniform(number)
    else:
        masking.pruning(number)
        masking.truncate_weights(number)
    return [mask.bool().numpy() for mask in masking.masks.values()]


def gmp(number: int, sparsity: float, layers: list[Update]) -> list[np.ndarray]:
    return granet(number, sparsity, layers, method="GMP_uniform")


def snfs(number: int, sparsity: float, layers: list[Update]) -> list[np.ndarray]:
    """With the gradients as momentum, at its first update, which has nothing to make up for."""
    from sparselearning.core import Masking

    model = nn.Sequential(*(torch_layer(update.weight, update.grad) for update in layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        optimizer.state[p]["momentum_buffer"] = p.grad
    masking = Masking(optimizer, None, prune_rate=float(layers[0].fraction))
    masking.modules = [model]
    masking.masks = {f"{i}.weight": torch.from_numpy(update.mask).float() for i, update in enumerate(layers)}
    masking.baseline_nonzero = sum(int(update.mask.sum()) for update in layers)
    masking.init_growth_prune_and_redist()
    masking.truncate_weights()
    return [masking.masks[name].bool().numpy() for name in (f"{i}.weight" for i in range(len(layers)))]


NETWORKS: dict[str, Callable[[int, float, list[Update]], list[np.ndarray]]] = {
    "srigl": srigl,
    "mest": mest,
    "granet": granet,
    "gmp": gmp,
    "snfs": snfs,
}


def main() -> None:
    name, given, answer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    masks: list[Any] = []
    for moment in moments(load(given)):
        masks += NETWORKS[name](*moment)
    np.save(answer, pack(masks))


if __name__ == "__main__":
    main()
