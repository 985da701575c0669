"""Which code a result comes from."""

from importlib import import_module

import pytest
from omegaconf import OmegaConf

from sparse_train import source
from sparse_train.config import run_id
from sparse_train.errors import ForeignError
from sparse_train.options.targets import PLACES
from sparse_train.record.files import write_json
from sparse_train.source import foreign_code, training_code
from support.runs import run_here

METHOD = "class RigL:\n    def growth_score(self, layer):\n        return {}\n"


@pytest.fixture
def mypkg(tmp_path, monkeypatch):
    """A package of the user's own, with a method named as one of ours; importing it is an error."""
    package = tmp_path / "mypkg"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "methods.py").write_text(METHOD.format("layer.gradient.abs()"))
    monkeypatch.syspath_prepend(tmp_path)
    foreign_code.cache_clear()
    yield package
    foreign_code.cache_clear()


def with_method(cfg, target):
    cfg = cfg.copy()
    OmegaConf.update(cfg, "dst.method.method._target_", target)
    return cfg


def test_a_method_from_elsewhere_has_ids_of_its_own(mypkg, compose_config):
    """By where it is and by its code, also by what it imports from its package; but not by comments and tests."""
    cfg = compose_config()
    mine = with_method(cfg, "mypkg.methods.RigL")

    def written(name, text):
        (mypkg / name).parent.mkdir(exist_ok=True)
        (mypkg / name).write_text(text)
        foreign_code.cache_clear()
        return run_id(mine)

    ids = [run_id(cfg), run_id(mine), run_id(with_method(cfg, "mypkg.RigL"))]
    turned = METHOD.format("-layer.gradient.abs()")
    ids += [written("methods.py", turned), written("helpers.py", "FACTOR = 2\n")]
    assert len(set(ids)) == 5
    assert written("methods.py", f"# a comment\n\n{turned}  # another\n") == ids[-1]
    assert written("tests/test_methods.py", "assert True\n") == written("conftest.py", "import pytest\n") == ids[-1]


def test_a_record_is_judged_by_the_code_that_it_names(mypkg, compose_config):
    cfg = with_method(compose_config(), "mypkg.methods.RigL")
    then, said = run_id(cfg), source.foreign(["mypkg.methods.RigL"])
    (mypkg / "methods.py").unlink()
    foreign_code.cache_clear()
    assert run_id(cfg) != then
    assert run_id(cfg, said) == then


def test_a_method_from_elsewhere_is_not_given_our_run(mypkg, compose_config, tmp_path, monkeypatch, capsys):
    ours = run_id(compose_config())
    write_json(tmp_path / "runs" / ours / "record.json", {"format": 1, "id": ours, "status": "complete"})
    with pytest.raises(ForeignError, match="dst.method.method=mypkg.methods.RigL|imported"):
        run_here(monkeypatch, capsys, f"runs_dir={tmp_path / 'runs'}", "dst.method.method._target_=mypkg.methods.RigL")
    assert capsys.readouterr().out == ""


def test_foreign_code_is_found_or_not():
    for target in ("json.dumps", "omegaconf.listconfig.ListConfig"):
        assert foreign_code(target) is not None
    for target in ("nowhere.at.all", "builtins.eval", "", "."):
        assert foreign_code(target) is None


def test_a_directory_of_scripts_counts_by_the_file_that_is_named(tmp_path, monkeypatch):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "method.py").write_text(METHOD.format("grad"))
    (tmp_path / "scripts" / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    foreign_code.cache_clear()
    before = foreign_code("scripts.method.RigL")
    assert before is not None
    (tmp_path / "scripts" / "other.py").write_text("ANOTHER = 1\n")
    foreign_code.cache_clear()
    assert foreign_code("scripts.method.RigL") == before
    (tmp_path / "scripts" / "method.py").write_text(METHOD.format("-grad"))
    foreign_code.cache_clear()
    assert foreign_code("scripts.method.RigL") != before


def defined(module):
    """The public classes and functions of a module of ours."""
    found = vars(import_module(f"sparse_train.{module}"))
    return [
        name
        for name, item in found.items()
        if name[0] != "_" and getattr(item, "__module__", "") == f"sparse_train.{module}" and callable(item)
    ]


def test_names_of_ours_are_distinct():
    """An id holds them without their modules."""
    for place in PLACES.values():
        homes = [source.PACKAGE / home.replace(".", "/") for home in place.homes]
        files = [
            path for home in homes for path in (home.rglob("*.py") if home.is_dir() else [home.with_suffix(".py")])
        ]
        modules = [".".join(path.relative_to(source.PACKAGE).with_suffix("").parts) for path in files]
        names = [name for module in modules for name in defined(module)]
        assert len(set(names)) == len(names) > 0


def test_the_hash_of_our_code_sees_what_may_change_a_number(tmp_path, monkeypatch):
    def hashed(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return training_code.__wrapped__()

    monkeypatch.setattr(source, "PACKAGE", tmp_path)
    first = hashed(sparsity__growth="layer.gradient.abs()", train__loop="", report__tables="", record__lock="")
    assert hashed(report__tables="changed", record__lock="changed") == first
    assert hashed(sparsity__growth="-layer.gradient.abs()") != first
    assert hashed(sparsity__growth="layer.gradient.abs()") == first
    assert hashed(sparsity__another="") != first


def test_files_that_change_no_number_are_there():
    assert all((source.PACKAGE / name).exists() for name in source.ASIDE)
