"""How factors are called in tables and figures. The paper's "Ours" is SparseOpt; ours are the numbers measured here."""

import re
from collections.abc import Mapping

from sparse_train.report import sweeps

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
        "rigl_itop": "RigL, ITOP's settings",
        "set_itop": "SET, ITOP's settings",
        "srigl": "SRigL",
        "mest": "MEST",
        "gmp": "GMP",
        "granet": "GraNet",
        "snfs": "SNFS",
        "dsr": "DSR",
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
    "sparsity": "Sparsity",
    "optimizer": "Method",
    "dst": "DST method",
    "epochs": "Total training epochs",
    "epoch": "Epoch",
    "lr": "Learning rate",
    "drop_fraction": "Drop fraction",
    "update_every": "Update frequency",
}

# Values of the theory's keys.
WORDS = {
    "batch": "with BN",
    "none": "without BN",
    "library_default": "torch's initialization",
    "kaiming_normal": "Kaiming normal",
    "gd": "gradient descent",
    "ham": "HAM",
    "ham_flow": "HAM flow",
    "d": "scaled by $\\sqrt{1-s}$",
    "eq12": "scaled by Eq. 12",
    "sgd": "SGD",
    "sparseopt": "SparseOpt",
    "sparseopt_decay_scaled": "SparseOpt, decay scaled",
    "mlp": "MLP, LN",
    "mlp_bn": "MLP, BN",
    "block_embedding": "block, embedding",
    "block_output": "block, output + residual",
    "exact": "all assumptions hold",
    "eps": "BN's usual eps",
    "decay_scaled": "decay scaled too",
    "classifier": "classifier corrected",
    "rigl": "RigL",
    "rigl_ranked": "RigL, ranked as SparseOpt",
    "rigl_invariant": "RigL, invariant",
    "rigl_invariant_rescaled": "RigL, invariant, rescaled",
    "clipped": "norm bounded",
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
    "optimizer.precondition.radians": {"": "{} radians per step"},
    "optimizer.mirror.beta": {"": "HAM's beta {}"},
    "one_dimensional_lr": {"": "{} times the rate on one-dimensional parameters"},
    "weight_decay_on": {"weights": "decay on weights alone"},
    "weight_decay": {"": "weight decay {}"},
    "lr": {"": "learning rate {}"},
    "init": {"own_fan_in": "initial weights by own fan-in", "over_sqrt_c": "initial weights over sqrt(c)"},
    "topology.exclude": {"[fc.weight]": "dense classifier", "[conv1.weight]": "dense first convolution"},
    "topology.distribution": {"uniform": "uniform sparsity"},
    "model.shortcut": {"": "shortcut {}"},
    "dst.decay": {"constant": "constant drop fraction"},
    "dst.skip_step": {"False": "a step at updates too"},
    "dst.stop_fraction": {"1.0": "updates until the end"},
    "dst.rank_as": {"": "ranked as {}", "invariant": "ranked in invariant coordinates"},
    "dst.rescale": {"True": "rescaled at updates"},
}


def label(factor: str, value: object, methods: Mapping[str, str] | None = None) -> str:
    """The word for one value of a factor; `methods` are those of a sweep that has other words for its optimizers."""
    if factor == "sparsity":
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
    """The word for a factor or a metric."""
    return NAMES.get(factor, factor)


def in_words(value: object) -> str:
    """The word for a value of a key of the theory."""
    return WORDS.get(str(value), str(value))


def titled(title: str, scale: str) -> str:
    """A title that names its scale; of a rehearsal first, since the rest names the paper's data set."""
    if sweeps.is_rehearsal(scale):
        return f"{sweeps.reduced(scale)} Laid out as: {title}"
    return f"{title} {sweeps.reduced(scale)}".rstrip()
