"""Checks of the settings that a sweep file names, before a run is trained."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sparse_train.errors import closest, require, require_one_of

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


def find(settings: Iterable[Setting], factors: Mapping[str, object], where: str = "setting") -> Setting:
    """The setting that has these factors, and no more keys than it must.

    Raises:
        ConfigError: if there is none, or if there are several.
    """
    asked = {key: str(value) for key, value in factors.items()}
    having = [setting for setting in settings if asked.items() <= dict(setting).items()]
    fewest = [setting for setting in having if len(setting) == min(map(len, having))]
    right = f"must match one setting of the study, but matches {len(fewest)}: name more factors, or others"
    require(len(fewest) == 1, where, asked, right)
    return fewest[0]


def check(file: str, artifact: Mapping[str, Any], cells: Collection[Mapping[str, str]]) -> None:
    """Refuse a key that no section has, and a setting that the grid does not have once.

    Args:
        file: the sweep file.
        artifact: what it says of the study.
        cells: the factors of every cell of the grid.

    Raises:
        ConfigError: names the file and the section.
    """
    asked = []
    _check_keys(f"{file}: artifact", artifact, (*KEYS, *OTHERS))
    for section, (known, of_pairs) in KEYS.items():
        content = artifact.get(section) or {}
        _check_keys(f"{file}: {section}", content, known)
        for pair in content.get("pairs", content.get("equal", [])):
            _check_keys(f"{file}: {section}", pair, of_pairs)
            asked += [pair[side] for side in ("a", "b") if side in pair]
    if effects := artifact.get("effects"):
        reference = effects.get("reference", {})
        right = "must name an optimizer, whose settings are the baselines of the others"
        require("optimizer" in reference, f"{file}: effects.reference", reference, right)
        asked.append(reference)
    table, predictions = artifact.get("table") or {}, artifact.get("predictions") or {}
    factors = sorted({factor for cell in cells for factor in cell})
    named = [*table.get("rows", []), *filter(None, [table.get("columns")])]
    for factor in named:
        require(factor in factors, f"{file}: table", factor, f"must be a factor of the grid: {', '.join(factors)}")
    for factor in factors if table else []:
        varies = len({cell.get(factor) for cell in cells}) > 1
        right = "varies, and a cell is a mean over seeds alone: name it in rows or columns"
        require(not varies or factor in (*named, "seed"), f"{file}: table", factor, right)
    for value in predictions.get("within") or {}:
        require_one_of(f"{file}: predictions.within", value, predictions.get("values", []))
    settings = {tuple((key, value) for key, value in cell.items() if key != "seed") for cell in cells}
    for setting in asked:
        find(settings, setting, f"{file}: setting")


def check_distinct(file: str, cells: Iterable[tuple[str, Mapping[str, str]]]) -> None:
    """Refuse two settings that are one run, such as two of s_avg under SGD: only one of them would have its result.

    Args:
        file: the sweep file.
        cells: the id and the factors of every cell.

    Raises:
        ConfigError: names the file and the factors.
    """
    seen: dict[str, Mapping[str, str]] = {}
    for run, factors in cells:
        before = seen.setdefault(run, factors)
        alike = sorted(key for key in {*before, *factors} if before.get(key) != factors.get(key))
        right = "changes nothing of some runs: give it a grid of its own in `also`, with the settings that it changes"
        require(not alike, file, ", ".join(alike), right)


def check_metrics(file: str, artifact: Mapping[str, Any], metrics: Collection[str]) -> None:
    """Refuse a metric that nobody knows.

    Args:
        file: the sweep file.
        artifact: what it says of the study.
        metrics: those of its complete runs, and ours, which older runs may lack.

    Raises:
        ConfigError: names the file, the section and the nearest metric.
    """
    for section in KEYS:
        content = artifact.get(section) or {}
        for value in [*content.get("values", []), *filter(None, [content.get("value")])]:
            require(value in metrics, f"{file}: {section}", value, f"no run has this metric{closest(value, metrics)}")


def _check_keys(where: str, content: Iterable[str], known: Collection[str]) -> None:
    for key in content:
        require(key in known, where, key, f"no such key{closest(key, known)}")
