"""Every kind of figure, by the name that a sweep file calls it."""

from sparse_train.report.figures import accuracy, dynamics, gradients, neurons, studies

KINDS = accuracy.KINDS | gradients.KINDS | neurons.KINDS | dynamics.KINDS | studies.KINDS
