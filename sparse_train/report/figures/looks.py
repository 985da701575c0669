"""How the lines of an accuracy figure are told apart: by the optimizer alone, or by all that varies between them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from sparse_train.report.figures import style
from sparse_train.report.figures.kinds import groups
from sparse_train.report.figures.style import Look
from sparse_train.report.views.labels import label, option

METHOD = ("dst", "optimizer")
SHOWN_OTHERWISE = ("sparsity", "epochs", "seed", *METHOD)  # as panels, axis, dashes and bands


def of_method(optimizer: str, methods: Mapping[str, str] | None = None) -> Look:
    """A method's, the same in every figure.

    Args:
        methods: a sweep's words for optimizers that are something else there.
    """
    own = style.look(optimizer)
    return Look(label("optimizer", optimizer, methods), own["color"], own["marker"], style.DASHES[0])


class Looks:
    """The lines of a figure: methods, and what else its grid varies.

    The four optimizers look the same in every figure, and so do dense and static networks. Only where several DST
    methods or another factor vary, each line has a colour and a marker of its own, and words for what varies.

    Args:
        runs: of the figure, complete or not.
        factors: keys of the sweep's grid.
        methods: words for optimizers that are something else in this sweep.
    """

    def __init__(self, runs: pd.DataFrame, factors: Iterable[str], methods: Mapping[str, str] | None = None):
        self._methods = methods
        trained = runs[~runs["dst"].isin(style.REFERENCES)]
        trained = runs if trained.empty else trained
        others = [key for key in factors if key in runs and key not in SHOWN_OTHERWISE]
        self.by = [*METHOD, *(key for key in others if trained[key].nunique(dropna=False) > 1)]
        settings = list(dict.fromkeys(map(_words_of, runs[self.by].itertuples(index=False, name=None))))
        alone = Counter(dst for dst, *_ in settings)
        lines = [one for one in settings if one[0] not in style.REFERENCES or alone[one[0]] > 1]
        self._varies = [len(set(values)) > 1 for values in zip(*lines, strict=True)]
        strange = {optimizer for _, optimizer, *_ in lines} - set(style.OPTIMIZERS)
        plain = len({(dst, *rest) for dst, _, *rest in lines}) <= 1 and len(strange) <= 1
        own = {one: of_method(one[1], methods) if plain else self._own(place, one) for place, one in enumerate(lines)}
        self._looks = {one: own[one] if one in own else self._reference(one) for one in settings}

    def lines(self, rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], Look, pd.DataFrame]]:
        """(DST method, optimizer), look and rows of every line that has any."""
        for setting, group in groups(rows, self.by, sort=False, dropna=False):
            yield setting[:2], self._looks[_words_of(setting)], group

    def _own(self, place: int, setting: tuple[str, ...]) -> Look:
        count = len(style.COLOURS)
        marker = style.MARKERS[(place + place // count) % count]
        return Look(self._words(setting), style.COLOURS[place % count], marker, "-")

    def _reference(self, setting: tuple[str, ...]) -> Look:
        colour, dash = style.REFERENCES[setting[0]]
        return Look(label("dst", setting[0]), colour, "", dash)

    def _words(self, setting: tuple[str, ...]) -> str:
        """`SET, SparseOpt, learning rate 0.5`: what varies."""
        named = [(key, value) for key, value, varies in zip(self.by, setting, self._varies, strict=True) if varies]
        words = [label(key, value, self._methods) for key, value in named if key in METHOD]
        words += [option(key, value) for key, value in named if key not in METHOD and value != "nan"]
        return ", ".join(words) or label("optimizer", setting[1], self._methods)


def _words_of(setting: tuple) -> tuple[str, ...]:
    """A hole, where a grid of the sweep has no such key, equals another hole."""
    return tuple(map(str, setting))
