import sys

import torch

from benchmarks import loader, sparse, training
from benchmarks.__main__ import SECTIONS, _table
from benchmarks.sections import OURS, network, ours
from sparse_train.report import cost


def test_ratios_are_over_the_fastest_dense_case_of_each_process():
    processes = [
        {"dense a": [0.002], "dense b": [0.004], "ours": [0.001, 0.003, 0.9]},
        {"dense a": [0.008], "dense b": [0.004], "ours": [0.008]},
    ]
    assert "| ours | 5.5 | 3 to 8 | 1.75 | 1.50 to 2.00 |" in _table(processes)
    assert "| RigL | 2 | 2 to 2 | |" in _table([{"RigL": [0.002]}])


def test_every_case_takes_a_step():
    for slots in OURS.values():
        model = network(torch.device("cpu"))
        before = model.conv1.weight.detach().clone()
        ours(model, slots()).step()
        assert not torch.equal(model.conv1.weight, before)
    assert set(SECTIONS) >= {"optimizer_steps", "mask_updates", "training"}


def test_a_plan_reads_what_the_loaders_benchmark_writes(monkeypatch, tmp_path):
    for name, value in (("COUNT", 8), ("BATCH", 4), ("ROUNDS", 2)):
        monkeypatch.setattr(loader, name, value)
    monkeypatch.setattr(sys, "argv", ["loader", f"--out={tmp_path / 'loader.md'}"])
    loader.main()
    speeds = cost.loader(tmp_path)
    assert list(speeds) == ["as they are", "resized once"]
    assert speeds["resized once"] > speeds["as they are"] > 50
    text = (tmp_path / "loader.md").read_text()
    assert f"| {speeds['as they are']:,.0f} |" in text
    assert text.count("| before |") == 2


def test_the_projects_own_training_is_timed_as_the_entrypoint_trains(cifar_dir, monkeypatch):
    monkeypatch.setattr(training, "BATCH", 8)
    monkeypatch.setattr(training, "STEPS", 2)
    trained = training.entrypoint(torch.device("cpu"), str(cifar_dir))()
    assert trained["train_loss"] > 0
    assert training.plain_loop(torch.device("cpu"), str(cifar_dir), 0)() > 0


def test_every_case_of_the_sparse_layers_takes_a_step(monkeypatch):
    monkeypatch.setattr(sparse, "find_spec", lambda _: None)
    monkeypatch.setattr(sparse, "SPARSITIES", (0.5, 0.9))
    assert sparse._cases() == ["dense fp32", "dense bf16", "masked, 97%", "CSR, 50%", "CSR, 90%"]
    times = sparse.steps("32", "4")
    assert list(times) == sparse._cases()
    assert all(seconds > 0 for rounds in times.values() for seconds in rounds)


def test_the_sparse_layers_are_told_over_dense():
    times = {"dense fp32": [0.010, 0.020, 0.015], "CSR, 97%": [0.005, 0.005, 0.003]}
    column = sparse._relative(times)
    assert column == {"dense fp32": "15 ms", "CSR, 97%": "0.25"}
    table = "| | 8, batch 4 |\n|---|---|\n| dense fp32 | 15 ms |\n| CSR, 97% | 0.25 |"
    assert sparse._table({"8, batch 4": column}) == table
