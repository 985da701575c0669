"""`execution=graph`: ordinary steps repeat recorded operations, here from a tape, on a GPU as a CUDA graph."""

from functools import partial

import pytest
import torch
from torch.nn.functional import dropout

from sparse_train.errors import DivergedError
from sparse_train.record.record import Record
from sparse_train.train import loop
from sparse_train.train.build import build
from sparse_train.train.checkpointing import Interval
from sparse_train.train.graph import StepGraph
from support.runs import run_here, tensors, timeless
from support.steps import same
from support.tape import taped

SMALL = (
    "dataset=digits",
    "dataset.train_images=160",
    "batch_size=8",
    "epochs=2",
    "update_every=8",
    "threads=1",
)
NARROW = "model.width=0.25"


@pytest.fixture
def ended(compose_config, tmp_path, monkeypatch):
    """Train; history without times, all tensors of the end, how many steps were recorded, and how many replayed."""

    def trained(overrides, graphed, poison=None):
        run, made, replayed = build(compose_config(*SMALL, *overrides)), [], []
        batches = run.data.train.epoch

        def epoch(number, start):
            for step, (images, labels) in enumerate(batches(number, start), start=20 * number):
                yield images.fill_(torch.nan) if step == poison else images, labels

        monkeypatch.setattr(run.data.train, "epoch", epoch)

        def record(work):
            replay = taped(work)
            made.append(work)
            return lambda: (replay(), replayed.append(1))

        if graphed:
            run.graph = StepGraph(record)
        record_ = Record(str(tmp_path / str(graphed)), "run")
        with record_.held():
            loop.train(run, record_, [], Interval())
        state = [run.model.state_dict(), run.optimizer.state_dict()["state"], run.topology.masks]
        return timeless(record_.history), list(tensors(dict(enumerate(state)))), len(made), len(replayed)

    return trained


@pytest.mark.parametrize(
    "overrides",
    [
        (NARROW, "dst=rigl", "optimizer=sparseopt_ham", "renorm=unit", "optimizer.renorm.max_norm=25.0"),
        (
            NARROW,
            "dst=rigl",
            "optimizer=sparseopt",
            "optimizer.precondition.scale_decay=true",
            "amp=bf16",
            "channels_last=true",
        ),
        (NARROW, "dst=granet", "optimizer=sgd", "nesterov=true", "weight_decay_on=weights", "one_dimensional_lr=2.0"),
    ],
    ids=["renorm, HAM", "scaled decay, bf16", "GraNet, Nesterov"],
)
def test_a_run_whose_steps_are_replayed_is_the_same_to_the_bit(ended, overrides):
    rows, state, *_ = ended(overrides, graphed=False)
    again, after, made, replayed = ended(overrides, graphed=True)
    assert again == rows
    assert len(state) > 60
    assert same(state, after)
    assert made == 1, "mask updates and new epochs leave the graph valid"
    assert replayed >= 40 - 4 - 2 * 4, "all but every tenth step, and those at and after a mask update"


def test_what_moves_is_recorded_anew(compose_config):
    runs, made = [build(compose_config(*SMALL, NARROW, "optimizer=sparseopt")) for _ in range(2)], []
    runs[1].graph = StepGraph(lambda work: made.append(1) or taped(work))
    for run in runs:
        run.model.layer3.register_forward_hook(lambda _module, _inputs, output: dropout(output, 0.2))
        torch.manual_seed(0)
        meter = run.meter()
        for step, batch in enumerate(run.data.train.epoch(0)):
            if step == 5:  # momentum gets new memory
                run.optimizer.load_state_dict(run.optimizer.state_dict())
            work = partial(loop.ordinary_step, run, meter)
            if run.graph is None:
                work(*batch, step)
            else:
                run.graph.step(work, run.optimizer, meter, *batch, number=step)
    assert same(*(run.model.state_dict().values() for run in runs))
    assert len(made) == 2


def test_a_replayed_step_that_diverges_is_named(ended):
    with pytest.raises(DivergedError, match=r"conv1.weight and \d+ others are not finite at step 13$"):
        ended((NARROW, "dst=rigl", "optimizer=sgd"), graphed=True, poison=13)


def test_what_cannot_be_a_graph_is_named(monkeypatch, capsys, tmp_path):
    words = ("dataset=digits", "execution=graph", "device=cpu", f"runs_dir={tmp_path}")
    code, out, err = run_here(monkeypatch, capsys, *words)
    assert (code, out) == (1, "")
    assert "execution=graph: does not work with device=cpu; use execution=dense" in err
