"""The theory's formulas against autograd, its lemmas against simulation, and the tasks end to end."""

import json
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from sparse_train.errors import ConfigError
from sparse_train.options.targets import instantiate
from sparse_train.record.record import Record
from sparse_train.report import sweeps
from sparse_train.report.results import Results
from sparse_train.report.sweeps import ROOT
from sparse_train.sparsity.masks import random_mask
from sparse_train.theory import dynamics, measurement
from sparse_train.theory.dynamics import flip_forbidden, invariant, potential
from sparse_train.theory.equilibrium import Law
from sparse_train.theory.gradients import batch_norm_input_gradient, layer_norm_input_gradient
from sparse_train.theory.layer_norm import masks
from sparse_train.theory.student_teacher import REDUNDANT, SPARSE, scales, summary

DOUBLE = {"dtype": torch.float64}


# --- gradients through normalization, independent of autograd ---


def test_batch_norm_gradient_of_section_3():
    x = torch.randn(32, 7, **DOUBLE, requires_grad=True)
    weight, gamma, beta = torch.randn(7, **DOUBLE), torch.randn(7, **DOUBLE), torch.randn(7, **DOUBLE)
    y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-5)
    (y.tanh() @ weight).sum().backward()
    grad_y = (1 - y.detach().tanh() ** 2) * weight
    torch.testing.assert_close(batch_norm_input_gradient(x.detach(), grad_y * gamma, 1e-5), x.grad)


def layer_norm_input_gradient_as_printed(x, grad_y, gamma, eps=0.0):
    """Appendix D's first display to the letter: its second term lacks the factor 1/N."""
    n = x.shape[-1]
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    g = grad_y * gamma
    return (g - g.mean(-1, keepdim=True)) / sigma - n * centred * (g * centred).mean(-1, keepdim=True) / sigma**3


