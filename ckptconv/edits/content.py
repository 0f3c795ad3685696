"""A few numbers of a tensor that tell whether it can be the same as another.

Where one side was cast as a whole, its wider numbers are rounded to the narrower type before they are compared, so that
a tensor is known again under another name and another type.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.edits.cast import FLOATS
from ckptconv.edits.rounding import cast_array

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor

PROBE = 64
"""Bytes that are read at the start, in the middle and at the end."""

WHOLE = 3 * PROBE
"""Bytes of a tensor up to which all are read."""

NUMBERS = 16
"""Elements that are read at each of these places where one side is rounded."""

ELSEWHERE = 9
"""Parts between which further elements are read where several explanations fit: odd, or kernels of 3 x 3 look alike."""

Print = tuple[bytes, ...]


class Content:
    """Reads some 200 bytes of each tensor it is asked about, once.

    rounded: the type to which floats are rounded before they are compared; None: they are compared as they are.
    """

    def __init__(self, rounded: DType | None = None) -> None:
        self.rounded = rounded
        self._known: dict[int, tuple[LazyTensor, Print]] = {}

    def __call__(self, tensor: LazyTensor) -> Print:
        """Equal for tensors of one `kind` and equal numbers; different for nearly all others."""
        known = self._known.get(id(tensor))
        if known is None:
            made = _print(tensor) if self.rounded is None else _numbers(tensor, self._type(tensor))
            known = self._known[id(tensor)] = (tensor, made)
        return known[1]

    def settled(self, a: LazyTensor, b: LazyTensor) -> bool | None:
        """Whether the bytes of two tensors of one size are equal, if all of both have been read; None if not."""
        one, other = self._known.get(id(a)), self._known.get(id(b))
        if self.rounded is not None or one is None or other is None or a.info.nbytes > WHOLE:
            return None
        return one[1] == other[1]

    def kind(self, tensor: LazyTensor) -> str:
        """The element type as far as it tells tensors apart."""
        return self._type(tensor).name

    def _type(self, tensor: LazyTensor) -> DType:
        dtype = tensor.info.dtype
        return self.rounded if self.rounded is not None and dtype in FLOATS else dtype

    def of_pair(self, a: LazyTensor, b: LazyTensor) -> Content | None:
        """What takes these two for one kind: `self`, or another for floats of unlike types; None where nothing does."""
        if self.kind(a) == self.kind(b):
            return self
        rounded = rounded_type([a], [b])
        return None if rounded is None else Content(rounded)

    def alike(self, a: LazyTensor, b: LazyTensor) -> int:
        """At how many of some places between those of their prints two tensors of one kind and size are the same."""
        numel = min(a.info.numel, b.info.numel)
        at = [numel * i // ELSEWHERE // 8 * 8 for i in range(1, ELSEWHERE)]
        ranges = [(start, min(start + NUMBERS, numel)) for start in at]
        dtype = self._type(b)
        return sum(_cast(a, dtype, *one) == _cast(b, dtype, *one) for one in ranges)

    def first(self, tensor: LazyTensor) -> bytes:
        """The first element, which stays the first where a matrix is transposed, or others are put behind it."""
        return self(tensor)[0][: self._unit(tensor)]

    def is_telling(self, tensor: LazyTensor) -> bool:
        """Whether the bytes read hold several values: those of zeros or ones would fit any such tensor."""
        unit = self._unit(tensor)
        data = b"".join(self(tensor))
        return data[unit:] != data[: max(0, len(data) - unit)]  # each value is the one before it where all are one

    def is_telling_number(self, tensor: LazyTensor) -> bool:
        """Whether it is a number by itself, and not one that counters and scales begin with."""
        dtype = self._type(tensor)
        if tensor.info.numel != 1 or dtype.bits < 8:
            return False
        from ckptconv.core.arrays import from_bytes

        return from_bytes(memoryview(self(tensor)[0]), dtype, 1)[0] not in (0, 1)

    def _unit(self, tensor: LazyTensor) -> int:
        return max(1, self._type(tensor).bits // 8)


def rounded_type(a: Iterable[LazyTensor], b: Iterable[LazyTensor]) -> DType | None:
    """The narrower of the types that most floats of the two sides have; None where they have the same."""
    one, other = (_commonest(side) for side in (a, b))
    if one is None or other is None or one is other:
        return None
    return one if one.bits < other.bits else other


def _commonest(tensors: Iterable[LazyTensor]) -> DType | None:
    counts = Counter(tensor.info.dtype for tensor in tensors if tensor.info.dtype in FLOATS)
    return counts.most_common(1)[0][0] if counts else None


def _print(tensor: LazyTensor) -> Print:
    size = tensor.info.nbytes
    if size <= WHOLE:
        return (bytes(tensor.read()),)
    middle = size // 2 // 48 * 48
    return tuple(bytes(tensor.read(at, at + PROBE)) for at in (0, min(middle, size - PROBE), size - PROBE))


def _numbers(tensor: LazyTensor, dtype: DType) -> Print:
    """The same elements of either side, as `dtype`."""
    info = tensor.info
    if info.dtype.kind == "block":  # whose numbers are nobody's on the other side
        return _print(tensor)
    return tuple(_cast(tensor, dtype, start, stop) for start, stop in _places(info.numel))


def _cast(tensor: LazyTensor, dtype: DType, first: int, last: int) -> bytes:
    """Elements [first, last) as `dtype`; `first` is a multiple of eight."""
    own = tensor.info.dtype
    data = tensor.read(first * own.bits // 8, (last * own.bits + 7) // 8)
    if own.bits < 8 or own is dtype:
        return bytes(data)
    from ckptconv.core.arrays import from_bytes, to_bytes

    return to_bytes(cast_array(from_bytes(data, own, last - first), own, dtype)[0], dtype)


def _places(numel: int) -> list[tuple[int, int]]:
    """The first, the middle and the last elements, as ranges; all where there are few."""
    if numel <= 3 * NUMBERS:
        return [(0, numel)]
    middle = numel // 2 // NUMBERS * NUMBERS
    starts = (0, middle, (numel - NUMBERS) // 8 * 8)
    return [(at, at + NUMBERS) for at in starts]
