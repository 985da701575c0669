"""Each peer's own code on arrays of ours. Only this file knows how others are called.

`python -m parity.adapters CASE IN OUT` runs in the peer's environment, in its clone and with its packages on the path.
"""

import re
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parity.updates import Update, load, pack, torch_layer


def rigl_torch(update: Update) -> np.ndarray:
    from rigl_torch.RigL import RigLScheduler

    return _scheduled(RigLScheduler, update)


def srigl(update: Update) -> np.ndarray:
    """Without the constant fan-in: its RigL baseline. It leaves dense layers as they are."""
    from rigl_torch.rigl_scheduler import RigLScheduler

    return update.mask if update.mask.all() else _scheduled(RigLScheduler, update, keep_first_layer_dense=True)


def _scheduled(scheduler_class: Callable[..., Any], update: Update, **options: bool) -> np.ndarray:
    """What two of a kind do in their `_rigl_step`. The first layer is there for them to keep dense."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(1, 1), torch_layer(update.weight, update.grad))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"dense_allocation": 0.5, "ignore_linear_layers": False, "T_end": 10, **options}
    scheduler = scheduler_class(model, optimizer, alpha=float(update.fraction), **options)  # its step 0: cosine 1
    model[1].weight.data.copy_(torch.from_numpy(update.weight))
    scheduler.backward_masks[1] = torch.from_numpy(update.mask)
    scheduler.backward_hook_objects[1].dense_grad = model[1].weight.grad.clone()
    scheduler._rigl_step()
    return scheduler.backward_masks[1].numpy()


def itop(update: Update) -> np.ndarray:
    """With growth by gradients. Its `add_module` wants a GPU, so weights and masks are put where it would put them."""
    import torch
    from sparselearning.core import Masking

    layer = torch_layer(update.weight, update.grad)
    options = {"death_mode": "magnitude", "growth_mode": "gradient", "args": Namespace(fix=False, update_frequency=1)}
    masking = Masking(torch.optim.SGD(layer.parameters(), lr=0.1), death_rate=float(update.fraction), **options)
    masking.modules, masking.masks = [layer], {"weight": torch.from_numpy(update.mask).float()}
    masking.truncate_weights()
    return masking.masks["weight"].bool().numpy()


def jaxpruner(update: Update) -> np.ndarray:
    import jax.numpy as jnp
    from jaxpruner import RigL, SparseState

    state = SparseState({"w": jnp.asarray(update.mask, "uint8")}, inner_state=(), target_sparsities={}, count=0)
    pruner = RigL(drop_fraction_fn=lambda _: float(update.fraction))
    weights, grads = {"w": jnp.asarray(update.weight)}, {"w": jnp.asarray(update.grad)}
    return np.asarray(pruner.update_state(state, weights, grads).masks["w"], bool)


def google(update: Update, **noise: float) -> np.ndarray:
    import tensorflow.compat.v1 as tf
    from rigl.sparse_optimizers_base import SparseRigLOptimizerBase

    class Optimizer(SparseRigLOptimizerBase):
        """Its base wants to be told where weights and masks are."""

        def get_weights(self) -> list:
            return [weight]

        def get_masks(self) -> list:
            return [mask]

        def generic_mask_update(self, *variables: Any) -> Any:
            return super().generic_mask_update(*variables, **noise)

    with tf.Graph().as_default(), tf.Session() as session:
        weight = tf.get_variable("weight", initializer=update.weight)
        mask = tf.get_variable("mask", initializer=update.mask.astype(np.float32))
        step = tf.train.get_or_create_global_step()
        base = tf.train.GradientDescentOptimizer(0.1)
        options = {"begin_step": 0, "end_step": -1, "frequency": 1, "drop_fraction": float(update.fraction)}
        optimizer = Optimizer(base, **options)
        optimizer._global_step = step  # as its `apply_gradients` does
        optimizer.set_masked_grads([tf.constant(update.grad)], [weight])
        replace = optimizer.cond_mask_update_op(step, tf.no_op)
        session.run(tf.global_variables_initializer())
        session.run(replace)
        return session.run(mask).astype(bool)


def ham_wrapper(readme: Path) -> type:
    """HAM's code is a block of its README."""
    [code] = re.findall(r"```python\n(.*?class HamOptimizerWrapper.*?)```", readme.read_text(), re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(code, str(readme), "exec"), space)
    return space["HamOptimizerWrapper"]


def ham(given: dict[str, np.ndarray], readme: Path) -> np.ndarray:
    import torch
    from torch import nn

    weight, mask = nn.Parameter(torch.from_numpy(given["weight"])), torch.from_numpy(given["mask"])
    base = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4)
    optimizer = ham_wrapper(readme)(base, alpha=float(given["alpha"]), beta=float(given["beta"]))
    for grad in given["grads"]:
        weight.grad = torch.from_numpy(grad) * mask
        optimizer.step()
    return weight.detach().numpy()


MASKS: dict[str, Callable[[Update], np.ndarray]] = {
    "rigl-torch": rigl_torch,
    "SRigL": srigl,
    "ITOP": itop,
    "jaxpruner": jaxpruner,
    "google": google,
    "google-quiet": partial(google, noise_std=0.0),
}


def main() -> None:
    name, given, answer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if name == "HAM":
        with np.load(given) as arrays:
            np.save(answer, ham(dict(arrays), Path("README.md")))
    else:
        np.save(answer, pack(MASKS[name](update) for update in load(given)))


if __name__ == "__main__":
    main()
