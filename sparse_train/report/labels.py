"""How factors are called in tables and figures. The paper's "Ours" is SparseOpt; ours are the numbers measured here."""

LABELS = {
    "optimizer": {
        "sgd": "Baseline",
        "sparseopt": "SparseOpt",
        "ham": "Baseline w/ HAM",
        "sparseopt_ham": "SparseOpt w/ HAM",
    },
    "dst": {
        "rigl": "RigL",
        "set": "SET",
        "static": "Static mask",
        "dense": "Dense",
        "rigl_corrected": "RigL, growth by corrected gradients",
    },
}
NAMES = {
    "test_acc": "Test accuracy (%)",
    "train_acc": "Train accuracy (%)",
    "itop_rate": "ITOP rate $R_m$ (%)",
    "sparsity": "Sparsity",
    "optimizer": "Method",
    "dst": "DST method",
    "epochs": "Total training epochs",
    "epoch": "Epoch",
    "lr": "Learning rate",
    "drop_fraction": "Drop fraction",
    "update_every": "Update frequency",
}


def label(factor: str, value: object) -> str:
    """The word for one value of a factor."""
    if factor == "sparsity":
        return f"{100 * float(value):g}%"
    return LABELS.get(factor, {}).get(str(value), str(value))


def name(factor: str) -> str:
    """The word for a factor or a metric."""
    return NAMES.get(factor, factor)
