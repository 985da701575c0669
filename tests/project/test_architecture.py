"""Imports go down only, never in a circle, and the reporting wing reads records alone."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sparse_train"

# From the ground up: folders, and files that lie beside them. What is below may not import what is above.
LAYERS = [
    ["errors", "randomness", "source", "pinned"],
    ["process"],
    ["config"],
    ["options"],
    ["record"],
    ["sparsity", "optim"],
    ["models", "data"],
    ["tracking"],
    ["train"],
    ["theory"],
    ["__main__"],
]
REPORT = [
    ["report.memory", "report.screen", "report.schema", "report.files", "report.views.columns"],
    ["report.sweeps"],
    ["report.results", "report.paper"],
    ["report.cost", "report.views"],
    ["report.evidence"],
    ["report.figures"],
    ["report.index", "report.draw"],
    ["report.launch"],
    ["report.page"],
    ["report.tracking"],
    ["report.__main__"],
]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield (name.removesuffix(".__init__") if name != "__init__" else ""), path


def imports(path, typed=False):
    """Names of our own modules that a file imports when it runs, or also those that it imports for type checkers."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if not typed and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
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


def layer(module):
    """How high a module stands, or None for the package itself."""
    height = {name: i for i, names in enumerate([*LAYERS, *REPORT]) for name in names}
    parts = module.split(".")
    places = (height.get(".".join(parts[:end])) for end in range(len(parts), 0, -1))
    return next((place for place in places if place is not None), None)


def test_every_module_has_a_layer():
    assert [name for name, _ in modules() if name not in ("", "report") and layer(name) is None] == []


def test_imports_go_down_only():
    upward = [
        f"{name} imports {other}"
        for name, path in modules()
        if layer(name) is not None
        for other in imports(path)
        if other and layer(other) > layer(name)
    ]
    assert upward == []


def test_no_imports_go_in_a_circle():
    """Those for type checkers included: a type that a module names is one that it knows."""
    below = {name: {other for other in imports(path, True) if other and other != name} for name, path in modules()}
    TopologicalSorter(below).prepare()  # raises CycleError, which names the circle


def test_the_reporting_wing_imports_nothing_that_trains():
    allowed = {"errors", "config", "process.console", "process.signals", "source", "tracking.wandb_run"}
    allowed |= {f"options.{name}" for name in ("composition", "names", "targets")}
    allowed |= {f"record.{name}" for name in ("files", "integrity", "lock", "segments")}
    wrong = [
        f"{name} imports {other}"
        for name, path in modules()
        if name.startswith("report")
        for other in imports(path)
        if other and not other.startswith("report") and other not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["sparse_train", "sparse_train.report.__main__"])
def test_reports_need_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_test_imports_another():
    files = list(Path(__file__).parents[1].rglob("*.py"))
    nodes = [(path.name, node) for path in files for node in ast.walk(ast.parse(path.read_text()))]
    found = [(name, node.module or "") for name, node in nodes if isinstance(node, ast.ImportFrom)]
    found += [(name, alias.name) for name, node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert [(name, other) for name, other in found if other.startswith("test_")] == []


def test_public_names_exist():
    import sparse_train

    assert sorted(sparse_train._HOMES) == sorted(sparse_train.__all__)
    for name in sparse_train.__all__:
        assert getattr(sparse_train, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sparse_train.nothing  # noqa: B018
