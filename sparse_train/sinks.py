"""Sinks: the record's rows, sent elsewhere as well. A sink never stops a run."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from sparse_train.errors import require_one_of
from sparse_train.log import say
from sparse_train.record import Record

MODES = ("online", "offline", "disabled")


class Wandb:
    """Weights & Biases: one W&B run per run, its id the run's own, resumed where the run is.

    The record stays the only source: whatever fails here is said once and the run goes on without W&B.

    Args:
        record: of the run.
        facts: what the record says of it; its `name` and `config` become W&B's.
        project, entity, group, tags: as W&B has them.
        mode: "online", "offline" (files under the run's directory, for `wandb sync`) or "disabled".
    """

    def __init__(
        self,
        record: Record,
        facts: dict,
        project: str = "sparse_train",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str = "online",
    ):
        require_one_of("mode", mode, MODES)
        self.run: Any = None
        self.options = {
            "project": project,
            "entity": entity,
            "group": group,
            "tags": list(tags),
            "id": record.id,
            "name": facts["name"],
            "config": facts["config"],
            "resume": "allow",
        }
        for attempt in dict.fromkeys((mode, "offline")):  # no key, no network: keep the rows for a later sync
            if self.run is None:
                self._guard(lambda attempt=attempt: self._open(record, attempt), f"W&B {attempt}")

    def log(self, row: dict) -> None:
        if self.run is not None:
            self._guard(lambda: self.run.log(row, step=row["epoch"]), "W&B log")

    def finish(self, record: Record) -> None:
        if self.run is not None:
            best = {f"best/{key}": value for key, value in record.content.get("best", {}).items()}
            failed = int(record.status != "complete")
            self._guard(lambda: (self.run.summary.update(best), self.run.finish(exit_code=failed)), "W&B finish")

    def _open(self, record: Record, mode: str) -> None:
        import wandb  # an extra: only those who ask for this sink need it

        os.makedirs(record.dir, exist_ok=True)
        settings = wandb.Settings(init_timeout=20, silent=True)
        self.run = wandb.init(**self.options, mode=mode, dir=str(record.dir), settings=settings)

    def _guard(self, call: Callable[[], object], what: str) -> None:
        try:
            call()
        except Exception as error:  # whatever W&B raises, the run goes on
            say(f"warning: {what}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
