"""Comparing the values in two ranks' pickles, so that equal ones are kept once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.metadata import NumpyScalar, TorchValue
from ckptconv.formats.torch.pickle import Global, UnbuiltObject
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.torch.pickle import Budget, Value


def same(a: Value, b: Value, budget: Budget, depth: int = 0) -> bool:
    """Whether two values are equal in value and type. Two tensors never count as equal, because comparing them means
    reading them. Raises LimitError.
    """
    budget.take(1)
    if type(a) is not type(b) or depth > MAX_DEPTH:
        return False
    match a:
        case None | bool() | int() | float() | complex() | str() | bytes() | bytearray() | set() | frozenset():
            return bool(a == b)
        case TorchValue() | NumpyScalar() | Global():
            return bool(a == b)
        case dict():
            return len(a) == len(b) and all(
                same(x, y, budget, depth + 1) for pairs in zip(a.items(), b.items(), strict=True)
                for x, y in zip(*pairs, strict=True)
            )  # fmt: skip
        case list() | tuple():
            return len(a) == len(b) and all(same(x, y, budget, depth + 1) for x, y in zip(a, b, strict=True))
        case UnbuiltObject():
            return all(same(getattr(a, field), getattr(b, field), budget, depth + 1) for field in _FIELDS)
        case _:
            return False


_FIELDS = ("name", "how", "args", "kwargs", "state", "items", "pairs")


def differing(first: Mapping[Value, Value], other: Mapping[Value, Value], budget: Budget) -> dict[Value, Value]:
    """The entries of `other` that `first` does not have with the same value."""
    return {key: value for key, value in other.items() if key not in first or not same(first[key], value, budget)}
