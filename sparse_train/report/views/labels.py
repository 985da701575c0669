"""How factors are called in tables and figures. The paper's "Ours" is SparseOpt; ours are the numbers measured here."""

import re
from collections.abc import Mapping
from html import escape

from omegaconf import OmegaConf

from sparse_train.report import sweeps
from sparse_train.report.sweeps import Sweep
from sparse_train.report.views.columns import COLUMNS, split

LABELS = {
    "optimizer": {
        "sgd": "Baseline",
        "sparseopt": "SparseOpt",
        "ham": "Baseline w/ HAM",
        "sparseopt_ham": "SparseOpt w/ HAM",
        "equal_angle": "Equal angles",
    },
    "dst": {
        "rigl": "RigL",
        "set": "SET",
        "static": "Static mask",
        "dense": "Dense",
        "rigl_corrected": "RigL, growth by corrected gradients",
        "rigl_invariant": "RigL, invariant coordinates",
        "rigl_blind": "RigL, blind to dead neurons",
        "rigl_itop": "RigL, ITOP's settings",
        "set_itop": "SET, ITOP's settings",
        "srigl": "SRigL",
        "mest": "MEST",
        "gmp": "GMP",
        "granet": "GraNet",
        "snfs": "SNFS",
        "dsr": "DSR",
    },
    "model": {"resnet20": "ResNet20", "resnet50": "ResNet50", "mlp": "MLP"},
    # The theory's.
    "task.optimizer": {
        "sgd": "SGD",
        "sparseopt": "SparseOpt",
        "sparseopt_decay_scaled": "SparseOpt, decay scaled",
        "gd": "gradient descent",
        "ham": "HAM",
        "ham_flow": "HAM flow",
    },
    "task.norm": {"batch": "with BN", "none": "without BN"},
    "task.init": {"library_default": "torch's initialization", "kaiming_normal": "Kaiming normal"},
    "task.scaling": {"none": "not scaled", "d": "scaled by √(1-s)", "eq12": "scaled by Eq. 12"},
    "task.place": {
        "mlp": "MLP, LN",
        "mlp_bn": "MLP, BN",
        "block_embedding": "block, embedding",
        "block_output": "block, output + residual",
    },
    "task.variant": {
        "exact": "all assumptions hold",
        "eps": "BN's usual eps",
        "decay_scaled": "decay scaled too",
        "classifier": "classifier corrected",
        "rigl": "RigL",
        "rigl_ranked": "RigL, ranked as SparseOpt",
        "rigl_invariant": "RigL, invariant",
        "rigl_invariant_rescaled": "RigL, invariant, rescaled",
        "ham": "HAM",
        "clipped": "norm bounded",
    },
}
NAMES = {
    "test_acc": "Test accuracy (%)",
    "train_acc": "Train accuracy (%)",
    "val_acc": "Validation accuracy (%)",
    "train_loss": "Train loss",
    "grad_norm": "Norm of the dense gradient",
    "clipped_share": "Share of the steps that are bounded",
    "itop_rate": "ITOP rate $R_m$ (%)",
    "flops/training": "FLOPs of training (% of dense)",
    "neurons/growth_share": "Growth in revived neurons (%)",
    "neurons/norm_ratio": "Largest neuron norm over median",
    "neurons/layer_growth_share": "Growth of these layers in revived neurons (%)",
    "sparsity": "Sparsity",
    "optimizer": "Method",
    "model": "Model",
    "dst": "DST method",
    "epochs": "Total training epochs",
    "epoch": "Epoch",
    "lr": "Learning rate",
    "weight_decay": "Weight decay",
    "momentum": "Momentum",
    "drop_fraction": "Drop fraction",
    "update_every": "Update frequency",
    # The theory's.
    "task": "Measurement",
    "task.norm": "Normalization",
    "task.eps": "BN's eps",
    "task.init": "Initial weights",
    "task.law": "Std of initial weights",
    "task.scaling": "Gradient",
    "task.fan_ins": "Fan-ins",
    "task.place": "Layer",
    "task.variant": "Setting",
    "raw_angle": "angle, raw",
    "raw_corrected_angle": "angle, corrected",
    "fixed_angle": "angle, raw, fixed",
    "fixed_corrected_angle": "angle, corrected, fixed",
    "angle_raw": "angle, raw",
    "angle_corrected": "angle, corrected",
    "exponent_first": "exponent, first step",
    "exponent_last": "exponent, last step",
    "flipped_low": "95% from",
    "flipped_high": "95% to",
    "iterations_low": "95% from",
    "iterations_high": "95% to",
}

# Metrics that a run has for each group of its parameters (`train.diagnostics`).
OF_A_GROUP = {
    "step_ratio": "Step over weights",
    "fan_in_spread": "Spread of fan-in",
    "unread_inputs": "Unread inputs",
    "dead_neurons": "Dead neurons",
}

