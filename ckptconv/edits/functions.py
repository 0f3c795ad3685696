"""Functions of elements, computed while they are read: x + 1, -exp(x), …

Only what frameworks do to values: one keeps a norm as 1 + w and another as w, and Mamba's A is -exp(A_log). Values are
computed in F32 (F64 for F64) and rounded once to the tensor's own type, to nearest, ties to even. numpy does the same,
and so does torch, except that it first rounds a summand where the tensor has 16 bits. exp and log are numpy's; their
last bit depends on the processor. Each element is computed by itself, so any range takes memory only for itself.

Nothing undoes a function exactly: what rounding lost is gone (``x + 1 - 1`` is not x). `near_inverse` comes close.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor
from ckptconv.edits.cast import FLOATS, BlockReader
from ckptconv.edits.rounding import Loss, cast_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json


WITH_VALUE = ("add", "multiply")
NAMES = (*WITH_VALUE, "neg-exp", "log-neg")


@dataclass(frozen=True, slots=True)
class Function:
    """One of `NAMES`, and the value of those that take one."""

    name: str
    value: float | None = None

    @classmethod
    def of(cls, details: Mapping[str, Json]) -> Function:
        """The function in an edit's details. Raises ValueError, saying what is wrong with them."""
        name, value = details.get("function"), details.get("value")
        if name not in NAMES:
            raise ValueError(f"there is no function {name!r}")
        if name not in WITH_VALUE:
            if value is not None:
                raise ValueError(f"{name} takes no value")
            return cls(str(name))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} needs a value, a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{name} needs a value that is finite")
        return cls(str(name), number)

    def __call__(self, values: Array) -> Array:
        import numpy as np

        result: Array
        match self.name:
            case "add":
                result = values + values.dtype.type(self.value)
            case "multiply":
                result = values * values.dtype.type(self.value)
            case "neg-exp":
                result = -np.exp(values)
            case _:
                result = np.log(-values)
        return result


def near_inverse(details: Mapping[str, Json]) -> str:
    """A hint with the edit that undoes this one except for rounding."""
    value = details.get("value")
    number = value if isinstance(value, int | float) else 0
    other = {
        "add": f"'add' and value = {-number}",
        "multiply": f"'multiply' and value = {1 / number if number else 'inf'}",
        "neg-exp": "'log-neg'",
        "log-neg": "'neg-exp'",
    }.get(str(details.get("function")))
    return f"an edit with function = {other} does so but for rounding" if other else "it says no function"


@dataclass
class MapReader(BlockReader):
    """A reader of a tensor with a function applied to every element; the type stays."""

    function: Function

    def compute(self, values: Array) -> tuple[Array, Loss]:
        """The function's values, rounded. Finite values that become infinite or NaN count as overflows."""
        import numpy as np

        with np.errstate(all="ignore"):
            wide = values if self.dtype in (DType.F32, DType.F64) else values.astype(np.float32)
            result = self.function(wide)
            lost = int(np.count_nonzero(np.isfinite(wide) & ~np.isfinite(result)))
            if wide is values:
                return result, Loss(lost)
            rounded, loss = cast_array(result, DType.F32, self.dtype)
        return rounded, Loss(lost + loss.overflowed)

    def applied_to(self, source: LazyTensor) -> LazyTensor:
        """The same function of another tensor."""
        return mapped(source, self.function)


def mapped(tensor: LazyTensor, function: Function) -> LazyTensor:
    """The tensor with a function applied to every element. Raises ValueError where its elements are not floats."""
    dtype = tensor.info.dtype
    if dtype not in FLOATS:
        raise ValueError(f"{dtype} is not computed with")
    return LazyTensor(tensor.info, MapReader(tensor, dtype, function), depends=tensor.depends)
