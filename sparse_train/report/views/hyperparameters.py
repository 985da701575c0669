"""Tables 4 and 5, rendered from the configuration that runs use, so that they cannot drift from it."""

from omegaconf import OmegaConf

from sparse_train.report.sweeps import configuration, remembered

ROWS = (  # the paper's rows and what they are here; one whose key is not there is left out, as HAM's in Table 5
    ("Optimizer", "SGD with momentum", None),
    ("Batch size (B)", None, "batch_size"),
    ("Learning rate (eta)", None, "lr"),
    ("Learning rate schedule", "linear warm-up, cosine decay", None),
    ("Warm-up epochs (Appendix E.2)", None, "lr_schedule.warmup_epochs"),
    ("First learning rate (Appendix E.2)", None, "lr_schedule.init"),
    ("Final learning rate (Appendix E.2)", None, "lr_schedule.end"),
    ("Peak scales with B over (Appendix E.2)", None, "lr_schedule.reference_batch"),
    ("Momentum", None, "momentum"),
    ("Nesterov (open)", None, "nesterov"),
    ("Weight decay", None, "weight_decay"),
    ("Weight decay on (open)", None, "weight_decay_on"),
    ("Sparsity distribution", None, "topology.distribution"),
    ("Drop fraction (f_drop)", None, "dst.drop_fraction"),
    ("Drop fraction over time (open)", None, "dst.decay"),
    ("Updates stop at share of steps (open)", None, "dst.stop_fraction"),
    ("Update frequency (Delta T)", None, "dst.every"),
    ("HAM hyperparameter (h1)", None, "optimizer.mirror.alpha"),
)


def lines(overrides: list[str], name: str) -> list[list[str]]:
    """A head; the rows of one data set and model; "open" rows settle what the paper leaves open."""
    return remembered(["hyperparameters", name, *overrides], lambda: _lines(overrides, name))


def _lines(overrides: list[str], name: str) -> list[list[str]]:
    cfg = configuration(name, dict(override.split("=", 1) for override in overrides))
    made = [["Hyperparameter", "Value", "Key"]]
    for words, fixed, key in ROWS:
        value = fixed or OmegaConf.select(cfg, key)
        if value is not None:
            made.append([words, f"{value:g}" if isinstance(value, float) else str(value), f"`{key}`" if key else ""])
    return made
