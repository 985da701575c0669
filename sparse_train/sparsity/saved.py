"""State of a method in the state of its optimizer, as the masks are: model and optimizer are then all that is saved."""

from typing import Any

import torch

KEY = "updater"


def saved_with(optimizer: torch.optim.Optimizer, name: str, part: Any) -> None:
    """Save what `part.state_dict()` gives with the optimizer, and load it with it.

    Loading raises ValueError for a state without it, after which the method would not go on as it was.
    """

    def save(_: torch.optim.Optimizer, state: dict) -> dict:
        return {**state, KEY: {**state.get(KEY, {}), name: part.state_dict()}}

    def load(_: torch.optim.Optimizer, state: dict) -> None:
        if name not in state.get(KEY, {}):
            raise ValueError(f"this optimizer's state was saved without an Updater's {name}, so it cannot go on")
        part.load_state_dict(state[KEY][name])

    optimizer.register_state_dict_post_hook(save)
    optimizer.register_load_state_dict_pre_hook(load)
