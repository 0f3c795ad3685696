"""Calls that a pickle asks for, which are not made: whether a tensor of the model hangs on one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import UnsafeError
from ckptconv.formats.torch.pickle import Thing
from ckptconv.formats.torch.values.stubs import RefusedTensor, StorageStub, TensorStub

if TYPE_CHECKING:
    from ckptconv.formats.torch.pickle import Value


def refuse_call(name: str, value: Value) -> None:
    """Raise UnsafeError where a tensor of the model may be what a call gives."""
    if isinstance(value, Thing) and _depends_on_tensor(value):
        raise UnsafeError(
            f"the model's {name!r} is made by a call of {value.name}, which is not made here",
            hint="load the file in a place that you can lose, and save model.state_dict()",
        )


def _depends_on_tensor(thing: Thing) -> bool:
    """Whether a call was handed a tensor, so that its result may be one."""
    waiting: list[Value] = [thing.args, thing.state, thing.items, thing.pairs]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (TensorStub, StorageStub, RefusedTensor)):
            return thing.how == "called"
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case dict():
                waiting.extend(value.values())
            case list() | tuple() | set() | frozenset():
                waiting.extend(value)
            case Thing():
                waiting.extend([value.args, value.state, value.items, value.pairs])
    return False
