"""Masks: how many, where, and how they change."""

from sparse_train.sparsity.density import erk, uniform
from sparse_train.sparsity.topology import Topology

__all__ = ["Topology", "erk", "uniform"]
