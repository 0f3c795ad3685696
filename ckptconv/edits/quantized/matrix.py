"""A weight computed from what it is quantized as, a rectangle at a time, in F32.

Everything is a matrix, dimensions before the last two folded into its rows:

    Plain     a tensor's elements as F32; 8-bit floats by a table
    Packed    elements of a few bits in words, the first in the lowest bits, but for `order`; of 3 bits, across them
    Product   (values - zeros) · scales · factor, where one scale is for `Grid.rows` × `Grid.columns` values

The order of the operations is that of the libraries that quantize, each rounded to F32. What they compute in 16 bits
(scales of F16 and BF16 times integers and 8-bit floats) is exact in F32, so that rounding once gives their bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor

    Array = np.ndarray[Any, Any]

TILE = 1 << 17
"""Elements that are computed at a time where they are read as they lie: half a megabyte of F32."""

GATHERED = 1 << 19
"""Elements that are computed at a time where what they are made of is gathered: each reading may go over much of it."""

F32_BYTES = 4

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The values of 4-bit floats (OCP Microscaling Formats 1.0, 5.3.3)."""


class Matrix(Protocol):
    """Numbers in rows and columns."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def light(self) -> bool:
        """Whether a small rectangle costs little."""

    def rectangle(self, rows: range, columns: range) -> Array:
        """A part of it, as a new F32 array."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A tensor's elements. bias: they are U8, each the power of two that it is so much above; 0 where they are not."""

    tensor: LazyTensor
    shape: tuple[int, int]
    bias: int = 0

    @property
    def light(self) -> bool:
        """Whether it lies in its file as one run."""
        return self.tensor.span is not None

    def rectangle(self, rows: range, columns: range) -> Array:
        """As F32."""
        import numpy as np

        from ckptconv.core.arrays import from_bytes

        dtype = self.tensor.info.dtype
        if dtype.bits != 8 or dtype.kind in ("int", "bool"):
            data, shape = read(self.tensor, self.shape, rows, columns, dtype.bits // 8)
            return cut(from_bytes(data, dtype, shape), columns).astype(np.float32)
        data, shape = read(self.tensor, self.shape, rows, columns, 1)
        table = _powers(self.bias) if self.bias else _table_of(dtype)
        return np.take(table, cut(np.frombuffer(data, np.uint8).reshape(shape), columns))


@dataclass(frozen=True, slots=True)
class Packed:
    """Elements of `bits` bits in words: 1, 2, 4 or 8, or 3.

    words:  a tensor of words, or of bytes.
    along:  the dimension along which a word holds several elements.
    table:  what each code stands for.
    order:  where in a word its elements lie, if not one after another from the lowest bits on.
    add:    what is added to every word first, carries included.
    """

    words: LazyTensor
    shape: tuple[int, int]
    bits: int
    along: int
    table: tuple[float, ...]
    order: tuple[int, ...] = ()
    add: int = 0

    @property
    def light(self) -> bool:
        """Whether the words lie in their file as one run."""
        return self.words.span is not None

    def rectangle(self, rows: range, columns: range) -> Array:
        """Unpacked."""
        import numpy as np

        unit, stored = self.words.info.dtype.bits // 8, self.words.info.shape[-1]
        size = (self.words.info.numel // stored if stored else 0, stored)
        step = 1 if unit * 8 % self.bits == 0 else self.bits  # words after which elements begin with a word again
        many = step * unit * 8 // self.bits
        wanted = (rows, columns)[self.along]
        low, high = wanted.start // many, -(-wanted.stop // many)
        words, start = range(low * step, high * step), wanted.start - low * many
        lines, across = (words, columns) if self.along == 0 else (rows, words)
        data, shape = read(self.words, size, lines, across, unit)
        codes = cut(np.frombuffer(data, f"<u{unit}").reshape(shape), across)
        if self.add:
            codes = codes + codes.dtype.type(self.add)
        if self.along == 0:
            made = self._unpacked(codes.reshape(high - low, step, -1).transpose(0, 2, 1), many)
            return made.transpose(0, 2, 1).reshape(-1, len(columns))[start : start + len(rows)]
        made = self._unpacked(codes.reshape(len(rows), high - low, step), many)
        return np.ascontiguousarray(made.reshape(len(rows), -1)[:, start : start + len(columns)])

    def _unpacked(self, codes: Array, many: int) -> Array:
        """`many` values of the words of each last dimension."""
        import numpy as np

        shape, data = codes.shape[:2], np.ascontiguousarray(codes).view(np.uint8)
        if 8 % self.bits:  # eight elements begin with a byte again
            three = data.reshape(*shape, -1, self.bits).astype(np.uint32)
            joint = (three << np.arange(0, 8 * self.bits, 8, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)
            fields = joint[..., None] >> np.arange(0, 8 * self.bits, self.bits, dtype=np.uint32)
            made = np.take(np.array(self.table, np.float32), fields & ((1 << self.bits) - 1))
        else:
            made = np.take(_bytes_table(self.table, self.bits), data).view(np.float32)
        made = made.reshape(*shape, many)
        return np.take(made, self.order, axis=-1) if self.order else made


@dataclass(frozen=True, slots=True)
class Scaled:
    """Scales that one more number is for. divides: they are divided by it."""

    scales: Matrix
    number: float
    divides: bool

    @property
    def shape(self) -> tuple[int, int]:
        """That of the scales."""
        return self.scales.shape

    @property
    def light(self) -> bool:
        """As the scales."""
        return self.scales.light

    def rectangle(self, rows: range, columns: range) -> Array:
        """The scales times that number, or divided by it, rounded to F32."""
        import numpy as np

        made, number = self.scales.rectangle(rows, columns), np.float32(self.number)
        with np.errstate(all="ignore"):
            result: Array = made / number if self.divides else made * number
        return result


@dataclass(frozen=True, slots=True)
class Grid:
    """Which scale is for which value.

    height:  rows of one matrix, of which there may be several, one below the other.
    rows, columns: values that share a scale; the last ones of a matrix may be fewer.
    lines:   rows of scales for one matrix.
    groups:  for each column its column of scales, where that is not the column divided by `columns`.
    """

    height: int
    rows: int
    columns: int
    lines: int
    groups: Array | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """Values less zeros, times scales, times a factor.

    shift: what is added at the end.
    """

    values: Matrix
    scales: Matrix
    grid: Grid
    zeros: Matrix | None = None
    factor: float | None = None
    shift: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """That of the values."""
        return self.values.shape

    @property
    def light(self) -> bool:
        """Whether all of it is read as it lies."""
        return self.values.light and self.scales.light and (self.zeros is None or self.zeros.light)

    def rectangle(self, rows: range, columns: range) -> Array:
        """As F32."""
        import numpy as np

        with np.errstate(all="ignore"):  # a scale may be infinite, or any NaN
            made = self.values.rectangle(rows, columns)
            if self.zeros is not None:
                self._each(np.subtract, made, self.zeros, rows, columns)
            self._each(np.multiply, made, self.scales, rows, columns)
            if self.factor is not None:
                made *= np.float32(self.factor)
            if self.shift is not None:
                made += np.float32(self.shift)
        return made

    def _each(self, operation: Any, made: Array, by: Matrix, rows: range, columns: range) -> None:
        """Every value and its scale."""
        import numpy as np

        grid = self.grid
        line = self._line(np.arange(rows.start, rows.stop))
        first = int(line[0])
        spread = self._spread(by, range(first, int(line[-1]) + 1), columns)
        if grid.rows == 1:
            operation(made, spread, out=made)
            return
        ends = [*(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
        start = 0
        for end in ends:
            operation(made[start:end], spread[line[start] - first], out=made[start:end])
            start = end

    def _line(self, rows: Array) -> Array:
        grid = self.grid
        made: Array = rows // grid.height * grid.lines + rows % grid.height // grid.rows
        return made

    def _spread(self, by: Matrix, lines: range, columns: range) -> Array:
        """Rows of scales, one for each column or one for all."""
        import numpy as np

        grid, width = self.grid, by.shape[1]
        if grid.groups is not None:
            return np.take(by.rectangle(lines, range(width)), grid.groups[columns.start : columns.stop], axis=1)
        if width == 1:
            return by.rectangle(lines, range(1))
        first, last = columns.start // grid.columns, -(-columns.stop // grid.columns)
        found = by.rectangle(lines, range(first, last))
        if grid.columns == 1:
            return found
        at = columns.start - first * grid.columns
        return np.repeat(found, grid.columns, axis=1)[:, at : at + len(columns)]


@dataclass(frozen=True, slots=True)
class MatrixReader:
    """Reads ranges of a matrix' F32 image; memory for the range and some arrays of TILE or GATHERED elements."""

    matrix: Matrix

    @property
    def light(self) -> bool:
        """Whether a small range costs little memory and few calls."""
        return self.matrix.light

    def __call__(self, start: int, stop: int) -> memoryview:
        first, last = start // F32_BYTES, -(-stop // F32_BYTES)
        made, at = bytearray((last - first) * F32_BYTES), 0
        for piece in self._pieces(first, last):
            made[at : at + len(piece)] = piece
            at += len(piece)
        base = first * F32_BYTES
        return memoryview(made)[start - base : stop - base]

    def _pieces(self, first: int, last: int) -> Iterator[memoryview]:
        width = self.matrix.shape[1]
        if self.light or width > GATHERED:
            return self._exactly(first, last, width, TILE if self.light else GATHERED)
        return self._by_rows(first, last, width)

    def _exactly(self, first: int, last: int, width: int, most: int) -> Iterator[memoryview]:
        """Whole rows where there are some, and parts of the others."""
        while first < last:
            row, column = divmod(first, width)
            whole = 0 if column or width > most else min(most, last - first) // width
            end = width if whole else min(width, column + most, column + last - first)
            made = self.matrix.rectangle(range(row, row + (whole or 1)), range(column, end))
            yield _image(made)
            first += made.size

    def _by_rows(self, first: int, last: int, width: int) -> Iterator[memoryview]:
        """Whole rows, those too of which a part alone is wanted."""
        many, stop = GATHERED // width, -(-last // width)
        for row in range(first // width, stop, many):
            image = _image(self.matrix.rectangle(range(row, min(row + many, stop)), range(width)))
            base = row * width
            yield image[max(first - base, 0) * F32_BYTES : (last - base) * F32_BYTES]


def read(
    tensor: LazyTensor, shape: tuple[int, int], rows: range, columns: range, unit: int
) -> tuple[memoryview, tuple[int, int]]:
    """A rectangle's bytes and its shape; whole rows, which `cut` cuts, where it has several."""
    width = shape[1]
    if len(rows) == 1:
        start = rows.start * width + columns.start
        return tensor.read(start * unit, (start + len(columns)) * unit), (1, len(columns))
    return tensor.read(rows.start * width * unit, rows.stop * width * unit), (len(rows), width)


def cut(made: Array, columns: range) -> Array:
    """What `read` gave, without the columns that are not wanted."""
    return made if made.shape[1] == len(columns) else made[:, columns.start : columns.stop]


def _image(made: Array) -> memoryview:
    import numpy as np

    return memoryview(np.ascontiguousarray(made, "<f4").reshape(-1).view(np.uint8))  # type: ignore[arg-type]


@lru_cache(maxsize=8)
def _table_of(dtype: DType) -> Array:
    """All values of an element type of 8 bits."""
    import numpy as np

    from ckptconv.core.arrays import from_bytes

    table: Array = from_bytes(memoryview(bytes(range(256))), dtype, 256).astype(np.float32)
    return table


@lru_cache(maxsize=2)
def _powers(bias: int) -> Array:
    """2^(code - bias), as torch has it: 255 is no NaN, as it is of E8M0, but 2^128, which is infinite in F32."""
    import numpy as np

    with np.errstate(over="ignore"):
        table: Array = np.ldexp(np.float32(1), np.arange(256) - bias)
    return table


@lru_cache(maxsize=32)
def _bytes_table(table: tuple[float, ...], bits: int) -> Array:
    """For every byte the values of all its elements, as one item of that many floats."""
    import numpy as np

    many = 8 // bits
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & ((1 << bits) - 1)
    values = np.array(table, np.float32)[codes]
    return np.ascontiguousarray(values).view(f"V{many * F32_BYTES}").reshape(256)
