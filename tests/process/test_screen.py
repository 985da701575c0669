"""What people see on a terminal: one bar for a run, tables with a total, pages without pictures."""

import io

import pytest

from sparse_train.process import console
from sparse_train.process.console import RunBar, epoch_line, say
from sparse_train.report import cost, screen, sweeps
from sparse_train.report.launch import overview
from sparse_train.report.results import Records
from support.records import leave_record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rows(text: str) -> dict[str, list[str]]:
    """First word -> the other cells of each line."""
    return {
        cells[0]: cells[1:]
        for cells in ([c.strip() for c in line.split("  ") if c.strip()] for line in text.splitlines())
        if cells
    }


def test_one_bar_for_the_run_says_the_epoch_the_best_accuracy_and_the_time_left(monkeypatch, capsys):
    def run():
        bar = RunBar(epochs=2, steps=10, done=5)
        bar.at(1, None)
        for _ in range(5):
            bar.step()
        bar.at(2, 45.678)
        say("epoch 1/2")
        bar.close()

    run()
    assert capsys.readouterr() == ("", "epoch 1/2\n"), "no bar where nobody watches"
    monkeypatch.setattr("sys.stderr", seen := Terminal())
    run()
    frames = seen.getvalue().split("\r")
    assert any(
        frame.startswith("epoch 2/2 training") and "10/20" in frame and "best 45.68%" in frame for frame in frames
    )
    assert any("<" in frame and "step" in frame for frame in frames), "time passed, and time left"
    assert "\repoch 1/2\n" in seen.getvalue(), "a line stands above the bar, alone"


def test_a_page_has_no_picture_on_a_terminal_and_its_table_is_set(monkeypatch, capsys):
    text = '# Title\n\n| a | b |\n| - | - |\n| 1 | **2** |\n\n<picture><img src="title.png" alt="Title"></picture>\n'
    screen.show(text)
    assert capsys.readouterr().out == "# Title\n\n| a | b |\n| - | - |\n| 1 | **2** |\n\n"
    monkeypatch.setattr("sys.stdout", seen := Terminal())
    screen.show(text)
    assert "title.png" not in seen.getvalue()
    assert "**" not in seen.getvalue()
    assert "|" not in seen.getvalue()
    assert "─" in seen.getvalue()


def test_what_takes_long_has_a_bar_that_goes_and_only_on_a_terminal(monkeypatch, capsys):
    names = ["table1", "table2"]
    assert [*screen.progress(names, "reading sweep files")] == names
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", seen := Terminal())
    assert [*screen.progress(names, "reading sweep files")] == names
    assert "reading sweep files" in seen.getvalue()
    assert capsys.readouterr().out == ""


def test_columns_line_up_and_nothing_is_cut_without_a_terminal(capsys):
    long = "a long last column " * 6
    console.table(["name", "runs", "speed"], [["one", "5", long], ["another", "1,234", ""]], ["all", "1,239", ""])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    ends = [
        line.index(number) + len(number) for line in lines for number in ("runs", "1,234", "1,239") if number in line
    ]
    assert len(ends) == 3
    assert len(set(ends)) == 1
    assert long.strip() in lines[2]


@pytest.fixture
def overlapping():
    """Two sweeps that share all runs of the smaller one."""
    chosen = [sweeps.load("table2", "smoke"), sweeps.load("fig10", "smoke")]
    ids = [{cell.id for cell in sweep.cells} for sweep in chosen]
    assert ids[0] & ids[1]
    return chosen


def test_the_status_of_several_sweeps_has_a_total_that_counts_a_run_once(overlapping, tmp_path, capsys):
    first, second = overlapping
    shared = next(cell for cell in first.cells if cell.id in {other.id for other in second.cells})
    leave_record(tmp_path / "runs", "table2", shared)
    overview.statuses(overlapping, Records([tmp_path / "runs"]), tmp_path / "runs", tmp_path / "results")
    found = rows(capsys.readouterr().out)
    assert found["artifact"] == ["runs", "complete", "committed", "missing", "in the queue"]
    every = len({cell.id for sweep in overlapping for cell in sweep.cells})
    assert found["table2"] == [str(len(first.cells)), "1", "·", str(len(first.cells) - 1)]
    assert found["fig10"] == [str(len(second.cells)), "1", "·", str(len(second.cells) - 1)]
    assert found[overview.TOTAL] == [str(every), "1", "·", str(every - 1)]
    assert every < len(first.cells) + len(second.cells)


def test_the_cost_of_several_sweeps_has_a_total_that_counts_a_run_once(capsys):
    chosen = [sweeps.load("table2"), sweeps.load("gain")]
    overview.costs(chosen, Records([]), cost.STATED_ONLY, 8)
    found = rows(capsys.readouterr().out)
    every = list({cell.id: cell for sweep in chosen for cell in sweep.cells}.values())
    planned = cost.of(every, gpus=8)
    assert found["table2"][:4] == ["144", "39,600", "23", "144"]
    assert found["gain"][:2] == ["11", "1,100"]
    assert found["gain"][3] == "7", "four are Table 2's"
    assert found[overview.TOTAL][:2] == [str(len(every)), f"{planned.epochs:,}"]
    assert found[overview.TOTAL][5] == cost.number(planned.wall_clock / 3600)
    assert found["table2"][-1] == "cifar100 stated"


def history(epochs, **row):
    common = {"train_loss": 1.2344, "train_acc": 65.43, "lr": 9.876e-05, "seconds": 3700.0, **row}
    return [{**common, "epoch": epoch, "test_acc": 70.0 + (epoch % 7)} for epoch in range(1, epochs + 1)]


def test_an_epoch_fits_80_columns_and_the_best_is_marked():
    rows = history(100, data_wait=0.123)
    line = epoch_line(rows[:12], 100)
    assert line == "epoch  12/100  train 1.234 65.4%  test 75.00%   lr 9.9e-05    90h left  wait 12%"
    assert max(len(epoch_line(rows[:end], 100)) for end in (13, 60, 100)) <= 80
    marked = [end for end in range(1, 101) if "*" in epoch_line(rows[:end], 100)]
    assert marked == [1, 2, 3, 4, 5, 6], "later ones are no better than the sixth"
    assert epoch_line([{**rows[0], "lr": 0.1}], 1).endswith("  lr 0.1         0s left  wait 12%")


def test_the_status_of_one_sweep_is_a_grid_of_its_settings(tmp_path, capsys):
    sweep = sweeps.load("table2")
    overview.grid(sweep, Records([]), tmp_path)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["sparsity", "optimizer", "epochs=100", "epochs=200", "epochs=300", "epochs=500"]
    assert ["0.97", "sgd", *["0/3"] * 4] in lines
    assert lines[-1] == ["all", *["0/36"] * 4]
    leave_record(tmp_path / "runs", "table2", sweep.cells[0])
    overview.grid(sweep, Records([tmp_path / "runs"]), tmp_path)
    assert f"{sweep.cells[0].factors['optimizer']}          1/3" in capsys.readouterr().out


def test_a_plan_lists_the_runs_that_it_would_train(tmp_path):
    sweep = sweeps.load("table2")
    leave_record(tmp_path / "runs", "table2", sweep.cells[0])
    head, *lines = overview.listed(sweep, Records([tmp_path / "runs"]))
    assert head == "table2: 143 runs to train, all with dataset=cifar100 model=resnet20 dst=rigl renorm=none"
    assert [line.split()[0] for line in lines] == [cell.id for cell in sweep.cells[1:]]
    assert lines[0].endswith("  sparsity=0.9 optimizer=sparseopt_ham epochs=100 seed=1")