def test_layer_norm_gradient_of_appendix_d_and_its_misprint():
    x = torch.randn(5, 11, **DOUBLE, requires_grad=True)
    gamma, beta, weight = torch.randn(11, **DOUBLE), torch.randn(11, **DOUBLE), torch.randn(11, **DOUBLE)
    y = F.layer_norm(x, (11,), gamma, beta, eps=1e-5)
    (y.tanh() @ weight).sum().backward()
    grad_y = (1 - y.detach().tanh() ** 2) * weight
    torch.testing.assert_close(layer_norm_input_gradient(x.detach(), grad_y, gamma, 1e-5), x.grad)
    printed = layer_norm_input_gradient_as_printed(x.detach(), grad_y, gamma, 1e-5)
    assert (printed - x.grad).abs().max() > 0.1 * x.grad.abs().max()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_equation_10(sparsity):
    """1,000 neurons of fan-in 784 before BN: masking amplifies dL/dx by (1 - s)^(-1/2), dL/dxhat held fixed."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 784, generator=draw)
    weight = torch.randn(1000, 784, generator=draw)
    grad_xhat = torch.randn(512, 1000, generator=draw)
    mask = random_mask((1000, 784), round((1 - sparsity) * 784_000), draw)
    dense = batch_norm_input_gradient(inputs @ weight.T, grad_xhat)
    sparse = batch_norm_input_gradient(inputs @ (weight * mask).T, grad_xhat)
    amplified = (sparse.norm(dim=0) / dense.norm(dim=0)).mean().item()
    if sparsity == 0:
        assert torch.equal(sparse, dense)
    assert amplified == pytest.approx((1 - sparsity) ** -0.5, rel=0.03)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_equilibrium_in_closed_form_is_that_of_its_assumptions(momentum):
    """SGD, SparseOpt with c = 2, and decay scaled too; gradients of length k / |w| point anywhere across w."""
    p, q = torch.tensor([1.0, 2.0, 2.0], **DOUBLE), torch.tensor([1.0, 1.0, 2.0], **DOUBLE)
    law = Law(0.1, momentum, 0.01 * (1 - momentum), p, q)  # a time constant of 250, 250 and 125 steps
    assert law.time().tolist() == pytest.approx([250, 250, 125])
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(3, 100, 20, generator=draw, **DOUBLE)
    k, rest = 0.3, law.length(torch.tensor(0.3, **DOUBLE))
    w *= (rest[:, None] * 2**0.25 / w.norm(dim=2))[..., None]  # the excess of |w|^4 is all of |w|*^4
    m, fourth, squared = torch.zeros_like(w), [], []
    for _ in range(1200):
        g, length = torch.randn(w.shape, generator=draw, **DOUBLE), w.norm(dim=2, keepdim=True)
        g -= (g * w).sum(2, keepdim=True) / length**2 * w
        g *= k / length / g.norm(dim=2, keepdim=True)
        m = momentum * m + p[:, None, None] * g + 0.01 * (1 - momentum) * q[:, None, None] * w
        before, w = w, w - 0.1 * m
        fourth.append((length**4).mean((1, 2)))
        squared.append(torch.arccos(F.cosine_similarity(before, w, dim=2)).square().mean(1))
    fourth, squared = torch.stack(fourth), torch.stack(squared)
    torch.testing.assert_close(fourth[-200:].mean(0) ** 0.25, rest, rtol=0.01, atol=0)
    torch.testing.assert_close(squared[-200:].mean(0).sqrt(), law.angle(), rtol=0.01, atol=0)
    left = [fourth[int(t)][i] / rest[i] ** 4 - 1 for i, t in enumerate(law.time())]
    assert left == pytest.approx([2.718**-1] * 3, rel=0.15)


# --- Appendix A.1 ---


def moved(optimizer, eta, iterations, scaling="none", neurons=(SPARSE,), seeds=100, start=(-1.0, 1.0, 0.0), alpha=4.0):
    on = dynamics.problem(seeds, 0, list(neurons))
    s = dynamics.students(on, 0, 1.0, *map(torch.tensor, start))
    kept = invariant(s.a, s.gamma, s.beta, None if optimizer == "gd" else alpha)
    scale = scales(on.mask, scaling)
    for _ in range(iterations):
        dynamics.step(on, s, eta, optimizer, alpha, scale)
    return on, s, (invariant(s.a, s.gamma, s.beta, None if optimizer == "gd" else alpha) - kept).abs()


def test_gradients_of_the_students_are_those_of_autograd():
    on = dynamics.problem(3, 0, [REDUNDANT, SPARSE])
    s = dynamics.students(on, 0, 1.0, torch.tensor(-1.0), torch.tensor(1.0), torch.tensor(0.3))
    mine = dynamics.gradients(on, s)
    for name in ("w", "a", "gamma", "beta"):
        getattr(s, name).requires_grad_()
    dynamics.loss(on, s).sum().backward()
    for name in ("w", "a", "gamma", "beta"):
        expected = getattr(s, name).grad * (on.mask if name == "w" else 1)
        torch.testing.assert_close(getattr(mine, name), expected, rtol=1e-9, atol=1e-12)


def test_the_potential_is_the_integral_of_lemma_a3():
    a, alpha = torch.tensor(1.7, **DOUBLE), 4.0
    p = torch.linspace(0, 1.7, 100_001, **DOUBLE)
    assert potential(a, alpha) == pytest.approx(torch.trapezoid(p / (1 + alpha * p), p).item(), rel=1e-8)
    assert potential(-a, alpha) == potential(a, alpha)


@pytest.mark.parametrize(
    ("optimizer", "scaling", "neurons"), [("gd", "none", (REDUNDANT, SPARSE)), ("ham_flow", "d", (SPARSE,))]
)
def test_invariants_stay_up_to_the_step_size(optimizer, scaling, neurons):
    """Lemmas A.1 and A.3, Observation A.2, Remark A.5; gamma0^2 + beta0^2 = 1, so the drift is relative to it."""
    drift = {}
    for eta, iterations in ((0.01, 200), (0.001, 2000)):
        drift[eta] = moved(optimizer, eta, iterations, scaling, neurons, seeds=25)[2].amax(1).median().item()
    assert drift[0.001] < 1e-3
    assert drift[0.01] < 1e-2
    assert drift[0.01] / drift[0.001] == pytest.approx(10, rel=0.2), "linear in eta at fixed eta * T"


def test_the_mirror_step_keeps_the_invariant_roughly():
    """HAM as it is trained with is not an Euler step of its flow: its drift is linear in eta with a larger constant."""
    drift = {eta: moved("ham", eta, n, seeds=25)[2].median().item() for eta, n in ((0.01, 200), (0.001, 2000))}
    assert drift[0.01] < 1e-2
    assert drift[0.01] / drift[0.001] == pytest.approx(10, rel=0.3)


def test_no_sign_flips_where_the_invariant_forbids_it():
    flips_elsewhere = {}
    for optimizer, alpha in (("gd", None), ("ham_flow", 4.0)):
        allowed = []
        for a0 in (-2.0, -0.5):
            for gamma0 in (0.25, 1.5):
                _, s, _ = moved(optimizer, 0.01, 750, seeds=20, start=(a0, gamma0, 0.0))
                share = (s.a > 0).double().mean().item()
                if flip_forbidden(*map(torch.tensor, (a0, gamma0, 0.0)), alpha):
                    assert share == 0
                else:
                    allowed.append(share)
        flips_elsewhere[optimizer] = max(allowed)
    assert min(flips_elsewhere.values()) > 0.5, "where it is allowed, it happens"


def test_scaling_of_a_single_neuron_is_one_under_equation_12():
    assert scales(torch.tensor([SPARSE]), "eq12").tolist() == [1.0]
    assert scales(torch.tensor([SPARSE]), "d").tolist() == pytest.approx([0.2**0.5])
    assert scales(torch.tensor([REDUNDANT, SPARSE]), "eq12").tolist() == pytest.approx([1.6**0.5, 0.4**0.5])


# --- masks and tasks ---


def test_the_intervals_of_shares_and_medians():
    a = torch.arange(20.0)[:, None] - 14.5  # 5 of 20 are positive
    reached = torch.tensor([*range(19, 4, -1), *[torch.inf] * 5])
    final = summary(SimpleNamespace(a=a), reached, [{"loss_median": 0.0, "drift_median": 0.0}])
    interval = [final[f"flipped_{end}"] for end in ("low", "share", "high")]
    assert interval == pytest.approx([0.1119, 0.25, 0.4687], abs=1e-4)  # Wilson's, by hand
    assert [final[f"iterations_{end}"] for end in ("low", "median", "high")] == [10.0, 15.0, 19.0]


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_masks_with_uniform_random_and_graded_fan_ins(sparsity):
    fan_ins = {kind: masks((64, 400), sparsity, kind, 0).sum(1) for kind in ("uniform", "random", "graded")}
    for fan_in in fan_ins.values():
        assert fan_in.sum() / 25_600 == pytest.approx(1 - sparsity, abs=0.01)
    assert fan_ins["uniform"].unique().numel() == 1
    if sparsity:
        assert fan_ins["graded"].float().std() > 2 * fan_ins["random"].float().std()


TASKS = {
    "bn_gradient": ["task.batches=2", "task.sparsities=[0.0,0.5]"],
    "dead_neuron": ["task.batches=2", "task.neurons=2", "task.lengths=[1.0,0.1,0.0]"],
    "layer_norm": ["task.batches=2", "task.sparsities=[0.0,0.5]", "task.fan_ins=graded"],
    "gradient_skew": ["task.batches=1"],
    "student_teacher": ["task.iterations=20", "task.seeds=5", "task.neurons=two", "task.scaling=eq12"],
    "sign_flips": ["task.iterations=20", "task.seeds=2"],
    "balance": ["task.points=11"],
    "equivalence": ["task.steps=10"],
    "neuron_steps": ["task.steps=20"],
    "equilibrium": ["task.steps=20", "task.weight_decay=0.05", "task.optimizer=sparseopt_decay_scaled"],
    "amplification": ["task.steps=12", "update_every=5", "epochs=2"],
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_leaves_a_complete_record(compose_config, tmp_path, monkeypatch, task):
    cfg = compose_config(f"task={task}", "batch_size=50", *TASKS[task])
    record, set_up = Record(str(tmp_path), "abc"), Mock(wraps=measurement.set_up_torch)
    monkeypatch.setattr(measurement, "set_up_torch", set_up)
    instantiate(cfg, "task")(cfg, record)
    assert set_up.call_args.kwargs == {"tf32": False}, "a slope is not measured in TF32"
    read = Record(str(tmp_path), "abc")
    assert read.status == "complete"
    assert read.content["final"]
    rows = [json.loads(line) for line in (tmp_path / "abc" / "history.jsonl").read_text().splitlines()]
    assert len(rows) >= 2
    if task != "gradient_skew":  # whose rows by weight have a test of their own
        committed = pd.read_csv(ROOT / "results" / "records" / f"{task}.rows.csv", nrows=0)
        assert {*committed} - {"id"} <= {key for row in rows for key in row}, "what figures are drawn from"
    if task in ("bn_gradient", "layer_norm"):
        assert rows[0]["ratio"] == 1.0, "a dense layer gives exactly 1"


@pytest.mark.parametrize(
    ("task", "key"), [("bn_gradient", "init"), ("layer_norm", "fan_ins"), ("student_teacher", "scaling")]
)
def test_an_unknown_word_is_refused_before_a_record_is_begun(compose_config, tmp_path, task, key):
    cfg = compose_config(f"task={task}", f"task.{key}=other")
    with pytest.raises(ConfigError, match=f"^{key}=other: must be one of "):
        instantiate(cfg, "task")(cfg, Record(str(tmp_path), "abc"))
    assert not any(tmp_path.iterdir())


def measured(cfg, tmp_path):
    """The final numbers of a task."""
    instantiate(cfg, "task")(cfg, Record(str(tmp_path), "abc"))
    return Record(str(tmp_path), "abc").content["final"]


@pytest.mark.parametrize("task", ["equilibrium", "neuron_steps"])
def test_a_network_fits_the_configured_images(compose_config, tmp_path, task):
    assert measured(compose_config(f"task={task}", "batch_size=50", *TASKS[task], "dataset.image_size=4"), tmp_path)


def test_amplification_is_that_of_batch_normalization_alone(compose_config, tmp_path):
    """Eq. 10's formula is not that of group normalization."""
    cfg = compose_config("task=amplification", "batch_size=50", *TASKS["amplification"], "model=resnet20_group")
    final = measured(cfg, tmp_path)
    assert final["exponent_first"] is None
    assert final["angle_raw"] > 1, "degrees; without a mask update it would be 0"


