"""Check the type (a number or a word) and the shape that a tensor's header states."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeVar

from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import UnsupportedError
from ckptconv.io.limits import MAX_DIM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptconv.core.dtypes import DType
    from ckptconv.errors import CorruptFileError

Code = TypeVar("Code", int, str)


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor in a file's header; `start` is its offset from the file's first byte."""

    info: TensorInfo
    start: int


def header_info(
    whose: str, code: Code, shape: Sequence[int], *, dtypes: Mapping[Code, DType], library: str,
    bad: Callable[[str], CorruptFileError],
) -> TensorInfo:  # fmt: skip
    """The type, shape and size of a tensor that is stored without gaps.

    whose:   what errors call the tensor.
    dtypes:  the element types by code.
    library: the release that has these codes.
    bad:     makes the error for bytes that contradict the format.

    Raises CorruptFileError, UnsupportedError.
    """
    if code not in dtypes:
        raise UnsupportedError(
            f"{whose} has the element type {code!r}, which {library} does not know",
            hint="the file is damaged, or newer than this ckptconv",
        )
    dtype = dtypes[code]
    if not all(0 <= size <= MAX_DIM for size in shape) or prod(shape) * dtype.bits > MAX_DIM:
        raise bad(f"{whose} has the shape {list(shape[:8])}")
    return TensorInfo.of(dtype, tuple(shape))
