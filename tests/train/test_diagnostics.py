"""What a run says of itself, against the same numbers made by hand from what the optimizer and the masks did."""

from math import sqrt

import pytest
import torch

from sparse_train.models.imagenet import timm_model
from sparse_train.record.record import Record
from sparse_train.train import loop
from sparse_train.train.build import build
from sparse_train.train.checkpointing import Interval
from sparse_train.train.diagnostics import groups
from sparse_train.train.meter import Meter
from support.runs import history

RUN = (
    "dataset=digits",
    "dataset.train_images=240",
    "model.width=0.25",
    "optimizer=sparseopt",
    "s_avg=none",
    "renorm=unit",
    "epochs=2",
    "batch_size=10",  # 24 steps an epoch, of which the first, eleventh and twenty-first are looked at
    "update_every=11",
    "drop_fraction=0.9",
    "lr_schedule.warmup_epochs=1",
    "device=cpu",
    "threads=1",
)
GROUPS = ("conv1", "affine", "layer1", "layer2", "layer3", "classifier")


def group(name, p):
    return "affine" if p.ndim == 1 else "classifier" if name == "fc.weight" else name.split(".")[0]


def norm(tensors):
    return sqrt(sum(t.double().square().sum().item() for t in tensors))


@pytest.fixture
def watched(compose_config, tmp_path):
    """Rows, and what was seen of each step and mask update on the way."""

    def train(*overrides):
        run = build(compose_config(*RUN, *overrides))
        steps, updates, update = [], [], run.updater.update

        def look(optimizer, *_):
            steps.append({n: (p.detach().clone(), p.grad.clone()) for n, p in run.model.named_parameters()})
            steps[-1]["masks"] = dict(run.topology.masks)

        def close(optimizer, *_):
            steps[-1]["after"] = {n: p.detach().clone() for n, p in run.model.named_parameters()}

        def updated(step):
            before, fraction = dict(run.topology.masks), run.updater.fraction(step)
            update(step)
            counts = [int(mask.sum()) for mask in before.values()]
            gone = sum(int((before[n] & ~run.topology.masks[n]).sum()) for n in before)
            updates.append((step, gone / sum(counts), sum(int(fraction * n + 1e-6) for n in counts) / sum(counts)))

        run.optimizer.register_step_pre_hook(look)
        run.optimizer.register_step_post_hook(close)
        run.updater.update = updated
        record = Record(str(tmp_path), "run")
        with record.held():
            loop.train(run, record, [], Interval())
        return run, history(record.dir), steps, updates

    return train


def by_hand(seen, name):
    """Norms of step, weight, gradient and corrected gradient of a group at one step."""
    masks, after, found = seen["masks"], seen["after"], ([], [], [], [])
    for key, (p, grad) in ((key, value) for key, value in seen.items() if key not in ("masks", "after")):
        if group(key, p) == name:
            mask = masks.get(key, torch.ones_like(p))
            d = mask.flatten(1).double().mean(1).sqrt().view(-1, *[1] * (p.ndim - 1)) if key in masks else 1.0
            for place, value in zip(found, (after[key] - p, p, grad * mask, grad * mask * d), strict=True):
                place.append(value)
    return [norm(tensors) for tensors in found]


def test_norms_are_those_of_what_the_optimizer_saw_and_did(watched):
    _, rows, steps, _ = watched("dst.skip_step=false")
    assert len(steps) == 48
    for row, start in zip(rows, (0, 24), strict=True):
        looked = [steps[start + place] for place in (0, 10, 20)]
        dense = [norm(given[1] for key, given in each.items() if "." in key) for each in looked]
        assert row["grad_norm"] == pytest.approx(sum(dense) / 3, rel=1e-5), "before masks and renormalization"
        for name in GROUPS:
            seen = [by_hand(each, name) for each in looked]
            step, weight, grad, corrected = (sum(values) for values in zip(*seen, strict=True))
            assert row[f"step_ratio/{name}"] == pytest.approx(step / weight, rel=1e-4)
            assert row[f"grad_norm/{name}"] == pytest.approx(grad / 3, rel=1e-4)
            assert row[f"corrected_norm/{name}"] == pytest.approx(corrected / 3, rel=1e-4)
            shorter = name in ("layer1", "layer2", "layer3")
            assert row[f"corrected_norm/{name}"] < 0.9 * row[f"grad_norm/{name}"] if shorter else True
    assert {key.partition("/")[2] for key in rows[0] if key.startswith("step_ratio/")} == set(GROUPS)


def test_updates_are_counted_over_the_epoch(watched):
    _, rows, _, updates = watched()
    assert [step for step, *_ in updates] == [11, 22, 33]
    for row, here in zip(rows, (updates[:2], updates[2:]), strict=True):
        replaced, dropped = (sum(one[place] for one in here) for place in (1, 2))
        assert row["masks/replaced"] == pytest.approx(replaced, rel=1e-6)
        assert row["masks/regrown"] == pytest.approx(dropped - replaced, rel=1e-5)
    assert 0 < rows[0]["masks/regrown"] < rows[0]["masks/replaced"]


