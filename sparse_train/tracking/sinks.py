"""Sinks: the record's rows, sent elsewhere as well. Ours never stop a run."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sparse_train.errors import require, require_one_of
from sparse_train.process.console import say
from sparse_train.record.integrity import EXPORTS
from sparse_train.record.record import Record
from sparse_train.sparsity.topology import Topology
from sparse_train.tracking import wandb_run

MODES = ("online", "offline", "disabled")
BINS = 64


class Wandb:
    """Weights & Biases: one W&B run per run, its id the run's own, resumed where the run is.

    The record stays the only source. A failure here is reported once, on one line, and the run continues: offline if
    W&B is unreachable at the start, without W&B if it breaks later. A run that starts over (`resume=fresh`) replaces
    the rows of its earlier attempt. Made for a finished record, it sends all of it, unless W&B has that.

    Rows have the epoch as their step. Where masks have changed since the last one, a row comes with
    `density/<weight>`: the histogram of its neurons' densities (fan-in over possible fan-in), whose mean is the layer's
    density and whose width the spread of fan-ins. The summary holds the last epoch's values, and those of the best as
    `best/...`.

    Args:
        record: of the run.
        metadata: what the record says of it. The name is W&B's too; configuration and the rest are its config.
        project, entity, group, tags: as W&B has them. Without a group it is the sweep that the run was launched
            for; sparsity and the options of the configuration's groups are tags in any case.
        mode: "online", "offline" (files under the run's directory, for `make wandb-sync`) or "disabled".
        init_timeout: seconds to wait for the server before continuing offline.
        artifact: whether weights and masks are sent at the end.

    W&B's own variables count where an argument has its default: WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP,
    WANDB_MODE; and WANDB_NAME, WANDB_DIR.
    """

    def __init__(
        self,
        record: Record,
        metadata: dict,
        project: str = wandb_run.PROJECT,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str = "online",
        init_timeout: float = 20.0,
        artifact: bool = False,
    ):
        mode = os.environ.get("WANDB_MODE", mode) if mode == "online" else mode
        require_one_of("mode", mode, MODES)
        require(init_timeout > 0, "init_timeout", init_timeout, "must be above 0: seconds to wait for the server")
        self.run: Any = None
        self.artifact = artifact
        self.version: int | None = None  # of the topology whose histograms were sent last
        resumes = bool(record.content) and not record.finished
        described = wandb_run.options(record.id, metadata, project, entity, group, tags, resumes)
        done = record.finished and wandb_run.sent(record.dir, record.id, mode)
        if mode != "disabled" and not done:
            self._begin(mode, lambda mode: wandb_run.begin(described, record.dir, mode, init_timeout))

    def log(self, row: dict, topology: Topology | None = None) -> None:
        """One epoch; with the topology as it is after it, where that is known."""
        self._guarded(lambda: wandb_run.send(self.run, row | self._histograms(topology)))

    def finish(self, record: Record) -> None:
        """To be called when the record has its last word."""
        names = (*EXPORTS, "record.json") if self.artifact and record.status == "complete" else ()
        self._guarded(lambda: wandb_run.end(self.run, record.content, [record.dir / name for name in names]))

    def _begin(self, mode: str, begin: Callable[[str], Any]) -> None:
        try:
            self.run = begin(mode)
            if self.run.url:
                say(f"W&B: {self.run.url}")
        except Exception as error:  # no package, no key, no network, a server that fails
            with contextlib.suppress(Exception):  # said once: the first reason is the one to mend
                if mode == "online":
                    self.run = begin("offline")
            how = "without it" if self.run is None else "offline; `make wandb-sync` uploads it later"
            say(f"warning: W&B: {wandb_run.words(error)}; continuing {how}")

    def _histograms(self, topology: Topology | None) -> dict:
        if topology is None or topology.version == self.version:
            return {}
        self.version = topology.version
        return {f"density/{name}": _histogram(topology.rows(name, mask)) for name, mask in topology.masks.items()}

    def _guarded(self, call: Callable[[], None]) -> None:
        if self.run is None:
            return
        try:
            call()
        except Exception as error:  # whatever W&B raises, the run continues
            later = "" if self.run.offline else "; `make wandb-sync` sends the rest later"
            self.run = None
            say(f"warning: W&B: {wandb_run.words(error)}; continuing without it{later}")
            with contextlib.suppress(Exception):  # else it complains again at the end of the program
                import wandb

                wandb.teardown()


def neuron_densities(mask: Tensor) -> np.ndarray:
    """(neurons,): fan-in over possible fan-in of each, a neuron being a row of the mask."""
    return mask.flatten(1).float().mean(1).cpu().numpy()


def _histogram(mask: Tensor) -> Any:
    import wandb

    return wandb.Histogram(np_histogram=np.histogram(neuron_densities(mask), bins=BINS, range=(0, 1)))
