"""The optimizer's state by parameter, split from its state for the flat tensors.

The result is the optimizer's own state_dict with names in place of numbers, as in torch.distributed's
``get_optimizer_state_dict`` and in FSDP:

    {"state": {name: {"exp_avg": …}}, "param_groups": [{"lr": …, "params": [name …]}]}
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.formats.torch.sets.same import same
from ckptconv.formats.torch.tree.placing import placed_stub
from ckptconv.formats.torch.values.stubs import TensorStub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.deepspeed.layout import Group
    from ckptconv.formats.torch.pickle import Budget, Value

KEYS = ("base_optimizer_state", "optimizer_state_dict")
"""The keys of the optimizer's state, in stages 1 and 2, and in stage 3."""

States = list[dict["Value", "Value"]]
"""The states that a rank keeps, one for each flat tensor."""


class NotByParameterError(Exception):
    """The state cannot be split by parameter."""


class Moments:
    """Joins the ranks' optimizer states. `place` makes a tensor from a stub."""

    def __init__(self, groups: Sequence[Group], place: Callable[[str, TensorStub], LazyTensor], budget: Budget) -> None:
        self._groups = groups
        self._place = place
        self._budget = budget

    def join(self, ranks: Sequence[Value]) -> dict[str, Value]:
        """The state_dict. Raises NotByParameterError if the states are not those of flat tensors like the weights'."""
        states, param_groups = _by_group(ranks, len(self._groups))
        if not all(same(param_groups[0], other, self._budget) for other in param_groups[1:]):
            raise NotByParameterError
        joined: dict[str, Value] = {}
        for i, group in enumerate(self._groups):
            of_group = [rank[i] for rank in states]
            if any(list(state) != list(of_group[0]) for state in of_group):
                raise NotByParameterError
            columns = {key: self._column(group, [state[key] for state in of_group]) for key in of_group[0]}
            for name in group.places if columns else ():
                joined[name] = {key: column(name) for key, column in columns.items()}
        if not param_groups:
            return {"state": joined}
        names = [list(group.places) for group in self._groups]
        return {"state": joined, "param_groups": named(param_groups[0], names)}

    def _column(self, group: Group, values: Sequence[Value]) -> Callable[[str], Value]:
        """A function from a parameter's name to its share of one kind of state, such as ``exp_avg``."""
        first = values[0]
        if all(isinstance(value, TensorStub) for value in values):
            parts = [self._place("the optimizer's state", value) for value in values]
            if group.fits(parts) and first.shape != ():
                stubs = {name: placed_stub(tensor) for name, tensor in group.tensors(parts, lambda name: None).items()}
                return stubs.__getitem__
            if all(value.shape == () and value.dtype is first.dtype for value in values):  # the count of steps
                number = replace(parts[0], alias=None)  # each parameter has its own; they are not tied
                return lambda name: placed_stub(number)
        elif all(same(first, value, self._budget) for value in values[1:]):
            return lambda name: first
        raise NotByParameterError


def named(param_groups: Value, names: Sequence[Sequence[str]]) -> list[Value]:
    """The hyperparameter groups, with parameter names in place of their flat tensors' numbers.

    Raises NotByParameterError if these numbers are not consecutive.
    """
    result, seen = [], 0
    if not isinstance(param_groups, list) or not all(isinstance(group, dict) for group in param_groups):
        raise NotByParameterError
    for group in param_groups:
        numbers = group.get("params")
        if not isinstance(numbers, list) or numbers != list(range(seen, min(seen + len(numbers), len(names)))):
            raise NotByParameterError
        seen += len(numbers)
        result.append({**group, "params": [name for number in numbers for name in names[number]]})
    if seen != len(names):
        raise NotByParameterError
    return result


def _by_group(ranks: Sequence[Value], count: int) -> tuple[list[States], list[Value]]:
    """For each rank the states of each group, and the hyperparameter groups if there are any."""
    if all(isinstance(rank, list) for rank in ranks):  # an elastic checkpoint
        if any(len(rank) != count or not all(isinstance(state, dict) for state in rank) for rank in ranks):
            raise NotByParameterError
        return list(ranks), []
    states = []
    for rank in ranks:
        state = rank.get("state") if isinstance(rank, dict) else None
        if not isinstance(state, dict) or rank.keys() != {"state", "param_groups"}:
            raise NotByParameterError
        if not isinstance(rank["param_groups"], list) or not all(type(i) is int and 0 <= i < count for i in state):
            raise NotByParameterError
        rows = [state.get(i, {}) for i in range(count)]
        if not all(isinstance(row, dict) for row in rows):
            raise NotByParameterError
        states.append(rows)
    return states, [rank["param_groups"] for rank in ranks]