@pytest.mark.parametrize(("place", "exponent"), [("mlp_bn", -0.5), ("mlp", 0.0)])
def test_one_sigma_for_all_neurons_amplifies_all_alike(compose_config, tmp_path, place, exponent):
    cfg = compose_config("task=layer_norm", f"task.place={place}", *TASKS["layer_norm"], "batch_size=200")
    record = Record(str(tmp_path), "abc")
    instantiate(cfg, "task")(cfg, record)
    assert record.history[1]["exponent"] == pytest.approx(exponent, abs=0.1)
    assert record.history[1]["sigma_ratio"] == pytest.approx(0.5, abs=0.1)  # Eq. 16


@pytest.mark.parametrize(("optimizer", "exponent"), [("sgd", 0.0), ("sparseopt", 0.5)])
def test_a_trained_network_comes_to_the_closed_forms(compose_config, tmp_path, optimizer, exponent):
    words = ("steps=400", "weight_decay=0.02", "lr=0.05", "hidden=[64]", "fan_ins=[8,32]", f"optimizer={optimizer}")
    cfg = compose_config("task=equilibrium", "batch_size=100", *(f"task.{word}" for word in words))
    final = measured(cfg, tmp_path)
    assert [final[f"{key}_ratio"] for key in ("length", "degrees", "tau")] == pytest.approx([1, 1, 1], abs=0.12)
    assert final["length_exponent"] == pytest.approx(exponent, abs=0.1), "of c, after k's own"


