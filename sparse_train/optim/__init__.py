"""How weights change: one optimizer with slots, and the learning-rate schedule."""

from sparse_train.optim.ham import HAM
from sparse_train.optim.renorm import Renorm
from sparse_train.optim.sgd import SparseSGD
from sparse_train.optim.sparseopt import SparseOpt

__all__ = ["HAM", "Renorm", "SparseOpt", "SparseSGD"]
