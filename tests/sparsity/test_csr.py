"""Linear layers that multiply only the weights that exist: all is as with masked layers, up to rounding."""

import pickle
from copy import deepcopy
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sparse_train import (
    HAM,
    SET,
    SNFS,
    Renorm,
    RigL,
    SparseOpt,
    SparseSGD,
    Topology,
    Updater,
    clip_grad_norm_,
    use_csr,
    use_dense,
)
from sparse_train.config import check
from sparse_train.errors import ConfigError
from sparse_train.optim.equal_angle import EqualAngle
from sparse_train.sparsity import csr
from sparse_train.sparsity.csr import CSRLinear
from sparse_train.train.build import build
from support.runs import history, record, run_here
from support.steps import gradients

STEPS, EVERY = 28, 7
TRAININGS = {
    "Nesterov": {"nesterov": True},
    "SparseOpt, decay scaled": {"precondition": SparseOpt(average="global", scale_decay=True)},
    "EqualAngle": {"precondition": EqualAngle()},
    "HAM": {"mirror": HAM(alpha=1.0, beta=0.01)},
    "norm of dense gradients": {"precondition": SparseOpt(), "renorm": Renorm(0.1)},
    "norm of masked gradients": {"renorm": Renorm(0.1, over="masked")},
    "SET": {"method": SET, "precondition": SparseOpt()},
    "SNFS": {"method": SNFS},
    "AdamW, which divides by second moments": {"optimizer": partial(torch.optim.AdamW, lr=1e-3)},
}
MLP = ("model=mlp", "model.hidden=[64,64]", "epochs=2", "update_every=3", "threads=1", "device=cpu")
LAYERS = "layers.1.weight, layers.4.weight, layers.7.weight"


class Training:
    """A small network in float64 on random batches, masked or with layers that multiply as CSR."""

    def __init__(self, sparse, method=RigL, optimizer=None, **slots):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5)]
            self.model = nn.Sequential(*layers).double()
        self.topology = Topology(self.model, 0.7)
        self.topology.example = drawn(0)[0]
        if sparse:
            assert use_csr(self.model, self.topology) == ["0.weight", "3.weight", "5.weight"]
        self.adopted = optimizer is not None
        if not self.adopted:
            rates = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
            self.optimizer = SparseSGD(self.model.parameters(), self.topology, **rates, **slots)
        else:
            self.optimizer = optimizer(self.model.parameters())
        self.updater = Updater(self.topology, self.optimizer, method(), total_steps=STEPS, every=EVERY).attach()
        self.dense = []  # of each step, whether its gradients were

    def run(self, first=0, last=STEPS):
        for step in range(first, last):
            gradients(self.model, drawn(step))
            self.dense.append(not self.model[0].weight.grad.is_sparse)
            self.optimizer.step()
        return self


def drawn(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 20, generator=generator).double(), torch.randint(5, (16,), generator=generator)


def require_alike(one, other):
    """Weights, momentum and masks."""
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    states = one.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    torch.testing.assert_close(*states, rtol=0, atol=1e-7)
    for name, mask in one.topology.masks.items():
        assert torch.equal(mask, other.topology.masks[name]), name
        assert not other.topology.weights[name][~mask].any()


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_it_trains_what_masked_layers_train(options):
    masked, sparse = (Training(how, **options).run() for how in (False, True))
    require_alike(masked, sparse)
    assert sparse.updater.plan, "masks were updated"
    if sparse.updater.method.observed or sparse.adopted:
        return
    looked_at = [step > 0 and step % EVERY == 0 and step < 0.75 * STEPS for step in range(STEPS)]
    assert sparse.dense == ([True] * STEPS if sparse.optimizer.needs_dense_gradients else looked_at)


@pytest.mark.parametrize("before", [True, False])
def test_a_restart_may_change_the_execution(before):
    """Within and between mask updates, from what either execution saved."""
    whole = Training(False, precondition=SparseOpt()).run()
    first, second = (Training(how, precondition=SparseOpt()) for how in (before, not before))
    first.run(last=17)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    require_alike(whole, second.run(17))


def test_layers_may_change_the_execution_while_they_train():
    whole, switching = Training(False).run(), Training(False)
    for step in range(STEPS):
        (use_csr if step % 5 < 3 else use_dense)(switching.model, switching.topology)
        switching.run(step, step + 1)
    require_alike(whole, switching)
    assert switching.dense[1:5] == [False, False, True, True]


def test_gradients_are_those_of_the_masked_layer():
    """Of inputs of three dimensions, with and without bias, summed over two backward passes."""
    for bias in (True, False):
        plain = nn.Sequential(nn.Linear(6, 4, bias=bias)).double()
        topology = Topology(plain, 0.5)
        sparse = deepcopy(plain)
        own = Topology(sparse, 0.5)
        use_csr(sparse, own)
        inputs = [torch.randn(2, 3, 6).double().requires_grad_() for _ in range(2)]
        for x in inputs:
            outputs = plain(x), sparse(x)
            torch.testing.assert_close(*outputs)
            grads = [torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in outputs]
            torch.testing.assert_close(*grads)
            for y in outputs:
                y.square().sum().backward()
        mask, (expected, found) = topology.masks["0.weight"], (plain[0].weight.grad, sparse[0].weight.grad)
        assert found.is_sparse
        torch.testing.assert_close(found.to_dense(), expected * mask)
        torch.testing.assert_close(own.vectors[sparse[0].weight].gather(found), expected[mask])
        if bias:
            torch.testing.assert_close(sparse[0].bias.grad, plain[0].bias.grad)