def test_a_small_layer_is_told_weight_by_weight(compose_config, tmp_path):
    """The skew of Eq. 10 multiplies each neuron's dense gradient, autograd's, by one number: sigma over sigma."""
    small = ("dataset.image_size=4", "model=mlp", "model.hidden=[8]", "task.layer=layers.1", "task.norm=layers.2")
    cfg = compose_config("task=gradient_skew", *small, "task.batches=1", "task.weights=true", "batch_size=100")
    record = Record(str(tmp_path), "abc")
    instantiate(cfg, "task")(cfg, record)
    rows, final = pd.DataFrame(record.history), record.content["final"]
    grid = {key: rows.pivot(index="neuron", columns="input", values=key).to_numpy() for key in rows.columns[2:]}
    kept, dense = grid["kept"] == 1, grid["dense"]
    assert kept.shape == (8, 16)
    assert kept.mean() == pytest.approx(0.5, abs=0.02)
    assert (dense[~kept] != 0).mean() > 0.9, "the dense layer's are whole"
    for name in ("raw", "fixed", "raw_corrected", "fixed_corrected"):
        one, other = grid[name][kept], dense[kept]
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert final[f"{name}_angle"] == pytest.approx(np.degrees(np.arccos(cosine)), abs=0.01)
        assert final[f"{name}_length"] == pytest.approx(np.linalg.norm(one) / np.linalg.norm(other), rel=1e-4)
        assert (grid[name][~kept] == 0).all()
    factors = [(grid["fixed"][i] / dense[i])[kept[i]] for i in range(8)]
    for each in factors:
        np.testing.assert_allclose(each, each[0], rtol=0.01)
    assert factors[-1][0] == pytest.approx(1, abs=1e-3), "the one that has all inputs"
    assert np.mean([each[0] for each in factors[:-1]]) > 1.2


