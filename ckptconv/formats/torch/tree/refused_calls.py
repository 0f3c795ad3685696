"""Whether a tensor of the model depends on a call that the pickle asks for, and that is not made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import UnsafeError
from ckptconv.formats.torch.pickle import UnbuiltObject
from ckptconv.formats.torch.values.stubs import RefusedTensor, StorageStub, TensorStub

if TYPE_CHECKING:
    from ckptconv.formats.torch.pickle import Value


def refuse_call(name: str, value: Value) -> None:
    """Raise UnsafeError if an entry of the state_dict may be a tensor that a refused call would return."""
    if isinstance(value, UnbuiltObject) and _depends_on_tensor(value):
        raise UnsafeError(
            f"the model's {name!r} is made by a call of {value.name}, which is not made here",
            hint="load the file in a place that you can lose, and save model.state_dict()",
        )


def _depends_on_tensor(obj: UnbuiltObject) -> bool:
    """Whether a call gets a tensor, so that its result may be one."""
    waiting: list[Value] = [obj.args, obj.state, obj.items, obj.pairs]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (TensorStub, StorageStub, RefusedTensor)):
            return obj.how == "called"
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case dict():
                waiting.extend(value.values())
            case list() | tuple() | set() | frozenset():
                waiting.extend(value)
            case UnbuiltObject():
                waiting.extend([value.args, value.state, value.items, value.pairs])
    return False
