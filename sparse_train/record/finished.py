"""A finished run that is launched again: which code made it, and whether its files are intact."""

from sparse_train.errors import ConfigError, DivergedError
from sparse_train.process.console import say
from sparse_train.record import checkpoint, export, integrity, segments
from sparse_train.record.integrity import HISTORY
from sparse_train.record.record import Record
from sparse_train.source import training_code

AGAIN = "resume=fresh trains it again"


def look_again(record: Record) -> None:
    """Report if other code made this run; repair damaged files from its checkpoint.

    Raises:
        DivergedError: for a run that did.
        ConfigError: names what cannot be mended.
    """
    if (words := other_code(record.content)) is not None:
        say(f"{record.dir}: {words}; {AGAIN}")
    if record.status == "diverged":
        raise DivergedError(f"{record.dir}: {record.content['reason']}")
    if record.ranks.from_main(lambda: integrity.damage(record.dir, record.content)):
        with record.held():
            record.ranks.from_main(lambda: mend(record) if record.finished else None)  # as it is now


def other_code(content: dict) -> str | None:
    """A message if a different version of our code made the run; None if this version did.

    Records from before code hashes existed have only a revision, which identifies the code only if it is not dirty.
    """
    made_by, now = segments.codes(content), training_code()
    if made_by in ([], [now]):
        dirty = not made_by and str(content.get("git")).endswith("-dirty")
        return f"made by uncommitted code ({segments.code(content)}; now {now})" if dirty else None
    several = f", from the start {' then '.join(made_by)}" if len(made_by) > 1 else ""
    return f"made by other code ({segments.code(content)}{several}; now {now})"


def mend(record: Record) -> None:
    """Write again what is damaged, from the checkpoint, which holds the history too; nothing is trained.

    Raises:
        ConfigError: for what the checkpoint does not hold, or where there is none.
    """
    damage = integrity.damage(record.dir, record.content)
    state = None if integrity.CHECKPOINT in damage else _state(record)
    history = integrity.whole_history(record.dir, record.content) or (state and state["history"])
    exported = set(damage) & set(integrity.EXPORTS)
    lost = [f"{name} {words}" for name, words in damage.items() if not (state or (name == HISTORY and history))]
    if lost:
        alone = set(damage) == {integrity.CHECKPOINT}
        advice = f"a finished run does without it, so delete it, or {AGAIN}" if alone else AGAIN
        raise ConfigError("resume", "auto", f"{record.dir}: {', '.join(lost)}, and cannot be mended; {advice}")
    if exported:
        export.write(state["model"], state["topology"]["masks"], record.dir)
    if damage:
        record.mend(history)
        words = ", ".join(f"{name} {words}" for name, words in damage.items())
        say(f"{record.dir}: mended without training: {words}")


def _state(record: Record) -> dict | None:
    """The checkpoint of the end, if it is there and this run's."""
    try:
        state = checkpoint.read(record.dir / integrity.CHECKPOINT)
        whole = state["id"] == record.id and len(state["history"]) == record.content["config"]["epochs"]
    except (ValueError, KeyError):
        return None
    return state if whole else None