def test_the_equivalence_is_exact_where_its_assumptions_hold(compose_config, tmp_path):
    gaps = {}  # RigL updates its masks at step 50
    for variant in ("exact", "rigl", "rigl_ranked", "rigl_invariant_rescaled"):
        cfg = compose_config("task=equivalence", f"task.variant={variant}", "task.steps=80")
        record = Record(str(tmp_path), variant)
        instantiate(cfg, "task")(cfg, record)
        gaps[variant] = record.content["final"]["largest_gap"]
        assert max(row["gap"] for row in record.history) == pytest.approx(gaps[variant], rel=1e-6, abs=0)
    assert gaps["exact"] < 1e-10
    assert gaps["rigl"] > 1e-3
    assert gaps["rigl_ranked"] < 1e-10, "SGD that ranks as SparseOpt does is SparseOpt, mask updates included"
    assert gaps["rigl_invariant_rescaled"] < 1e-10, "and so it is where no length is compared, and SGD's follow c"


# --- what is committed ---


def test_figure_2_as_committed_is_within_3_percent_up_to_90_percent_sparsity():
    rows = Results(ROOT / "results").rows(sweeps.load("fig2"))
    mean = (
        rows[rows["task.norm"] == "batch"].groupby(["task.init", "sparsity"])[["ratio", "theory"]].mean().reset_index()
    )
    assert len(mean) == 22
    assert (mean[mean["sparsity"] == 0]["ratio"] == 1).all()
    below = mean[mean["sparsity"] <= 0.9]
    assert (below["ratio"] / below["theory"] - 1).abs().max() < 0.03
