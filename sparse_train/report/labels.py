"""How factors are called in tables and figures: the paper's words."""

LABELS = {
    "optimizer": {
        "sgd": "Baseline (SGD)",
        "sparseopt": "SparseOpt",
        "ham": "Baseline w/ HAM",
        "sparseopt_ham": "SparseOpt w/ HAM",
    },
    "dst": {"rigl": "RigL", "set": "SET", "static": "Static", "dense": "Dense"},
}
NAMES = {
    "test_acc": "Test accuracy (%)",
    "train_acc": "Train accuracy (%)",
    "sparsity": "Sparsity",
    "optimizer": "Method",
    "epochs": "Training epochs",
    "epoch": "Epoch",
}


def label(factor: str, value: object) -> str:
    """The word for one value of a factor."""
    if factor == "sparsity":
        return f"{100 * float(value):g}%"
    return LABELS.get(factor, {}).get(str(value), str(value))


def name(factor: str) -> str:
    """The word for a factor or a metric."""
    return NAMES.get(factor, factor)
