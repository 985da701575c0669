"""Is a downloaded data set there and whole?"""

import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from torchvision.datasets.utils import check_integrity

from sparse_train.errors import ConfigError


def ensure(data_dir: str, files: Mapping[str, str], download: Callable[[str], object] | None, source: str) -> None:
    """Make sure that every file is under `data_dir` with the right MD5, downloading what is missing.

    Args:
        files: path relative to `data_dir` -> MD5.
        download: fetches the data set into the directory that it is given; None where downloading is not wanted.
        source: where a user finds the data set, for the error.

    Raises:
        ConfigError: names each file that is missing or damaged. A damaged file is never replaced.
    """
    root = Path(data_dir)
    if all(check_integrity(root / name, md5) for name, md5 in files.items()):
        return
    reason = "downloading is off (download=false)"
    if odd := [name for name in files if (root / name).exists() and not (root / name).is_file()]:
        raise ConfigError("data_dir", data_dir, f"not a regular file: {', '.join(odd)}; get the data set from {source}")
    if damaged := [name for name in files if (root / name).exists() and not check_integrity(root / name, files[name])]:
        reason = f"damaged (wrong MD5, delete to download again): {', '.join(damaged)}"
    elif download is not None:
        try:
            _download(root, files, download)
            reason = "the download is incomplete"
        except Exception as error:  # torchvision raises whatever its transport did
            reason = f"the download failed ({type(error).__name__}: {error})"
        if all(check_integrity(root / name, md5) for name, md5 in files.items()):
            return
    missing = [name for name in files if not (root / name).exists()]
    right = f"put {', '.join(missing)} there, from {source}" if missing else f"get the data set from {source}"
    raise ConfigError("data_dir", data_dir, f"{reason}; {right}")


def _download(root: Path, files: Mapping[str, str], download: Callable[[str], object]) -> None:
    """Download and unpack elsewhere, then move each complete file into place: no partial file is ever left."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as directory, ExitStack() as after:
        after.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(30)
        place = Path(directory)
        for folder in {Path(name).parent for name in files} | {Path()}:
            (place / folder).mkdir(parents=True, exist_ok=True)
            for archive in (root / folder).glob("*.gz"):  # brought here by hand
                (place / folder / archive.name).symlink_to(archive.resolve())
        download(directory)
        for name, md5 in files.items():
            if check_integrity(place / name, md5):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(place / name, root / name)
