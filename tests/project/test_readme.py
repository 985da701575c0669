"""The README and the pages of `docs/` keep their word."""

import re
import subprocess

import torch
from torch import nn

from sparse_train.process.console import closing_block, epoch_line
from sparse_train.report import sweeps
from support.runs import ROOT

README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *ROOT.glob("docs/*.md")]}
TEXT = "\n".join(PAGES.values())


def snippet():
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return code


def test_the_snippet_is_at_most_ten_lines_and_trains():
    code = snippet()
    assert len(code.strip().splitlines()) <= 10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    inputs = torch.randn(400, 20)
    labels = (inputs[:, :4]).argmax(1)
    batches = [(inputs[i : i + 40], labels[i : i + 40]) for i in range(0, 400, 40)]
    names = {"model": model, "epochs": 30, "batches": batches, "loss": nn.CrossEntropyLoss()}
    before = nn.functional.cross_entropy(model(inputs), labels).item()
    exec(code, names)
    assert nn.functional.cross_entropy(model(inputs), labels).item() < before / 2
    topology = names["topology"]
    assert topology.sparsity() > 0.89
    assert topology.itop_rate() > 0.11, "the topology has moved"


def test_the_readme_is_a_landing_page():
    assert len(README.splitlines()) <= 120
    code = re.findall(r"```\w+\n(.*?)```|^(    [^\n]*)$", README, re.DOTALL | re.MULTILINE)
    lines = [line for fenced, indented in code for line in (fenced or indented).splitlines()]
    assert len(lines) > 30
    assert [line for line in lines if len(line) > 104] == [], "GitHub's box cuts them off"


def test_the_screen_is_that_of_a_run(compose_config):
    """Its lines are as the code makes them today; the id is that of its command, and of a committed run."""
    from sparse_train import config

    command, name, *screen, run_dir = re.search(r"^    \$ (python.*?)\n\n", README, re.DOTALL | re.MULTILINE)[1].split(
        "\n    "
    )
    made = config.run_id(compose_config(*command.split()[3:]))
    assert run_dir == f"runs/{made}"
    assert name == f"digits resnet20 rigl sgd 0.9 seed 0 (run {made})"
    assert made in (ROOT / "results/records/runs.csv").read_text()
    row = {"epoch": 29, "train_loss": 0.179, "train_acc": 95.1, "test_acc": 88.90, "lr": 0.0407, "seconds": 0.2}
    assert epoch_line([{**row, "test_acc": 88.89}, row], 50) in screen
    best = {"epoch": 47, "test_acc": 90.36}
    final = {"epoch": 50, "test_acc": 90.13, "realised_sparsity": 0.9, "itop_rate": 0.2237, "images_per_second": 4554}
    record = {"status": "complete", "name": name.partition(" (")[0], "seconds": 10, "final": final, "best": best}
    files = ["checkpoint.pt", "history.jsonl", "masks.safetensors", "model.safetensors", "record.json"]
    assert closing_block(record, files, f"{command} seed=1") == screen[-6:]
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) < 200


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z0-9-]+%?):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for named in set(re.findall(r"(?:^    |`)make ([a-z][a-z0-9-]*[a-z0-9])(?![\w*%-])", TEXT, re.MULTILINE)):
        verb, _, artifact = named.partition("-")
        assert named in targets or (f"{verb}-%" in targets and artifact in [*sweeps.names(), "all"]), named
    assert {"quickstart", "test", "help"} <= set(re.findall(r"make ([a-z]+)", README))


def test_the_quickstart_changes_no_file_that_git_knows():
    run = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    told = subprocess.run(["make", "--dry-run", "--silent", "quickstart"], **run).stdout.splitlines()
    assert told[-1].endswith("--results-dir results/mine")
    written = ["results/mine/records/quickstart.csv", "results/mine/README.md", "results/.lock", "runs/x"]
    ignored = subprocess.run(["git", "check-ignore", "--no-index", *written], **run).stdout.splitlines()
    assert ignored == written


def test_make_help_explains_every_target():
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    [phony] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    explained = [line.split()[1] for line in shown.splitlines()]
    assert [name for name in explained if not name.endswith("-NAME")] == phony.split()
    assert {"reproduce-NAME", "draw-NAME", "status-NAME"} <= set(explained)


def test_commands_compose(compose_config):
    from sparse_train import config

    commands = re.findall(r"^python -m sparse_train ((?:[a-z_.]+=\S+ ?)+)", TEXT, re.MULTILINE)
    assert len(commands) >= 3
    for overrides in commands:
        config.check(compose_config(*(word for word in overrides.split() if "=$" not in word)))


def test_files_that_are_linked_exist():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
