"""Who is compared with, at which commit, and how their code gets here: into parity/peers/, which git ignores."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "parity" / "peers"
SOURCE = "https://github.com/{owner}/{name}"
QUIET = {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "GIT_TERMINAL_PROMPT": "0"}


class Peer(NamedTuple):
    """A repository and what is asked of it.

    Attributes:
        part: the folder or file of it that is checked out.
        path: where its packages lie.
        cases: names in `parity.adapters` -> what the table says of them.
        own_environment: of parity/requirements.txt; else ours.
    """

    owner: str
    name: str
    commit: str
    part: str
    cases: dict[str, str]
    path: str = "."
    own_environment: bool = False

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.name}"

    def row(self, case: str, counts: str) -> str:
        """Of a table of the comparison: code, commit, what of it, and what was counted."""
        place = f"https://github.com/{self.repository}"
        return f"| [{self.repository}]({place}) | `{self.commit[:8]}` | {self.cases[case]} | {counts} |"


PEERS = [
    Peer(
        "google-research",
        "rigl",
        "d39fc7d46505cb3196cb1edeb32ed0b6dd44c0f9",
        "rigl",
        {"google-quiet": "RigL, its noise off", "google": "RigL, with its noise of 1e-5 on magnitudes"},
        own_environment=True,
    ),
    Peer(
        "google-research",
        "jaxpruner",
        "f133ee50f31a03d0152b8b272edb534065152f5d",
        "jaxpruner",
        {"jaxpruner": "RigL; rounds the number that stays"},
        own_environment=True,
    ),
    Peer(
        "nollied", "rigl-torch", "34d19e4eb2df58862fd8f38b685ff693246ba478", "rigl_torch", {"rigl-torch": "RigL; floor"}
    ),
    Peer(
        "calgaryml",
        "condensed-sparsity",
        "3052bb8bd708918576df4e6e66f273e37c960b24",
        "src/rigl_torch",
        {"SRigL": "SRigL's RigL; floor"},
        path="src",
    ),
    Peer(
        "Shiweiliuiiiiiii",
        "In-Time-Over-Parameterization",
        "1b6a89e6a467c8fc09f5c9571927ca5ad7c7ef00",
        "sparselearning",
        {"ITOP": "ITOP, growth by gradient; ceil"},
    ),
]
METHODS = [
    Peer(
        "calgaryml",
        "condensed-sparsity",
        "3052bb8bd708918576df4e6e66f273e37c960b24",
        "src/rigl_torch",
        {"srigl": "SRigL, a neuron taken away below 60% of its fan-in"},
        path="src",
    ),
    Peer(
        "boone891214",
        "MEST",
        "a4280265512564928c322fb078c33fe5b76ca87c",
        "prune_utils",
        {"mest": "MEST, what is dropped with lambda 1; what is grown is random"},
    ),
    Peer(
        "VITA-Group",
        "GraNet",
        "f338a2479758ba35660c3d64422ee9c83abb02a5",
        "CIFAR/sparselearning",
        {"granet": "GraNet", "gmp": "its GMP, the same sparsity in every layer"},
        path="CIFAR",
    ),
    Peer(
        "TimDettmers",
        "sparse_learning",
        "e19ff16c475462d50ad247ec2927113617662a4e",
        "sparselearning",
        {"snfs": "SNFS, sparse momentum"},
    ),
]
HAM = Peer(
    "TomJacobs05", "HAM", "5128597bd4a5c9a2c1f16c4fe1f541c296e4c1de", "README.md", {"HAM": "its authors' wrapper"}
)


def fetch(peer: Peer) -> Path:
    """Its files at the pinned commit, cloned if they are not here. `PEERS` is where from: a URL or path with {owner}
    and {name} in it.

    Raises:
        RuntimeError: with the last line that git said.
    """
    place = PLACE / f"{peer.owner}+{peer.name}+{peer.commit[:8]}"
    if not place.is_dir():
        source = os.environ.get("PEERS") or SOURCE
        source = source.replace("{owner}", peer.owner).replace("{name}", peer.name)
        _run("git", "clone", "--quiet", "--no-checkout", source, str(place))
    _run("git", "-C", str(place), "checkout", "--quiet", peer.commit, "--", peer.part)
    return place


def answer(peer: Peer, case: str, given: Path, module: str = "parity.adapters") -> np.ndarray:
    """What one case makes of a file of inputs, in a process of its own, by the adapter of that name in `module`."""
    place = fetch(peer)
    python = _environment() if peer.own_environment else sys.executable
    result = PLACE / f"{case}.npy"
    result.unlink(missing_ok=True)
    packages = os.pathsep.join([str(place / peer.path), str(ROOT)])
    _run(python, "-m", module, case, str(given), str(result), cwd=place, PYTHONPATH=packages)
    return np.load(result)


def _environment() -> str:
    """The Python of the peers' environment, made if it is not complete."""
    place, wanted = PLACE / "venv", ROOT / "parity" / "requirements.txt"
    installed = place / "installed.txt"
    python = str(place / "bin" / "python")
    if not installed.exists() or installed.read_text() != wanted.read_text():
        _run(sys.executable, "-m", "venv", "--clear", str(place))
        _run(python, "-m", "pip", "install", "--quiet", "-r", str(wanted))
        installed.write_text(wanted.read_text())
    return python


def _run(*command: str, cwd: Path = ROOT, **environment: str) -> None:
    environment = {**os.environ, **QUIET, **environment}
    done = subprocess.run(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(said[-1] if said else f"{command[0]} ended with status {done.returncode}")
