"""Read ranges of a tensor whose data is in typed fields of the message, in constant memory.

Floats and doubles have a fixed width, so the position of any of them can be computed. Varints do not: the field is
scanned once, in blocks, and for each block the count of numbers before it is kept; a read then decodes only the blocks
that it needs. If the numbers are not packed, each follows a tag of one byte, which is itself a varint below 128: there,
every second varint is a number.

numpy is imported when numbers are read, never when a file is opened.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.formats.onnx.wire import bad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import SpanFile
    from ckptconv.formats.onnx.graph import Segment

BLOCK = 64 << 10
"""Bytes of varints that are decoded at a time."""

_LONGEST = 10
"""Bytes of a varint of 64 bits."""

_CONTINUED = bytes(range(0x80, 0x100))
"""The bytes of varints that are not the last byte of one."""

_CODES = 1 << 18
"""How many 6-bit elements are packed at a time; a multiple of four."""


@dataclass(frozen=True, slots=True)
class FixedReader:
    """Reads floats or doubles of `width` bytes that are in one or more segments."""

    name: str
    file: SpanFile
    segments: Sequence[Segment]
    width: int

    @property
    def count(self) -> int:
        """The count of numbers in all segments."""
        return sum(self._count(segment) for segment in self.segments)

    def _count(self, segment: Segment) -> int:
        return (segment.stop - segment.start) // (self.width if segment.packed else self.width + 1)

    def __call__(self, start: int, stop: int) -> memoryview:
        width = self.width
        first, last = start // width, -(-stop // width)
        image = bytearray((last - first) * width)
        before = 0
        for segment in self.segments:
            count = self._count(segment)
            low, high = max(first - before, 0), min(last - before, count)
            if low < high:
                at = (before + low - first) * width
                image[at : at + (high - low) * width] = self._numbers(segment, low, high)
            before += count
        return memoryview(image)[start - first * width : stop - first * width]

    def _numbers(self, segment: Segment, low: int, high: int) -> memoryview | bytearray:
        width = self.width
        if segment.packed:
            return self.file.read_at(segment.start + low * width, (high - low) * width)
        step = width + 1
        tagged = self.file.read_at(segment.start + low * step, (high - low) * step)
        numbers = bytearray((high - low) * width)
        for byte in range(width):
            numbers[byte::width] = tagged[byte + 1 :: step]
        return numbers


@dataclass(frozen=True, slots=True)
class _Block:
    """Varints that end in ``[start, stop)`` of the file, within a segment.

    first:  how many varints of the segment end before the block.
    before: how many numbers there are before the block, earlier segments included.
    """

    start: int
    stop: int
    segment: Segment
    first: int
    before: int


@dataclass(slots=True)
class VarintReader:
    """Reads integers that are stored as varints.

    unit:  how many of the lowest bytes of each number the tensor has; elements of 6 bits are packed instead.
    bits:  of an element.
    total: how many numbers there must be; checked when numbers are first read.
    """

    name: str
    file: SpanFile
    segments: Sequence[Segment]
    unit: int
    bits: int
    total: int
    _blocks: list[_Block] = field(default_factory=list)

    def check(self) -> None:
        """Scan the varints. Raises CorruptFileError unless there are as many numbers as the shape requires."""
        if self._blocks:
            return
        blocks, before = [], 0
        for segment in self.segments:
            first = 0
            for start in range(segment.start, segment.stop, BLOCK):
                stop = min(start + BLOCK, segment.stop)
                blocks.append(_Block(start, stop, segment, first, before + (first if segment.packed else first // 2)))
                ended = bytes(self.file.read_at(start, stop - start)).translate(None, _CONTINUED)
                first += len(ended)
            if self.file.read_at(segment.stop - 1, 1)[0] & 0x80:
                raise bad(f"the numbers of {self.name!r} are cut short")
            before += first if segment.packed else first // 2
        if before != self.total:
            raise bad(f"{self.name!r} holds {before:,} numbers, and its type and shape ask for {self.total:,}")
        self._blocks = blocks

    def __call__(self, start: int, stop: int) -> memoryview:
        self.check()
        if self.bits == 6:
            return self._packed_by_6_bits(start, stop)
        first, last = start // self.unit, -(-stop // self.unit)
        image = self._bytes(first, last).data
        return image[start - first * self.unit : stop - first * self.unit]

    def _packed_by_6_bits(self, start: int, stop: int) -> memoryview:
        first_triple, last = start // 3, min(-(-stop // 3) * 4, self.total)  # three bytes hold four elements
        packed = bytearray()
        for low in range(first_triple * 4, last, _CODES):
            packed += _pack_6_bits(self._bytes(low, min(low + _CODES, last)))
        return memoryview(packed)[start - first_triple * 3 : stop - first_triple * 3]

    def _check_values(self, numbers: Array) -> None:
        """Check that every number fits the type, read as unsigned or as signed."""
        import numpy as np

        bits = 6 if self.bits == 6 else self.unit * 8
        if bits == 64:
            return
        negative = (1 << 64) - (1 << (bits - 1)) if bits != 6 else (1 << 64) - 1
        if bool(((numbers >= np.uint64(1 << bits)) & (numbers < np.uint64(negative))).any()):
            raise bad(f"{self.name!r} holds a number that does not fit its type")

    def _bytes(self, first: int, last: int) -> Array:
        """The lowest `unit` bytes of each of the numbers ``[first, last)``."""
        import numpy as np

        image = np.empty((last - first, self.unit), dtype=np.uint8)
        index = max(bisect_right(self._blocks, first, key=lambda block: block.before) - 1, 0)
        filled = 0
        for block in self._blocks[index:]:
            if block.before >= last:
                break
            numbers = self._decode(block)[max(first - block.before, 0) : last - block.before]
            self._check_values(numbers)
            wide = numbers.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
            image[filled : filled + len(numbers)] = wide[:, : self.unit]
            filled += len(numbers)
        if filled != len(image):
            raise bad(f"the numbers of {self.name!r} changed")
        return image.reshape(-1)

    def _decode(self, block: _Block) -> Array:
        import numpy as np

        begin = max(block.segment.start, block.start - _LONGEST)
        data = np.frombuffer(self.file.read_at(begin, block.stop - begin), dtype=np.uint8)
        ends = np.flatnonzero(data < 0x80)
        starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
        inside = ends >= block.start - begin
        ends, starts = ends[inside], starts[inside]
        lengths = ends - starts + 1
        if len(lengths) and (int(lengths.max()) > _LONGEST or bool((data[ends[lengths == _LONGEST]] > 1).any())):
            raise bad(f"a number of {self.name!r} has more than 64 bits")
        values = np.zeros(len(ends), dtype=np.uint64)
        for byte in range(int(lengths.max()) if len(lengths) else 0):
            there = lengths > byte
            values[there] |= (data[starts[there] + byte] & 0x7F).astype(np.uint64) << np.uint64(7 * byte)
        return values if block.segment.packed else np.ascontiguousarray(values[1 - block.first % 2 :: 2])


def _pack_6_bits(codes: Array) -> bytes:
    """Pack elements of 6 bits: four of them in three bytes, the first in the lowest bits."""
    import numpy as np

    padded = np.zeros(-(-len(codes) // 4) * 4, dtype=np.uint32)
    padded[: len(codes)] = codes
    a, b, c, d = padded.reshape(-1, 4).T
    triples = (a | b << 6 | c << 12 | d << 18).astype("<u4")
    return triples.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()[: -(-len(codes) * 6 // 8)]
