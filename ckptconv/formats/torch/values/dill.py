"""What dill's own functions make: arrays, and builtin classes. Those that make functions and classes of code are calls
like any other's.

Source: dill/_dill.py (`_create_array`, `_load_type`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.formats.torch.pickle import Global
from ckptconv.formats.torch.values.numpy_values import whole_array

if TYPE_CHECKING:
    from ckptconv.formats.torch.pickle import Value

_CLASSES = {
    cls.__name__: Global("builtins", cls.__name__)
    for cls in (
        bool,
        bytearray,
        bytes,
        complex,
        dict,
        float,
        frozenset,
        int,
        list,
        object,
        range,
        set,
        slice,
        str,
        tuple,
    )
}
"""Classes of plain values. Kept, since the interpreter knows a name by its identity."""


def dill_array(function: Value, args: Value, state: Value, attributes: Value = None) -> Value:
    """``_create_array``, which makes every array; NotImplemented for a subclass, which alone has attributes."""
    return whole_array(function, args, state) if attributes is None else NotImplemented


def dill_type(name: Value) -> Value:
    """``_load_type``, which makes a builtin class of its name."""
    return _CLASSES.get(name, NotImplemented) if isinstance(name, str) else NotImplemented
