"""Fingerprints of tensors: a few of their bytes, which tell whether two tensors can be equal.

Where one side as a whole was cast to a narrower type, the wider numbers are rounded to it before they are compared, so
that a tensor is recognised under another name and another type.
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
"""Bytes that are read at the start, in the middle and at the end each."""

WHOLE = 3 * PROBE
"""Tensors of up to so many bytes are read whole."""

NUMBERS = 16
"""Elements that are read at each of these places where one side is rounded."""

ELSEWHERE = 9
"""Where several explanations fit, further elements are read: between so many equal parts of the tensor.

An odd number, or kernels of 3 × 3 would look alike.
"""

Print = tuple[bytes, ...]
"""A fingerprint: the bytes at each place."""


class Content:
    """Takes fingerprints. Reads some 200 bytes of each tensor that it is asked about, once.

    rounded: the type to which floats are rounded before they are compared; None compares them as they are.
    """

    def __init__(self, rounded: DType | None = None) -> None:
        self.rounded = rounded
        self._known: dict[int, tuple[LazyTensor, Print]] = {}

    def __call__(self, tensor: LazyTensor) -> Print:
        """The fingerprint: equal for tensors of the same `kind` and values, different for nearly all others."""
        known = self._known.get(id(tensor))
        if known is None:
            result = _print(tensor) if self.rounded is None else _numbers(tensor, self._type(tensor))
            known = self._known[id(tensor)] = (tensor, result)
        return known[1]

    def settled(self, a: LazyTensor, b: LazyTensor) -> bool | None:
        """Whether two tensors of the same size have equal bytes, if both have been read whole; else None."""
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
        """What takes fingerprints that make these two comparable: `self`, or a rounding one for different float types.

        None where nothing does.
        """
        if self.kind(a) == self.kind(b):
            return self
        rounded = rounded_type([a], [b])
        return None if rounded is None else Content(rounded)

    def count_equal(self, a: LazyTensor, b: LazyTensor) -> int:
        """At how many of a few more places two tensors of the same kind and size are equal."""
        numel = min(a.info.numel, b.info.numel)
        at = [numel * i // ELSEWHERE // 8 * 8 for i in range(1, ELSEWHERE)]
        ranges = [(start, min(start + NUMBERS, numel)) for start in at]
        dtype = self._type(b)
        return sum(_cast(a, dtype, *bounds) == _cast(b, dtype, *bounds) for bounds in ranges)

    def first(self, tensor: LazyTensor) -> bytes:
        """The first element, which stays first when the tensor is transposed or others are appended to it."""
        return self(tensor)[0][: self._unit(tensor)]

    def is_telling(self, tensor: LazyTensor) -> bool:
        """Whether the fingerprint has several values. One of all zeros or ones would fit any such tensor."""
        unit = self._unit(tensor)
        data = b"".join(self(tensor))
        return data[unit:] != data[: max(0, len(data) - unit)]  # if all values are one, each equals the one before it

    def is_telling_number(self, tensor: LazyTensor) -> bool:
        """Whether the tensor is a single number other than 0 and 1, which counters and scales start with."""
        dtype = self._type(tensor)
        if tensor.info.numel != 1 or dtype.bits < 8:
            return False
        from ckptconv.core.arrays import from_bytes

        return from_bytes(memoryview(self(tensor)[0]), dtype, 1)[0] not in (0, 1)

    def _unit(self, tensor: LazyTensor) -> int:
        return max(1, self._type(tensor).bits // 8)


def rounded_type(a: Iterable[LazyTensor], b: Iterable[LazyTensor]) -> DType | None:
    """The narrower of the two sides' most common float types; None if they are the same or a side has no floats."""
    one, other = (_most_common_float(side) for side in (a, b))
    if one is None or other is None or one is other:
        return None
    return one if one.bits < other.bits else other


def _most_common_float(tensors: Iterable[LazyTensor]) -> DType | None:
    counts = Counter(tensor.info.dtype for tensor in tensors if tensor.info.dtype in FLOATS)
    return counts.most_common(1)[0][0] if counts else None


def _print(tensor: LazyTensor) -> Print:
    size = tensor.info.nbytes
    if size <= WHOLE:
        return (bytes(tensor.read()),)
    middle = size // 2 // 48 * 48
    return tuple(bytes(tensor.read(at, at + PROBE)) for at in (0, min(middle, size - PROBE), size - PROBE))


def _numbers(tensor: LazyTensor, dtype: DType) -> Print:
    """The fingerprint from the elements as `dtype`: from the same elements of tensors of any type."""
    info = tensor.info
    if info.dtype.kind == "block":  # unpacked values are rounded to those of no other type
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
