"""The options of the configuration's groups, in few compositions."""

from itertools import zip_longest

from sparse_train.options.composition import CONF


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def side_by_side(*groups):
    """Words that choose the first option of each group, then its second, and so on."""
    words = ([f"{group}={option}" for option in options(group)] for group in groups)
    return [[*filter(None, turn)] for turn in zip_longest(*words)]
