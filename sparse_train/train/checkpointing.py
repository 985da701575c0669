"""When a run is saved, and what with: after an epoch, every so often within one, and when it is asked to stop."""

import time
from dataclasses import dataclass
from signal import Signals
from typing import NamedTuple

import torch

from sparse_train.errors import DivergedError
from sparse_train.process.console import say
from sparse_train.process.signals import SignalHandler
from sparse_train.record.checkpoint import Checkpoints, first_not_finite
from sparse_train.record.record import Record
from sparse_train.train.build import Run
from sparse_train.train.meter import SUMS, Meter

AGREE = 20  # several ranks agree every so many steps on whether to save
COST = 100  # after an epoch, save only if 100 times the cost of the last checkpoint has passed


class Interval(NamedTuple):
    """How often a run is saved.

    Attributes:
        minutes: at most so long between checkpoints.
        steps: a checkpoint every so many steps besides; None for none.
    """

    minutes: float = 5.0
    steps: int | None = None


@dataclass
class Progress:
    """Where a run is: the epochs done, the steps done in the next one, and that one's sums so far."""

    history: list[dict]
    steps: int
    meter: Meter
    seconds: float  # of the epoch so far, in earlier processes


class Checkpointing:
    """Saves a run so that it can resume with the same result bit for bit.

    Args:
        run, record: what to save, and where.
        interval: how often.
        signals: signals that ask for an end.
    """

    def __init__(self, run: Run, record: Record, interval: Interval, signals: SignalHandler):
        self.run, self.record, self.interval, self.signals = run, record, interval, signals
        self.files = Checkpoints(record.dir)
        self.saved, self.cost = time.monotonic(), 0.0
        self.finite = {name: value.isfinite().all() for name, value in run.model.named_buffers()}  # waits for no device

    def restore(self) -> Progress:
        """Put the run where its checkpoint left it, or where it begins."""
        state = self.files.load(self.run.device)
        meter = self.run.meter()
        state = state if state is not None and state["id"] == self.record.id else None
        found = f"has {len(state['history'])} epochs and {state['steps']} steps" if state else "has no checkpoint"
        self.run.ranks.require_same({"runs_dir": f"{self.record.dir} {found}"})  # which may be each machine's own disk
        if state is None:
            return Progress([], 0, meter, 0.0)
        self.run.load_state_dict(state)
        self.record.content.setdefault("segments", state.get("segments"))
        meter.load_state_dict(state["meter"])
        own = state.get("own", {})
        self._take_own(own, meter)
        _set_random_state({key: self._mine(f"random.{key}", own, value) for key, value in state["random"].items()})
        within = f", {state['steps']} steps" if state["steps"] else ""
        say(f"{self.record.dir}: resuming after epoch {len(state['history'])} of {self.run.epochs}{within}")
        return Progress(state["history"], state["steps"], meter, state["seconds"])

    def after_step(self, steps: int, meter: Meter, seconds: float) -> None:
        """To be called after every step but the last of an epoch, with the epoch's sums so far."""
        often = self.interval.steps is not None and steps % self.interval.steps == 0
        asked, late = 0, False
        if self.run.ranks.world == 1 or steps % AGREE == 0:
            asked = self._asked()
            late = self._somebody(self._age() > 60 * self.interval.minutes)
        if asked or often or late:
            self._save(steps, meter, seconds)
        if asked:
            self._stop(asked)

    def between_tests(self, progress: Progress) -> None:
        """To be called between the batches of a test, by every rank, with the epoch's steps all done.

        A run that ends here tests from the first image when it resumes.
        """
        if asked := self._asked():
            self._save(progress.steps, progress.meter, progress.seconds)
            self._stop(asked)

    def between_first_tests(self) -> None:
        """To be called between the batches of the test before training, by every rank: there is nothing to save."""
        if asked := self._asked():
            say(f"{self.record.dir}: stopping on {Signals(asked).name} before training; the same command starts again")
            self.signals.hand_over(asked)

    def after_epoch(self, last: bool) -> None:
        """To be called after every epoch, once it is in the record. After the last one a signal waits for the end."""
        asked = self._asked()
        due = self._somebody(self.interval.steps is not None or self._age() > COST * self.cost)
        if last or asked or due:
            self._save(0, self.run.meter(), 0.0)
        if asked and not last:
            self._stop(asked)

    def check(self, meter: Meter) -> None:
        """End the run as diverged if a loss or gradient was not finite.

        Raises:
            DivergedError: says where.
        """
        if (reason := meter.broken(self.run.model)) is not None:
            self.diverged(reason)

    def diverged(self, reason: str) -> None:
        """The run has no result; its last checkpoint, from before, stays."""
        good = self.run.ranks.from_main(self.files.newest.exists)
        kept = f"; the last checkpoint with finite weights is {self.files.newest}" if good else ""
        self.record.finish("diverged", reason=f"{reason}{kept}")
        raise DivergedError(f"{self.record.dir}: {self.record.content['reason']}")

    def _save(self, steps: int, meter: Meter, seconds: float) -> None:
        started = time.monotonic()
        self.check(meter)
        name = first_not_finite(self.run.model.state_dict(), self.finite)
        if self._somebody(name is not None):
            self.diverged(f"{name or 'a weight'} is not finite after epoch {len(self.record.history)}, {steps} steps")
        state = {"id": self.record.id, "history": self.record.history, "steps": steps, "seconds": seconds}
        state |= {"segments": self.record.content["segments"]}
        device, random = self.run.device, _random_state(self.run.device)
        state |= {"meter": meter.state_dict(), "random": random, **self.run.state_dict()}
        if self.run.ranks.world > 1:
            own = {**self._own(meter), **{f"random.{key}": value.to(device) for key, value in random.items()}}
            state["own"] = {name: self.run.ranks.gathered(value) for name, value in own.items()}
        self.run.ranks.from_main(lambda: self.files.save(state))
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def _own(self, meter: Meter) -> dict[str, torch.Tensor]:
        """What is each rank's own: the running statistics of its images, and its part of the epoch's sums."""
        return {**self.run.statistics(), **{f"meter.{key}": getattr(meter, key) for key in SUMS}}

    def _mine(
        self, name: str, saved: dict[str, torch.Tensor], otherwise: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """What this rank saved, if there were as many ranks as now."""
        ranks = self.run.ranks
        return saved[name][ranks.rank] if len(saved.get(name, ())) == ranks.world else otherwise

    @torch.no_grad()
    def _take_own(self, saved: dict[str, torch.Tensor], meter: Meter) -> None:
        """Each rank restores its own. If the number of ranks changed, every rank takes the statistics' mean."""
        statistics = self.run.statistics()
        for name, value in self._own(meter).items():
            if (mine := self._mine(name, saved)) is not None:
                value.copy_(mine)
            elif name in saved and name in statistics:
                value.copy_(saved[name].mean(0))

    def _asked(self) -> int:
        """The signal that asks for an end, whichever process of the run it was sent to; 0 for none."""
        return self.run.ranks.largest(self.signals.received or 0, self.run.device)

    def _stop(self, number: int) -> None:
        again = f"the same command{' without resume=fresh' if self.record.fresh else ''} resumes"
        say(f"{self.record.dir}: checkpoint saved on {Signals(number).name}; stopping; {again}")
        self.signals.hand_over(number)

    def finished(self) -> None:
        """To be called once the record is complete. A signal that is still to be handed over ends the program then."""
        if self.signals.received is not None:
            say(f"{self.record.dir}: complete; stopping on {Signals(self.signals.received).name}")

    def _somebody(self, value: bool) -> bool:
        return bool(self.run.ranks.largest(value, self.run.device))

    def _age(self) -> float:
        return time.monotonic() - self.saved


def _random_state(device: torch.device) -> dict:
    """torch's ambient state, which dropout draws from; all other draws are named."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"].cpu().clone())  # it crashes if given a view of a larger tensor
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu().clone())
