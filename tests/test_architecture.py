"""Imports go down only, files stay small, and the reporting wing reads records alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sparse_train"

# From the ground up. A module may import from its own layer's lower lines and from lower layers, never upwards.
LAYERS = [
    ["errors", "randomness", "files", "integrity", "log", "interruption", "source", "wandb_run"],
    ["lease"],
    ["interpolations", "targets"],
    ["hydra_node"],
    ["composition", "command_line"],
    ["config", "lock", "distributed", "slots"],
    ["meter", "segments"],
    [
        "sparsity.density",
        "sparsity.exploration",
        "sparsity.masks",
        "sparsity.growth",
        "sparsity.schedule",
        "sparsity.flops",
        "sparsity.layers",
    ],
    ["sparsity.normalized"],
    ["sparsity.topology"],
    ["sparsity"],
    ["optim.sparseopt", "optim.equal_angle", "optim.ham", "optim.renorm", "optim.clip", "optim.lr", "optim.existing"],
    ["optim.group"],
    ["sparsity.lengths", "sparsity.adopt", "sparsity.attached"],
    ["sparsity.updater"],
    ["optim.sgd"],
    ["optim"],
    ["models.resnet_cifar", "models.mlp", "models.imagenet", "models.init", "models"],
    ["data.memory", "data.files"],
    ["data.cifar", "data.digits", "data.imagenet", "data.mnist", "data"],
    ["environment", "record", "checkpoint", "diagnostics"],
    ["facts", "agreement", "sinks", "keeper", "export", "inference", "multirun"],
    ["loop", "finished"],
    ["build"],
    ["tasks", "theory", "theory.gradients", "theory.invariants", "theory.measurement"],
    [
        "theory.dynamics",
        "theory.balance",
        "theory.layer_norm",
        "theory.bn_gradient",
        "theory.equivalence",
        "theory.equilibrium",
    ],
    ["theory.student_teacher", "theory.gradient_skew", "theory.amplification"],
    ["theory.sign_flips"],
    ["__main__"],
]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield (name.removesuffix(".__init__") if name != "__init__" else ""), path


def imports(path):
    """Names of our own modules that a file imports when it runs; those for type checkers are left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    known = {name for name, _ in modules()}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sparse_train":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "sparse_train"]
        for name in names:
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in known:
                parts = parts[:-1]
            yield ".".join(parts)


def test_every_module_has_a_layer():
    training = {name for name, _ in modules() if name and not name.startswith("report")}
    assert training == {name for layer in LAYERS for name in layer}


def test_imports_go_down_only():
    height = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    upward = [
        f"{name} imports {other}"
        for name, path in modules()
        if name in height
        for other in imports(path)
        if other and height[other] >= height[name] and other != name
    ]
    assert upward == []


def test_the_reporting_wing_imports_nothing_that_trains():
    allowed = {"errors", "composition", "config", "files", "integrity", "lock", "segments", "source", "wandb_run"}
    wrong = [
        f"{name} imports {other}"
        for name, path in modules()
        if name.startswith("report")
        for other in imports(path)
        if other and not other.startswith("report") and other not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["sparse_train", "sparse_train.config", "sparse_train.report.__main__"])
def test_reports_need_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_are_one_noun_each():
    long = {name: lines for name, path in modules() if (lines := len(path.read_text().splitlines())) > 250}
    assert long == {}


def test_public_names_exist():
    import sparse_train

    assert sorted(sparse_train._HOMES) == sorted(sparse_train.__all__)
    for name in sparse_train.__all__:
        assert getattr(sparse_train, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sparse_train.nothing  # noqa: B018
