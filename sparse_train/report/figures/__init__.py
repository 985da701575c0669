"""Every kind of figure, by the name that a sweep file calls it."""

from sparse_train.report.figures import accuracy, studies, theory

KINDS = accuracy.KINDS | theory.KINDS | studies.KINDS