def test_dense_gradients_are_all_of_them():
    training = Training(True)
    training.topology.dense_gradients = True
    gradients(training.model, drawn(0))
    found = [p.grad for p in training.model.parameters()]
    use_dense(training.model, training.topology)
    gradients(training.model, drawn(0))
    torch.testing.assert_close(found, [p.grad for p in training.model.parameters()])


@pytest.mark.parametrize("rows", [0, 3])
def test_no_input_and_no_weight(rows):
    layer = nn.Sequential(nn.Linear(4, 2))
    topology = Topology(layer, 0.5)
    use_csr(layer, topology)
    topology.replace("0.weight", torch.zeros(2, 4, dtype=torch.bool))
    x = torch.randn(rows, 4, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, layer[0].bias.expand(rows, 2))
    y.sum().backward()
    assert not x.grad.any()


def test_a_frozen_layer_passes_gradients_on():
    training = Training(True)
    training.model[3].requires_grad_(False)
    training.run(last=3)
    assert training.model[3].weight.grad is None
    assert training.model[0].weight.grad.is_sparse


def test_what_others_write_is_multiplied():
    training = Training(True).run(last=3)
    model, x = training.model.eval(), drawn(99)[0]
    use_dense(reference := deepcopy(model), training.topology)
    assert (type(reference[0]), type(model[0])) == (nn.Linear, CSRLinear)

    def written():
        with torch.no_grad():
            model[0].weight.mul_(2)

    def exchanged():  # as averages of weights are put in place for a test
        model[3].weight.data.mul_(3)

    def loaded():
        model.load_state_dict({key: value * 0.5 for key, value in model.state_dict().items()})

    def masked():
        training.topology.replace("3.weight", training.topology.masks["3.weight"] & (torch.arange(24) > 0)[:, None])

    for change in (written, exchanged, loaded, masked):
        change()
        reference.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(x), reference(x))


def test_copies_and_pickles_are_plain_and_whole():
    """An average of weights over steps (EMA) has weights off the masks, which count."""
    model, x = Training(True).run(last=2).model.eval(), drawn(0)[0]
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(layer) for layer in copy if isinstance(layer, nn.Linear)] == [nn.Linear] * 3
        torch.testing.assert_close(copy(x), model(x))
        with torch.no_grad():
            copy[0].weight.fill_(1.0)
        torch.testing.assert_close(copy[0](x), x.sum(1, keepdim=True) + model[0].bias)
    optimizer = deepcopy(Training(True).run(last=2).optimizer)
    assert next(iter(optimizer.state.values()))["momentum_buffer"].shape == (32, 20)


def test_layers_that_must_stay_dense_do():
    """Tied weights, a packed attention, a bfloat16 layer, a layer without a mask, a convolution."""
    model = nn.ModuleDict(
        {
            "one": nn.Linear(8, 8),
            "tied": nn.Linear(8, 8),
            "low": nn.Linear(8, 8).bfloat16(),
            "full": nn.Linear(8, 8),
            "attention": nn.MultiheadAttention(8, 2),
            "conv": nn.Conv2d(2, 2, 3),
            "sparse": nn.Linear(8, 8),
        }
    )
    model["tied"].weight = model["one"].weight
    topology = Topology(model, 0.5, exclude="full.weight")
    assert (
        use_csr(model, topology)
        == ["sparse.weight"]
        == [n for n, w in topology.weights.items() if w in topology.vectors]
    )


def test_auto_takes_what_is_faster():
    """A large layer at 99% is ten times as fast as CSR; one at 10% is many times slower."""
    layers = [nn.Linear(512, 512), nn.Dropout(), nn.BatchNorm1d(512), nn.Linear(512, 512)]
    model = nn.Sequential(*layers)
    model[1].eval()
    topology = Topology(model, None, {"0.weight": 0.01, "3.weight": 0.9})
    state, random, batch = deepcopy(model.state_dict()), torch.get_rng_state(), torch.ones(64, 512)
    assert use_csr(model, topology, if_faster_on=batch) == ["0.weight"]
    assert [type(model[i]) for i in (0, 3)] == [CSRLinear, nn.Linear]
    assert list(topology.vectors) == [model[0].weight]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert (model.training, model[1].training, model[2].training) == (True, False, True)
    assert not model[0]._forward_hooks
    assert not topology.dense_gradients
    assert all(p.grad is None for p in model.parameters())


