"""A W&B run of ours: what it is called, what it holds, how it is sent. Needs no torch; raises whatever wandb raises.

Seen with wandb 0.31: `init` asks for a key on a terminal, and waits 90 s for a server; an id stays in use after an
`init` that failed; rows below a resumed run's first step are refused; that a server refuses rows stands in a log alone.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparse_train.errors import first_line
from sparse_train.record.integrity import FINISHED

PROJECT = "sparse_train"
PATIENCE = 20.0  # seconds at the end of a run for what is still to be sent
UPLOAD = 1800  # seconds for an artifact
BEST = "best/"
ABOUT = (
    "sweep",
    "git",
    "code",
    "foreign",
    "versions",
    "hardware",
    "threads",
    "processes",
    "model_arguments",
    "layers",
    "flops",
)
LINK = "https://arxiv.org/abs/2605.27541"
PERCENT = {"itop_rate": "itop_percent"}  # shares that people read in percent, as everywhere else
SYNCED = ".synced"  # `wandb sync` leaves a file of this ending beside what it has uploaded, and so do we
WHOLE = ".whole"  # ours, beside files that hold a run to its end


def options(
    record_id: str,
    metadata: dict,
    project: str = PROJECT,
    entity: str | None = None,
    group: str | None = None,
    tags: Iterable = (),
    resumes: bool = True,
) -> dict:
    """The arguments of `wandb.init` that say what run it is.

    Args:
        metadata: of the run's record: name, config, and what may be: choices, sweep, versions, hardware, ...
        group: None for the sweep that the run was launched for.
        tags: besides the options that were taken.
        resumes: whether what W&B has of this id is the beginning of this run; else it is replaced.
    """
    sweep, epochs = metadata.get("sweep"), metadata["config"].get("epochs")
    sweep = default_group(sweep, metadata["config"].get("scale", "paper"))
    named = f"{metadata['name']}, {epochs} epochs" if epochs else metadata["name"]
    return {
        "project": os.environ.get("WANDB_PROJECT", project) if project == PROJECT else project,
        "entity": entity,
        "group": group or os.environ.get("WANDB_RUN_GROUP") or sweep,
        "tags": list(dict.fromkeys([*default_tags(metadata.get("choices", {}), metadata["config"]), *tags])),
        "id": record_id,
        "name": os.environ.get("WANDB_NAME") or named,
        "notes": f"{f'Of the sweep {sweep}. ' if sweep else ''}Reproduces SparseOpt, {LINK}",
        "config": {
            **{key: metadata[key] for key in ABOUT if key in metadata},
            **{option_key(group): option for group, option in metadata.get("choices", {}).items()},
            **metadata["config"],
        },
        "resume": "allow" if resumes else None,
    }


def option_key(group: str) -> str:
    """Where the config says which option of a group was taken: `dst_option` is rigl, `dst` what it stands for."""
    return f"{group}_option"


def default_group(sweep: str | None, scale: str) -> str | None:
    """The sweep, with its scale where that is not the paper's; None for a run of its own."""
    return sweep if sweep is None or scale == "paper" else f"{sweep} {scale}"


def default_tags(choices: dict[str, str], config: dict) -> list[str]:
    """cifar100, resnet20, rigl, sparseopt, paper, ..., sparsity 0.9: no `paper` for digits, which the paper has not."""
    taken = [choices.get(group) for group in ("dataset", "model", "dst", "optimizer", "renorm", "scale")]
    left_out = (None, "none", *(("paper",) if choices.get("dataset") == "digits" else ()))
    sparsity = [f"sparsity {config['sparsity']:g}"] if config.get("sparsity") else []
    return [option for option in taken if option not in left_out] + sparsity


def authenticate(mode: str = "online") -> None:
    """Find the API key without prompting or printing."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its telemetry complains of the network on its own
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no API key; `wandb login` asks for one")


def begin(described: dict, directory: Path, mode: str, init_timeout: float) -> Any:
    """A started W&B run whose axis is the epoch; its files are under `directory`/wandb."""
    authenticate(mode)
    import wandb  # an extra: only those who ask for W&B need it

    patience = {"init_timeout": init_timeout, "finish_timeout": PATIENCE, "finish_timeout_raises": True}
    settings = wandb.Settings(**patience, silent=True, console="off")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(**described, mode=mode, dir=os.environ.get("WANDB_DIR") or str(directory), settings=settings)
    except Exception:
        wandb.teardown()
        raise
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    return run


def metric(key: str) -> str:
    """What a key of the history is called in W&B."""
    return PERCENT.get(key, key)


def shown(row: dict) -> dict:
    """An epoch as W&B shows it."""
    return {metric(key): 100 * value if key in PERCENT else value for key, value in row.items()}


def send(run: Any, row: dict) -> None:
    """One epoch, its number being the step; nothing where W&B has it from an earlier process."""
    if row["epoch"] >= run.starting_step:
        run.log(shown(row), step=row["epoch"])
    require_taken(run)


def end(run: Any, record: dict, files: Iterable[Path] = ()) -> None:
    """Final and best metrics, the record's last word, and the end.

    Args:
        files: to send as an artifact of the run.
    """
    best = {BEST + key: value for key, value in shown(record.get("best", {})).items()}
    run.summary.update({**shown(record.get("final", {})), **best, "status": record["status"]})
    online, file = not run.offline, Path(run.settings.sync_file)
    if files:
        _send_files(run, files, online)
    run.finish(exit_code=int(record["status"] != "complete"))
    if online:
        require_taken(run)
        file.with_name(file.name + SYNCED).touch()
    if record["status"] in FINISHED:
        file.with_name(file.name + WHOLE).touch()


def _send_files(run: Any, files: Iterable[Path], online: bool) -> None:
    import wandb

    artifact = wandb.Artifact(f"model-{run.id}", type="model", description="weights and masks of the last epoch")
    for path in files:
        artifact.add_file(str(path), policy="immutable")
    logged = run.log_artifact(artifact)
    if online:
        logged.wait(timeout=UPLOAD)


def require_taken(run: Any) -> None:
    """Raise an error if the server has refused rows, after which wandb sends no more and says nothing.

    Raises:
        RuntimeError: with the server's answer.
    """
    try:
        lines = Path(run.settings.log_internal).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if '"level":"ERROR+4"' in line:  # wandb's own level, above an error that it tries again
            raise RuntimeError(json.loads(line)["msg"].partition(" url=")[0])


def sent(directory: Path, record_id: str, mode: str) -> bool:
    """Whether all of a finished run has been sent to W&B, or lies in its files for `make wandb-sync`."""
    marks = (WHOLE, SYNCED) if mode == "online" else (WHOLE,)
    return any(all(marked(file, mark) for mark in marks) for file in local_files(directory, record_id))


def marked(file: Path, mark: str) -> bool:
    """Whether a file of W&B's has this mark beside it."""
    return file.with_name(file.name + mark).exists()


def local_files(directory: Path, record_id: str) -> list[Path]:
    """W&B's files of a run, one for each process that began it, and the marks beside them."""
    places = {directory, Path(os.environ.get("WANDB_DIR") or directory)}
    ours = re.compile(rf".*run-\d+_\d+-{re.escape(record_id)}(-\d+)?")  # W&B numbers those that begin in one second
    found = (file for place in places for file in place.glob("wandb/*run-*/*.wandb*"))
    return [file for file in found if ours.fullmatch(file.parent.name)]


def words(error: Exception) -> str:
    """One line for whatever wandb raised."""
    return f"{type(error).__name__}: {first_line(error)}"
