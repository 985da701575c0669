"""The documentation site: what `make docs` builds it from. Its links are checked where it is built."""

import doctest
import importlib.util
import re
from importlib import import_module

import pytest
import yaml

import sparse_train
from sparse_train import config
from sparse_train.report import sweeps
from sparse_train.report.results import Results, complete
from support.runs import ROOT

SPEC = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "gallery.py")
gallery = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)


def test_the_examples_of_docstrings_give_what_they_show():
    modules = [import_module(f"sparse_train.{home}") for home in {*sparse_train._HOMES.values(), "sparsity.masks"}]
    found = [doctest.testmod(module) for module in modules]
    assert sum(one.failed for one in found) == 0
    assert sum(one.attempted for one in found) >= 8


def test_every_public_name_is_in_the_reference():
    shown = re.findall(r":: sparse_train\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted([*shown, *gallery.METHODS.values()]) == sorted(sparse_train.__all__)


@pytest.mark.parametrize("option", gallery.METHODS)
def test_a_method_of_the_gallery_is_that_of_its_command(option, compose_config):
    command = re.search(r"^python -m sparse_train (.*)$", gallery.PAGE, re.MULTILINE)[1].format(option=option)
    cfg = compose_config(*command.split())
    config.check(cfg)
    named = re.findall(r"\.methods\.\w+\.(\w+)", yaml.safe_dump(config._resolved(cfg.dst)))
    assert gallery.METHODS[option] in named
    assert set(named) <= {gallery.METHODS[option], "Ranked"}


def test_the_gallery_shows_the_numbers_of_the_table_of_methods():
    runs = complete(Results(sweeps.RESULTS, "cpu").runs(sweeps.load("methods", "cpu")))
    table = (ROOT / "results/cpu/methods.md").read_text()
    for option in [option for option in gallery.METHODS if option != "rigl_blind"]:
        shown = re.findall(r"(\d+\.\d\d)% ± (\d\.\d\d) \(n = (\d)\)", gallery.measured(runs[runs["dst"] == option]))
        assert len(shown) == 4
        for mean, spread, n in shown:
            assert re.search(rf"{n} of \d +\| {mean} ± {spread} ", table), f"{option}: {mean} ± {spread}"
    assert gallery.measured(runs[runs["dst"] == "rigl_blind"]) == "Not measured yet."
