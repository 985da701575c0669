"""The main task. `task=...` names a function that takes the configuration and the record."""

from omegaconf import DictConfig

from sparse_train.options.targets import make
from sparse_train.record.record import Record
from sparse_train.train import loop
from sparse_train.train.build import build
from sparse_train.train.checkpointing import Interval


def train(cfg: DictConfig, record: Record) -> None:
    """Train one sparse network."""
    run = build(cfg, record.ranks)
    with record.held() as ending:
        if record.finished:  # by somebody else, in the meantime
            return
        sinks = [] if cfg.logger is None or not run.ranks.main else [make(cfg, "logger", record, run.metadata)]
        for sink in sinks:
            ending.callback(sink.finish, record)
        loop.train(run, record, sinks, Interval(cfg.checkpoint_minutes, cfg.checkpoint_steps))
