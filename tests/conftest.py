import gc
import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from torch import nn
from torchvision.datasets import CIFAR100

from sparse_train.__main__ import CONF
from sparse_train.process import console
from support.progress import ByFile
from support.wandb_server import end_service, serving

# Files that train whole runs, start programs or open a browser: `make test-fast` leaves them out.
SLOW = [
    "chaos",
    "child",
    "command_line",
    "dashboard",
    "distributed",
    "faults",
    "figures",
    "finished",
    "foreign",
    "gpu_check",
    "interruption",
    "launch",
    "lock",
    "mixtures",
    "multirun",
    "page",
    "report",
    "reproduce",
    "restore",
    "results",
    "resume",
    "run",
    "security",
    "sinks",
    "slurm",
    "surroundings",
    "sweeps",
    "theory",
    "trained",
    "uploads",
    "watch",
]


def pytest_collection_modifyitems(items):
    """The slow files come first, so that at the end no process waits long for another."""
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker("slow")
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in SLOW)


def pytest_collection_finish():
    """What is imported by now stays: no collection of garbage walks through it, and every run makes one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def words():
    """No test takes the words of those after it, as one that is a rank other than 0 does."""
    yield
    console.quiet(False)


def pytest_unconfigure():
    gc.unfreeze()


def pytest_configure(config):
    if not hasattr(config, "workerinput") and config.get_verbosity() == 0:
        config.pluginmanager.register(ByFile(config))


@pytest.fixture(autouse=True)
def _one_thread():
    """Another number of threads changes the last bits."""
    torch.set_num_threads(1)


@pytest.fixture
def compose_config():
    """A configuration as the command line would compose it."""

    def composed(*overrides: str):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=list(overrides))

    return composed


class SmallNet(nn.Module):
    """Two normalized convolutions and a classifier: every kind of layer that matters, in milliseconds."""

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8, eps=eps)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8, eps=eps)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def small_net():
    """The same network, with the same weights, every time it is called."""

    def made(dtype=torch.float32, eps: float = 1e-5) -> SmallNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return SmallNet(eps).to(dtype)

    return made


@pytest.fixture
def batch():
    """The images and labels of one step, the same every time."""

    def drawn(step: int, size: int = 8, dtype=torch.float32):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(size, 3, 6, 6, generator=generator, dtype=torch.float64).to(dtype)
        return images, torch.randint(5, (size,), generator=generator)

    return drawn


@pytest.fixture
def image_folder(tmp_path):
    """Two classes of small images, where ImageNet would be; gives the `data_dir`."""
    random = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 3)):
        for name in ("n01", "n02"):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (40, 50, 3) if i % 2 else (50, 36, 3)
                Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path


@pytest.fixture
def wandb_home(tmp_path, monkeypatch):
    """No key and no settings of W&B but those that a test gives."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    end_service()


@pytest.fixture
def server(wandb_home, monkeypatch):
    """A W&B server on loopback that keeps what it is sent; wandb talks to it."""
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
        end_service()


@pytest.fixture
def cifar_dir(tmp_path, monkeypatch):
    """CIFAR-100: files of the right form with other images; their MD5s stand in for the official ones."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    random = np.random.default_rng(0)
    md5 = {}
    for name, count in (("train", 40), ("test", 20), ("meta", 0)):
        content = {"data": random.integers(0, 256, (count, 3072), dtype=np.uint8)}
        content["fine_labels"] = list(range(count))
        content["fine_label_names"] = [f"class {i}" for i in range(100)]
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5["meta"]})
    return tmp_path
