"""What a sweep file says of the settings of its grid, checked before a run is trained."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from sparse_train.errors import closest, require

Setting = tuple[tuple[str, str], ...]  # (factor, value) of every factor that a setting has, seed aside

PAIR = ("says", "a", "b")
KEYS = {  # section of a sweep file's `artifact` -> its keys, and those of the pairs in it
    "effects": (("reference", "values"), ()),
    "contrasts": (("pairs", "value"), (*PAIR, "without_seed")),
    "shows": (("pairs", "value"), PAIR),
    "predictions": (("equal", "values", "within"), (*PAIR, "paper", "theory", "at_least", "at_most")),
    "table": (("rows", "columns", "value"), ()),
    "figure": (("by", "kind", "paper", "value", "values"), ()),
    "summary": (("over", "values"), ()),
    "best": (("over", "per", "value"), ()),
}
OTHERS = ("title", "about", "note", "at", "paper", "also", "references", "hyperparameters")


def find(settings: Iterable[Setting], factors: Mapping[str, object], key: str = "setting") -> Setting:
    """The setting that has these factors, and no more keys than it must.

    Raises:
        ConfigError: if there is none, or if there are several.
    """
    asked = {key: str(value) for key, value in factors.items()}
    having = [setting for setting in settings if asked.items() <= dict(setting).items()]
    fewest = [setting for setting in having if len(setting) == min(map(len, having))]
    right = f"must be one setting of the study, and is {len(fewest)}: name more of its factors, or others"
    require(len(fewest) == 1, key, asked, right)
    return fewest[0]


def check(name: str, artifact: Mapping[str, Any], factors: Collection[Mapping[str, str]]) -> None:
    """Refuse a key that no section has, and a setting that the grid does not have once.

    Args:
        name: of the sweep file.
        artifact: what it says of the study.
        factors: of every cell.

    Raises:
        ConfigError: names the file and the section.
    """
    _check_keys(name, "artifact", artifact, (*KEYS, *OTHERS))
    for section, (known, of_pairs) in KEYS.items():
        content = artifact.get(section) or {}
        _check_keys(name, section, content, known)
        for pair in content.get("pairs", content.get("equal", [])):
            _check_keys(name, section, pair, of_pairs)
    columns = {key for each in factors for key in each}
    table, effects = artifact.get("table") or {}, artifact.get("effects") or {"reference": {"optimizer": ""}}
    for key in [*table.get("rows", []), *filter(None, [table.get("columns")])]:
        right = f"must be a factor of the grid: {', '.join(sorted(columns))}"
        require(key in columns, f"sweeps/{name}.yaml: table", key, right)
    right = "must name an optimizer, whose settings are the baselines of the others"
    require("optimizer" in effects["reference"], f"sweeps/{name}.yaml: effects.reference", effects["reference"], right)
    told = artifact.get("predictions") or {}
    for value in told.get("within") or {}:
        right = f"must be one of its values: {', '.join(told['values'])}"
        require(value in told["values"], f"sweeps/{name}.yaml: predictions.within", value, right)
    settings = {tuple((key, value) for key, value in each.items() if key != "seed") for each in factors}
    for asked in _settings(artifact):
        find(settings, asked, f"sweeps/{name}.yaml: setting")


def _check_keys(name: str, section: str, content: Iterable[str], known: Collection[str]) -> None:
    for key in content:
        require(key in known, f"sweeps/{name}.yaml: {section}", key, f"no such key{closest(key, known)}")


def _settings(artifact: Mapping[str, Any]) -> Iterator[Mapping[str, object]]:
    """Every setting that the sections name."""
    if effects := artifact.get("effects"):
        yield effects["reference"]
    for section, (_, of_pairs) in KEYS.items():
        content = (artifact.get(section) or {}) if of_pairs else {}
        for pair in content.get("pairs", content.get("equal", [])):
            yield from (pair[side] for side in ("a", "b") if side in pair)
