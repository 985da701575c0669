"""Checks of what a sweep file shows and compares, before a run is trained."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sparse_train.errors import closest, require
from sparse_train.report.views.columns import COLUMNS, split

Setting = tuple[tuple[str, str], ...]  # (factor, value) of every factor that a setting has, seed aside

BOUNDS = ("at_least", "at_most")
KEYS = {  # section of a sweep file's `artifact` -> its keys
    "comparisons": ("says", "a", "b", "paper", "theory", "without_seed", "spread", "within", *BOUNDS),
    "table": ("rows", "columns", "value", "more"),
    "figure": ("by", "kind", "paper", "value", "values"),
    "summary": ("over", "values"),
    "best": ("over", "per", "value"),
}
COLUMNED = ("table", "summary", "values")  # sections of columns; elsewhere a metric stands alone
OTHERS = ("title", "about", "note", "at", "paper", "also", "references", "hyperparameters", "reference", "values")


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


def reference_of(
    setting: Setting, settings: Collection[Setting], reference: Mapping[str, object], where: str = "reference"
) -> Setting:
    """What a setting is compared with: the reference, at the setting's own sparsity where the study has it there.

    Raises:
        ConfigError: if there is none, or if there are several.
    """
    asked = {**reference, **{key: value for key, value in setting if key == "sparsity" and key not in reference}}
    there = [one for one in settings if {key: str(value) for key, value in asked.items()}.items() <= dict(one).items()]
    return find(settings, asked if there else reference, where)


def expected(comparison: Mapping[str, Any], value: str) -> dict[str, dict[str, float]]:
    """What a comparison expects: metric -> `within`, or `at_least` and `at_most`; empty if it expects nothing.

    Args:
        value: the metric of a number and of bounds; a mapping names its own.
    """
    within = comparison.get("within")
    if isinstance(within, Mapping):
        return {metric: {"within": margin} for metric, margin in within.items()}
    kept = {key: comparison[key] for key in ("within", *BOUNDS) if key in comparison}
    return {value: kept} if kept else {}


def metrics(artifact: Mapping[str, Any]) -> dict[str, list[str]]:
    """Section of an artifact -> the metrics of its columns; those of the comparisons stand with `values`."""
    found = {}
    for section in KEYS:
        content = artifact.get(section) or {}
        if isinstance(content, Mapping):
            named = [*filter(None, [content.get("value")]), *content.get("values", []), *content.get("more", [])]
            found[section] = [split(one)[1] for one in named] if section in COLUMNED else named
    values, compared = [split(one)[1] for one in artifact.get("values", [])], artifact.get("comparisons") or []
    margins = (one["within"] for one in compared if isinstance(one.get("within"), Mapping))
    return found | {"values": list(dict.fromkeys([*values, *(metric for one in margins for metric in one)]))}


def check(file: str, artifact: Mapping[str, Any], cells: Collection[Mapping[str, str]]) -> None:
    """Refuse a key that no section has, and a setting that the grid does not have once.

    Args:
        file: the sweep file.
        artifact: its section of that name.
        cells: the factors of every cell of the grid.

    Raises:
        ConfigError: names the file and the section.
    """
    _check_keys(f"{file}: artifact", artifact, (*KEYS, *OTHERS))
    compared = artifact.get("comparisons") or []
    for section, known in KEYS.items():
        content = artifact.get(section) or {}
        for part in compared if section == "comparisons" else [content]:
            _check_keys(f"{file}: {section}", part, known)
    first = next(iter(artifact.get("values") or []), None)
    right = "must be a list of metrics: comparisons are made in the first"
    plain = first is not None and split(first)[1] == first
    require(plain or not (compared or "reference" in artifact), f"{file}: values", first, right)
    for one in compared:
        whole = {"says", "a"} <= set(one) and len({"b", "paper", "theory"} & set(one)) == 1
        right = "must have `says`, a setting `a`, and one of `b`, `paper` and `theory`"
        require(whole, f"{file}: comparisons", one, right)
        if "spread" in one:
            spread = one["spread"]
            right = "must have `std`, a standard deviation above 0, `n`, of how many pairs, and `of`, which pairs"
            whole = isinstance(spread, Mapping) and set(spread) == {"std", "n", "of"}
            require(whole and spread["std"] > 0 and spread["n"] >= 2, f"{file}: comparisons", spread, right)
        both = "within" in one and bool({*BOUNDS} & set(one))
        require(not both, f"{file}: comparisons", one["says"], "must have a margin `within` or bounds, not both")
    asked = [one[side] for one in compared for side in ("a", "b") if side in one]
    if reference := artifact.get("reference"):
        right = "must name an optimizer, whose settings are the baselines of the others"
        require("optimizer" in reference, f"{file}: reference", reference, right)
    table = artifact.get("table") or {}
    right = "must be a metric alone; other columns stand in `more`"
    require(split(table.get("value", ""))[1] == table.get("value", ""), f"{file}: table", table.get("value"), right)
    factors = sorted({factor for cell in cells for factor in cell})
    named = [*table.get("rows", []), *filter(None, [table.get("columns")])]
    for factor in named:
        require(factor in factors, f"{file}: table", factor, f"must be a factor of the grid: {', '.join(factors)}")
    for factor in factors if table else []:
        varies = len({cell.get(factor) for cell in cells}) > 1
        right = "varies, and a cell is a mean over seeds alone: name it in rows or columns"
        require(not varies or factor in (*named, "seed"), f"{file}: table", factor, right)
    settings = {tuple((key, value) for key, value in cell.items() if key != "seed") for cell in cells}
    for setting in asked:
        find(settings, setting, f"{file}: setting")
    for setting in settings if reference else ():
        reference_of(setting, settings, reference, f"{file}: reference")


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


def check_metrics(file: str, artifact: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse an unknown metric.

    Args:
        file: the sweep file.
        artifact: its section of that name.
        known: the metrics of its complete runs, and ours, which older runs may lack.

    Raises:
        ConfigError: names the file, the section and the nearest metric.
    """
    for section, named in metrics(artifact).items():
        for value in named:
            more = (f"{kind} {key}" for kind in COLUMNS for key in known) if section in COLUMNED else ()
            near = closest(value, [*known, *more])
            require(value in known, f"{file}: {section}", value, f"no run has this metric{near}")


def _check_keys(where: str, content: Iterable[str], known: Collection[str]) -> None:
    for key in content:
        require(key in known, where, key, f"no such key{closest(key, known)}")
