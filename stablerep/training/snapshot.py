"""A copy of an engine's state in memory, so that it can be written while training goes on."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import copy
from typing import Any

from torch import Tensor


def copied(state: Any) -> Any:
    """The same nested state with its own tensors, on the CPU; a tensor that is part of a larger one becomes one of its own."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        twin = copy.copy(state)  # keeps the class and what hangs on it
        twin.update({name: copied(value) for name, value in state.items()})
        return twin
    if isinstance(state, list):
        return [copied(value) for value in state]
    if isinstance(state, tuple):
        values = [copied(value) for value in state]
        return type(state)(*values) if hasattr(state, "_fields") else tuple(values)
    return copy.deepcopy(state)