# What studies ask for. A value that is not listed stands where {} is.
OPTIONS = {
    "renorm": {"unit": "norm bounded", "none": "no bound"},
    "optimizer.renorm.over": {"dense": "norm of dense gradients", "masked": "norm of masked gradients"},
    "optimizer.renorm.max_norm": {"": "bound of {}"},
    "optimizer.precondition.average": {"none": "D alone", "global": "s_avg over all neurons"},
    "optimizer.precondition.per": {"layer": "its mean in each layer"},
    "optimizer.precondition.layers": {"normalized": "normalized layers alone"},
    "optimizer.precondition.scale_decay": {"True": "decay scaled too"},
    "optimizer.precondition.radians": {"": "{} radians per unit of learning rate"},
    "optimizer.mirror.beta": {"": "HAM's beta {}"},
    "one_dimensional_lr": {"": "{} times the rate on one-dimensional parameters"},
    "weight_decay_on": {"weights": "decay on weights alone", "all": "decay on all parameters"},
    "weight_decay": {"": "weight decay {}"},
    "lr": {"": "learning rate {}"},
    "init": {
        "dense_fan_in": "initial weights by dense fan-in",
        "own_fan_in": "initial weights by own fan-in",
        "over_sqrt_c": "initial weights over sqrt(c)",
    },
    "topology.exclude": {
        "[fc.weight]": "dense classifier",
        "[conv1.weight]": "dense first convolution",
        "[*.shortcut.*]": "dense shortcuts",
        "[fc.weight,*.shortcut.*]": "dense classifier and shortcuts",
    },
    "nesterov": {"True": "Nesterov's momentum", "False": "ordinary momentum"},
    "topology.distribution": {"uniform": "uniform sparsity"},
    "model.shortcut": {"": "shortcut {}"},
    "amp": {"none": "in float32"},
    "dst.decay": {"constant": "constant drop fraction"},
    "dst.skip_step": {"False": "a step at updates too"},
    "dst.stop_fraction": {"1.0": "updates until the end"},
    "dst.method.rank_as": {"": "ranked as {}", "invariant": "ranked in invariant coordinates"},
    "dst.method.rescale": {"True": "rescaled at updates"},
}

# SparseOpt without s_avg is D alone, whichever table asks for it.
AVERAGE = "optimizer.precondition.average"
D_ALONE = "D alone"
ABOUT_D_ALONE = f"{D_ALONE}: gradients times sqrt(1 - s_i), without s_avg, as Appendix F has it."


def label(factor: str, value: object, methods: Mapping[str, str] | None = None) -> str:
    """The word for one value of a factor; `methods` are those of a sweep that has other words for its optimizers."""
    if factor.removeprefix("task.") == "sparsity":
        return f"{100 * float(value):g}%"
    text = str(value)
    if methods and factor == "optimizer" and text in methods:
        return methods[text]
    if re.fullmatch(r"\d+\.\d{6,}", text):
        return f"{float(text):.4g}"
    return LABELS.get(factor, {}).get(text, text)


def option(factor: str, value: object) -> str:
    """What a study asks for by one option, in words; of an option without words its last key: `over=dense`."""
    words, text = OPTIONS.get(factor, {}), str(value)
    shown = words.get(text, words.get(""))
    if shown is not None:
        return shown.format(label("optimizer", text))
    if factor in LABELS or factor == "sparsity":
        return label(factor, value)
    return f"{factor.rpartition('.')[2]}={text}"


def name(factor: str) -> str:
    """The word for a factor, a metric or a column; the theory's have that of the factor they are named after.

    A metric of one group of parameters has its own word and the group: `Spread of fan-in, layer3`.
    """
    kind, of = split(factor)
    if of != factor:
        return ", ".join(filter(None, [name(of), COLUMNS[kind].words]))
    metric, _, group = factor.partition("/")
    if metric in OF_A_GROUP:
        return f"{OF_A_GROUP[metric]}, {group}"
    return NAMES.get(factor, NAMES.get(factor.removeprefix("task."), factor))


def titled(title: str, scale: str) -> str:
    """A title that names its scale; of a rehearsal first, since the rest names the paper's data set."""
    if sweeps.is_rehearsal(scale):
        return f"{sweeps.reduced(scale)} Laid out as: {title}"
    return f"{title} {sweeps.reduced(scale)}".rstrip()


def picture(title: str, name: str) -> str:
    """The line of a page that shows an artifact's picture, light or dark as the reader's page is."""
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">'
    return f'<picture>{dark}<img src="{name}.png" alt="{escape(title)}"></picture>\n'


def notes(sweep: Sweep) -> list[str]:
    """What stands below the title of its page: the artifact's own note, and what D alone is."""
    return [
        *([sweep.artifact["note"]] if "note" in sweep.artifact else []),
        *([ABOUT_D_ALONE] if methods_of(sweep) else []),
    ]


def methods_of(sweep: Sweep) -> dict[str, str]:
    """Optimizer -> its word, for those whose configuration in this sweep makes them something else than their label.

    Empty where s_avg varies within the sweep: there each setting names it.
    """
    if {"s_avg", AVERAGE} & set(sweep.factors):
        return {}
    asked = dict.fromkeys(cell.factors["optimizer"] for cell in sweep.cells if "optimizer" in cell.factors)

    def without_average() -> list[str]:
        composed = {one: sweeps.configuration(sweep.name, {"optimizer": one}) for one in asked}
        return [one for one, cfg in composed.items() if OmegaConf.select(cfg, AVERAGE) == "none"]

    without = sweeps.remembered(["D alone", sweep.name, *asked], without_average)
    return {one: label("optimizer", one).replace("SparseOpt", D_ALONE) for one in without}
