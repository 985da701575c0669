"""Runs of one artifact that were made differently: by other code, by other numbers of processes, or changed mid-run."""

from collections.abc import Iterator

import pandas as pd

from sparse_train.record import segments

COLUMNS = ("code", "processes", "sync_bn", "compile", "instructions", "mixture")
NAMED = 3  # so many runs are named


def columns(record: dict) -> dict:
    """What a collected row says of it, where there is something to say.

    `code`: the hash of the training code, or several, joined by "+". `processes`: if more than one, with `sync_bn` if
    used. `compile`: if used. `instructions`: the CPU's, where it computed. `mixture`: what changed on the way.
    """
    processes = record.get("processes", 1)
    said = {
        "code": "+".join(segments.codes(record)),
        "processes": processes if processes > 1 else None,
        "sync_bn": processes > 1 and record["config"].get("sync_bn"),
        "compile": record["config"].get("compile"),
        "instructions": record["hardware"].get("instructions") if record["hardware"]["device"] == "cpu" else None,
        "mixture": segments.mixture(record),
    }
    return {key: value for key, value in said.items() if value}


def words(complete: pd.DataFrame) -> str:
    """A sentence for each way in which the runs differ; empty where they do not."""
    return " ".join(_sentences(complete))


def _sentences(complete: pd.DataFrame) -> Iterator[str]:
    if "code" in complete and len(counts := complete["code"].fillna(segments.UNKNOWN).value_counts()) > 1:
        versions = {version for codes in counts.index for version in codes.split("+")}
        yield f"Made by {len(versions)} versions of the code: {_counted(counts)}."
    if "processes" in complete and len(counts := complete["processes"].fillna(1).astype(int).value_counts()) > 1:
        yield f"Made by different numbers of processes, each normalizing its share of a batch: {_counted(counts)}."
    if "sync_bn" in complete and (synced := complete["sync_bn"].notna().sum()):
        yield f"Of these, normalizing over the whole batch (sync_bn): {synced} {'run' if synced == 1 else 'runs'}."
    if "compile" in complete and 0 < (compiled := complete["compile"].notna().sum()) < len(complete):
        yield f"Made by torch.compile, which rounds differently: {compiled} of {len(complete)} runs."
    if "instructions" in complete and len(counts := complete["instructions"].value_counts()) > 1:
        yield f"Made by CPUs with different instructions, which round differently: {_counted(counts)}."
    if "mixture" in complete and len(mixed := complete.dropna(subset="mixture")):
        named = [f"{run['id']} ({run['mixture']})" for run in mixed.to_dict("records")]
        more = [f"{len(named) - NAMED} more"] if len(named) > NAMED else []
        yield f"Not made in one way: {', '.join([*named[:NAMED], *more])}."


def _counted(counts: pd.Series) -> str:
    return ", ".join(f"{value} ({count} {'run' if count == 1 else 'runs'})" for value, count in counts.items())
