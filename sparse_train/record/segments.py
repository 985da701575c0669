"""What a run was made by, from start to end: a segment for each process that took it further."""

from itertools import groupby

from sparse_train.record.files import now

PROVENANCE = (
    "git",
    "code",
    "versions",
    "hardware",
    "environment",
    "threads",
    "compile",
    "processes",
    "sync_bn",
    "execution",
    "data",
)
UNKNOWN = "not recorded"


def begun(content: dict, metadata: dict, epochs: int = 0, steps: int = 0) -> list[dict]:
    """The segments of a run that starts or resumes after so many epochs and steps of the next.

    A segment says what it came `after`, and ends where the next one begins. One that was lost, since the run continued
    from an earlier checkpoint, is left out.

    Args:
        content: of the record so far; one that has no segments yet counts as one.
        metadata: what is so now.
    """
    before = content.get("segments") or ([_segment(content["started"], content, 0, 0)] if "started" in content else [])
    kept = [one for one in before if (one["after"]["epochs"], one["after"]["steps"]) < (epochs, steps)]
    return [*kept, _segment(now(), metadata, epochs, steps)]


def ended(segments: list[dict], epochs: int) -> list[dict]:
    """Without a last one that came after everything and only wrote files."""
    idle = len(segments) > 1 and segments[-1]["after"]["epochs"] >= epochs
    return segments[:-1] if idle else segments


def provenance(metadata: dict) -> dict:
    """The part of a record's metadata, or of a segment, that may change on the way."""
    return {key: metadata[key] for key in PROVENANCE if key in metadata}


def mixture(record: dict) -> str:
    """What changed on the way: `threads 1 then 2, torch 2.11 then 2.12`; empty for a run that is all of one kind."""
    flat = [_flat(one) for one in record.get("segments", [])]
    keys = dict.fromkeys(key for one in flat for key in one if key != "git")
    in_turn = {key: [str(value) for value, _ in groupby(one.get(key, UNKNOWN) for one in flat)] for key in keys}
    return ", ".join(f"{key} {' then '.join(values)}" for key, values in in_turn.items() if len(values) > 1)


def other_files(record: dict, now: dict[str, str] | None) -> str | None:
    """A message if the files that the run's images were last read from differ from those `now`; None if they do not.

    A record older than this, or of a data set that is kept in memory, names none.
    """
    before = record.get("segments", [record])[-1].get("data")
    if not before or not now:
        return None
    changed = [
        f"{part} were {before.get(part, UNKNOWN)}, now {words}"
        for part, words in now.items()
        if before.get(part) != words
    ]
    return "; ".join(changed) or None


def code(segment: dict) -> str:
    """The code of a segment, or of a whole record, in words."""
    revision = short(segment["git"]) if segment.get("git") else UNKNOWN
    return f"revision {revision}, hash {segment.get('code') or UNKNOWN}"


def short(revision: str) -> str:
    """The first digits of a commit; "-dirty" stays."""
    return revision[:8] + ("-dirty" if revision.endswith("-dirty") else "")


def codes(record: dict) -> list[str]:
    """The hashes of the training code that took part, each once."""
    return list(dict.fromkeys(one["code"] for one in record.get("segments", [record]) if one.get("code")))


def variables(metadata: dict) -> str:
    """The variables that chose other kernels, in words; empty where none did."""
    return " ".join(f"{name}={value}" for name, value in metadata.get("environment", {}).items())


def _segment(started: str, metadata: dict, epochs: int, steps: int) -> dict:
    return {"started": started, "after": {"epochs": epochs, "steps": steps}, **provenance(metadata)}


def _flat(segment: dict) -> dict:
    """Provenance without its two levels."""
    # What older segments do not have.
    known = {"compile": False, "sync_bn": False, "execution": "dense"} | provenance(segment)
    known["environment"] = variables(segment) or "default"
    inner = {key: value for value in known.values() if isinstance(value, dict) for key, value in value.items()}
    return {key: value for key, value in (known | inner).items() if not isinstance(value, dict)}
