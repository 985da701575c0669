"""Every kind of figure, by the name that a sweep file calls it: importing this package knows them all."""

from sparse_train.report.figures import accuracy, studies, theory
from sparse_train.report.figures.kinds import KINDS

__all__ = ["KINDS", "accuracy", "studies", "theory"]