def test_masks_are_told_by_fan_ins_corrections_and_holes(compose_config):
    run = build(compose_config(*RUN))
    name = "layer2.0.conv1.weight"  # 8 neurons of 4 inputs, 3x3 each
    for other, weight in run.topology.weights.items():
        run.topology.replace(other, torch.ones_like(weight, dtype=torch.bool))
    mask = torch.zeros_like(run.topology.weights[name], dtype=torch.bool)
    mask[:4, 0], mask[4:6, 1, 0] = True, True  # fan-ins 9, 9, 9, 9, 3, 3, 0, 0; inputs 2 and 3 are not read
    run.topology.replace(name, mask)
    told = run.diagnostics.masks()
    assert (told["dead_neurons/layer2"], told["unread_inputs/layer2"]) == (2, 2)
    assert told["dead_neurons/layer1"] == told["unread_inputs/layer1"] == told["fan_in_spread/layer1"] == 0
    neurons = sum(len(weight) for other, weight in run.topology.weights.items() if other.startswith("layer2"))
    relative = torch.tensor([9, 9, 9, 9, 3, 3, 0, 0, *[5.25] * (neurons - 8)]) / 5.25
    c = torch.tensor([0.5, 0.5, 0.5, 0.5, *[sqrt(3 / 36)] * 2, 0, 0, *[1] * (neurons - 8)])  # D alone
    assert told["fan_in_spread/layer2"] == pytest.approx(relative.std(correction=0).item(), rel=1e-5)
    assert told["c_mean/layer2"] == pytest.approx(c.mean().item(), rel=1e-5)
    assert told["c_spread/layer2"] == pytest.approx(c.std(correction=0).item(), rel=1e-5)


def test_revived_neurons_and_what_they_take_are_counted(compose_config):
    run = build(compose_config(*RUN))
    name, meter = "layer2.0.conv1.weight", run.meter()  # 8 neurons of 4 inputs, 3x3 each
    assert run.diagnostics.trained(meter)["neurons/growth_share"] is None, "nothing has grown"
    before, after = (torch.zeros_like(run.topology.weights[name], dtype=torch.bool) for _ in range(2))
    before[:3, 0] = True  # neurons 0 to 2 have 9 weights each, the others none
    after[0, 0] = after[1, :2] = after[4, 3] = after[5, 3, 0] = True  # 1 grows 9, 2 dies, 4 and 5 revive with 9 and 3
    run.topology.replace(name, before)
    with run.diagnostics.update(meter, run.updater):
        run.topology.replace(name, after)
    told = run.diagnostics.trained(meter)
    assert (told["neurons/died"], told["neurons/revived"]) == (1, 2)
    assert told["neurons/growth_share"] == told["neurons/layer_growth_share"] == pytest.approx(12 / 21)
    other = "layer3.0.conv1.weight"  # grows one weight more, in a layer without a revival
    grown = run.topology.masks[other].clone()
    grown.view(-1)[grown.view(-1).int().argmin()] = True
    with run.diagnostics.update(meter, run.updater):
        run.topology.replace(other, grown)
    told = run.diagnostics.trained(meter)
    assert told["neurons/growth_share"] == pytest.approx(12 / 22)
    assert told["neurons/layer_growth_share"] == pytest.approx(12 / 21)


def test_the_largest_neuron_is_told_by_the_median_of_the_living(compose_config):
    run = build(compose_config(*RUN))
    name = "layer2.0.conv1.weight"
    for other, weight in run.topology.weights.items():
        run.topology.replace(other, torch.ones_like(weight, dtype=torch.bool))
        torch.nn.init.ones_(weight)
    mask = torch.ones_like(run.topology.weights[name], dtype=torch.bool)
    mask[5:] = False  # five living neurons of equal norm
    run.topology.replace(name, mask)
    assert run.diagnostics.norm_ratio() == pytest.approx(1.0)
    with torch.no_grad():
        run.topology.weights[name][2] *= 12
    assert run.diagnostics.norm_ratio() == pytest.approx(12.0)


def test_groups_are_the_stages_of_a_network():
    """Also of one within a module, as DDP's is."""
    within = torch.nn.Module()
    with torch.device("meta"):
        within.module = timm_model(1000, 3)
    found = groups(within.module)
    assert list(found) == ["conv1", "affine", "layer1", "layer2", "layer3", "layer4", "classifier"]
    assert found["classifier"] == ["fc.weight"]
    assert sorted(name for names in found.values() for name in names) == sorted(dict(within.module.named_parameters()))
    assert groups(within) == found


def test_a_layer_that_is_left_out_in_a_step_counts_as_0(small_net):
    model, meter = small_net(), Meter(torch.device("cpu"))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    meter.look(torch.tensor(1.0), model, 0, 0)
    left_out, *_, broken = model.parameters()
    left_out.grad, broken.grad[0] = None, torch.nan
    meter.look(torch.tensor(1.0), model, 1, 1)
    *_, name = dict(model.named_parameters())
    assert meter.broken(model) == f"the gradient of {name} is not finite at step 1"
