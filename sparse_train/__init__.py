"""Dynamic sparse training with SparseOpt: the pieces, for a training loop of your own.

    from sparse_train import RigL, SparseOpt, SparseSGD, Topology, Updater

Names are imported when they are first used, so that reading records needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_train.models.compressed import compress
    from sparse_train.optim.clip import clip_grad_norm_
    from sparse_train.optim.ham import HAM, mirror_factor
    from sparse_train.optim.renorm import Renorm
    from sparse_train.optim.sgd import SparseSGD
    from sparse_train.optim.sparseopt import SparseOpt, neuron_scale
    from sparse_train.record.export import load, load_masks
    from sparse_train.sparsity.csr import use_csr, use_dense
    from sparse_train.sparsity.density import erk, uniform
    from sparse_train.sparsity.method import Method
    from sparse_train.sparsity.methods.dsr import DSR
    from sparse_train.sparsity.methods.gmp import GMP
    from sparse_train.sparsity.methods.granet import GraNet
    from sparse_train.sparsity.methods.mean import Mean
    from sparse_train.sparsity.methods.mest import MEST
    from sparse_train.sparsity.methods.ranked import Ranked
    from sparse_train.sparsity.methods.rigl import RigL
    from sparse_train.sparsity.methods.rigl_blind import RigLBlind
    from sparse_train.sparsity.methods.set import SET
    from sparse_train.sparsity.methods.snfs import SNFS
    from sparse_train.sparsity.methods.srigl import SRigL
    from sparse_train.sparsity.topology import Topology
    from sparse_train.sparsity.updater import Updater

_HOMES = {
    "HAM": "optim.ham",
    "Renorm": "optim.renorm",
    "Method": "sparsity.method",
    "DSR": "sparsity.methods.dsr",
    "GMP": "sparsity.methods.gmp",
    "GraNet": "sparsity.methods.granet",
    "MEST": "sparsity.methods.mest",
    "Mean": "sparsity.methods.mean",
    "Ranked": "sparsity.methods.ranked",
    "RigLBlind": "sparsity.methods.rigl_blind",
    "SNFS": "sparsity.methods.snfs",
    "SRigL": "sparsity.methods.srigl",
    "RigL": "sparsity.methods.rigl",
    "SET": "sparsity.methods.set",
    "SparseOpt": "optim.sparseopt",
    "SparseSGD": "optim.sgd",
    "Topology": "sparsity.topology",
    "Updater": "sparsity.updater",
    "clip_grad_norm_": "optim.clip",
    "compress": "models.compressed",
    "erk": "sparsity.density",
    "load": "record.export",
    "load_masks": "record.export",
    "mirror_factor": "optim.ham",
    "neuron_scale": "optim.sparseopt",
    "uniform": "sparsity.density",
    "use_csr": "sparsity.csr",
    "use_dense": "sparsity.csr",
}

__all__ = [
    "DSR",
    "GMP",
    "HAM",
    "MEST",
    "SET",
    "SNFS",
    "GraNet",
    "Mean",
    "Method",
    "Ranked",
    "Renorm",
    "RigL",
    "RigLBlind",
    "SRigL",
    "SparseOpt",
    "SparseSGD",
    "Topology",
    "Updater",
    "clip_grad_norm_",
    "compress",
    "erk",
    "load",
    "load_masks",
    "mirror_factor",
    "neuron_scale",
    "uniform",
    "use_csr",
    "use_dense",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def _version() -> str:
    """That of pyproject.toml, which the installation repeats."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sparse_train")
    except PackageNotFoundError:  # a checkout that is on the path and not installed
        import tomllib
        from pathlib import Path

        return tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]


def __dir__() -> list[str]:
    """The public names, and what Python keeps of a module."""
    return sorted({"__version__", *__all__, *(name for name in globals() if name.startswith("__"))})