def test_a_loop_that_updates_by_itself_asks_or_gets_dense_gradients():
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)).double()
    topology = Topology(model, 0.5)
    use_csr(model, topology)
    optimizer = SparseSGD(model.parameters(), topology, lr=0.1)
    updater = Updater(topology, optimizer, RigL(), total_steps=STEPS, every=EVERY)
    found = []
    for step in range(2 * EVERY + 1):
        if step >= EVERY:
            updater.ask(step)
        gradients(model, drawn(step))
        found.append(not model[0].weight.grad.is_sparse)
        if updater.due(step):
            updater.update(step)
        optimizer.step()
    assert found == [True] * EVERY + [True] + [False] * (EVERY - 1) + [True]
    topology.dense_gradients = False
    gradients(model, drawn(0))
    with pytest.raises(RuntimeError, match=r"0\.weight has the gradient of its existing weights alone at step 7: call"):
        updater.update(7)
    optimizer.renorm = Renorm()
    with pytest.raises(ValueError, match=r"gradient of 0\.weight is sparse: .* from topology.dense_gradients = True"):
        optimizer.step()


def test_clipping_counts_existing_weights():
    found = []
    for sparse in (False, True):
        training = Training(sparse)
        gradients(training.model, drawn(0))
        norm = clip_grad_norm_(training.model.parameters(), training.topology, 0.01)
        training.optimizer.step()
        found.append([norm, training.model[0].weight.detach()])
    torch.testing.assert_close(*found)


def test_an_evaluation_in_inference_mode_leaves_training_alone():
    """It may be the first to see a new mask, or weights that were loaded."""
    one, other = Training(True), Training(True)
    state = one.model.state_dict()
    for training in (one, other):
        training.model.load_state_dict(state)
    for step in range(STEPS):
        for training in (one, other):
            training.run(step, step + 1)
        with torch.inference_mode():
            one.model.eval()(drawn(0)[0])
        one.model.train()
    torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), rtol=0, atol=0)


def test_a_layer_without_a_gradient_takes_one_of_zeros():
    """`zero_grad(set_to_none=False)` leaves an empty one, which the loss may not reach."""
    training = Training(True).run(0, 2)
    training.optimizer.zero_grad(set_to_none=False)
    training.optimizer.step()
    assert all(p.isfinite().all() for p in training.model.parameters())


# --- by command ---


def test_diagnostics_of_a_step_after_a_mask_update_are_those_of_the_masked_run(tmp_path, monkeypatch, capsys):
    found = []
    for execution in ("dense", "csr"):
        place = tmp_path / execution
        words = (*MLP, "dst.skip_step=false", "update_every=1", f"execution={execution}", f"runs_dir={place}")
        code, out, err = run_here(monkeypatch, capsys, *words)
        assert code == 0, err
        found.append(history(place / out.splitlines()[-1].rpartition("/")[2])[-1])
    [key] = [key for key in found[0] if key.startswith("step_ratio/layers")]
    assert found[1][key] == pytest.approx(found[0][key], rel=1e-3)


def test_a_run_is_the_same_run(tmp_path, monkeypatch, capsys):
    """Its id, masks and history are those of the masked run; its record names the execution."""
    found = {}
    for execution in ("dense", "csr"):
        place = tmp_path / execution
        code, out, err = run_here(monkeypatch, capsys, *MLP, f"execution={execution}", f"runs_dir={place}")
        assert code == 0, err
        found[execution] = place / out.splitlines()[-1].rpartition("/")[2]
        assert (f"fp32; csr for {LAYERS}" in err) == (execution == "csr")
        assert record(found[execution])["execution"] == ("dense" if execution == "dense" else f"csr for {LAYERS}")
    dense, sparse = found.values()
    assert dense.name == sparse.name
    masks = [load_file(run / "masks.safetensors") for run in (dense, sparse)]
    assert masks[0].keys() == masks[1].keys()
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    torch.testing.assert_close(*(load_file(run / "model.safetensors") for run in (dense, sparse)), rtol=0, atol=1e-4)
    for one, other in zip(history(dense), history(sparse), strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == (value and pytest.approx(value, rel=1e-3, abs=1e-4)), key


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("execution=fast",), "execution=fast: must be one of dense, csr, auto"),
        (("execution=csr", "amp=bf16"), "execution=csr: does not work with amp=bf16; use execution=dense"),
        (("execution=csr", "compile=true"), "execution=csr: does not work with compile=True; use execution=dense"),
        (("execution=csr", "dst=dense"), "execution=csr: works for sparse linear layers, of which this model has none"),
    ],
)
def test_what_does_not_work_is_said(compose_config, overrides, said):
    with pytest.raises(ConfigError, match=said):
        cfg = compose_config(*MLP, *overrides)
        check(cfg)
        build(cfg)


@pytest.mark.parametrize("faster", [True, False])
def test_auto_says_what_it_took(compose_config, monkeypatch, faster):
    monkeypatch.setattr(csr, "_faster", lambda *_: faster)
    run = build(compose_config(*MLP, "execution=auto"))
    assert run.metadata["execution"] == (f"csr for {LAYERS}" if faster else "dense")
    monkeypatch.setattr(csr, "_faster", lambda *_: pytest.fail("timed"))
    assert build(compose_config(*MLP, "execution=auto", "amp=bf16")).metadata["execution"] == "dense"
