"""A weight computed from what it is quantized as, a rectangle at a time, in F32.

Everything is a matrix, dimensions before the last two folded into its rows:

    Plain, Packed   the elements of one tensor (`elements`)
    Product         (values - zeros) · scales · factor + biases, where one scale is for `Grid.rows` × `Grid.columns`
                    values

The order of the operations is that of the libraries that quantize, each rounded to F32. What they compute in 16 bits
(scales of F16 and BF16 times integers and 8-bit floats) is exact in F32, so that rounding once gives their bits; where
they add to that, each step is rounded as they do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType

TILE = 1 << 17
"""Elements that are computed at a time where they are read as they lie: half a megabyte of F32."""

GATHERED = 1 << 19
"""Elements that are computed at a time where what they are made of is gathered: each reading may go over much of it."""

F32_BYTES = 4


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
class Same:
    """A number everywhere."""

    number: float
    shape: tuple[int, int]
    light: bool = True

    def rectangle(self, rows: range, columns: range) -> Array:
        """As many of it."""
        import numpy as np

        return np.full((len(rows), len(columns)), self.number, np.float32)


@dataclass(frozen=True, slots=True)
class Mapped:
    """Something of each number of another matrix: of its shape, and as light."""

    source: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """That of the other."""
        return self.source.shape

    @property
    def light(self) -> bool:
        """As the other."""
        return self.source.light


@dataclass(frozen=True, slots=True)
class Scaled(Mapped):
    """Scales that one more number is for. divides: they are divided by it. rounded: to what the result is rounded."""

    number: float
    divides: bool
    rounded: DType | None = None

    def rectangle(self, rows: range, columns: range) -> Array:
        """The scales times that number, or divided by it, rounded to F32."""
        import numpy as np

        made, number = self.source.rectangle(rows, columns), np.float32(self.number)
        with np.errstate(all="ignore"):
            return narrowed(made / number if self.divides else made * number, self.rounded)


@dataclass(frozen=True, slots=True)
class Inverse(Mapped):
    """One divided by each scale."""

    def rectangle(self, rows: range, columns: range) -> Array:
        """The quotients, rounded to F32."""
        import numpy as np

        with np.errstate(all="ignore"):
            made: Array = np.float32(1) / self.source.rectangle(rows, columns)
            return made


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

    def each(self, operation: Callable[..., object], made: Array, by: Matrix, rows: range, columns: range) -> None:
        """Every value of a rectangle and its scale: the operation gets some of the first, the second, and where what
        becomes of them goes.
        """
        import numpy as np

        line = self._line(np.arange(rows.start, rows.stop))
        first = int(line[0])
        spread = self._spread(by, range(first, int(line[-1]) + 1), columns)
        if self.rows == 1:
            operation(made, spread, out=made)
            return
        ends = [*(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
        start = 0
        for end in ends:
            operation(made[start:end], spread[line[start] - first], out=made[start:end])
            start = end

    def _line(self, rows: Array) -> Array:
        made: Array = rows // self.height * self.lines + rows % self.height // self.rows
        return made

    def _spread(self, by: Matrix, lines: range, columns: range) -> Array:
        """Rows of scales, one for each column or one for all."""
        import numpy as np

        width = by.shape[1]
        if self.groups is not None:
            return np.take(by.rectangle(lines, range(width)), self.groups[columns.start : columns.stop], axis=1)
        if width == 1:
            return by.rectangle(lines, range(1))
        first, last = columns.start // self.columns, -(-columns.stop // self.columns)
        found = by.rectangle(lines, range(first, last))
        if self.columns == 1:
            return found
        at = columns.start - first * self.columns
        return np.repeat(found, self.columns, axis=1)[:, at : at + len(columns)]


@dataclass(frozen=True, slots=True)
class Product:
    """Values less zeros, times scales, times a factor.

    biases: what is added, each to the values that share a scale. shift: what is added at the end.
    rounded: the type of 16 bits that products and sums are rounded to, where the library computes in it.
    """

    values: Matrix
    scales: Matrix
    grid: Grid
    zeros: Matrix | None = None
    factor: float | None = None
    shift: float | None = None
    biases: Matrix | None = None
    rounded: DType | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """That of the values."""
        return self.values.shape

    @property
    def light(self) -> bool:
        """Whether all of it is read as it lies."""
        return all(one.light for one in (self.values, self.scales, self.zeros, self.biases) if one is not None)

    def rectangle(self, rows: range, columns: range) -> Array:
        """As F32."""
        import numpy as np

        with np.errstate(all="ignore"):  # a scale may be infinite, or any NaN
            made = self.values.rectangle(rows, columns)
            if self.zeros is not None:
                self.grid.each(np.subtract, made, self.zeros, rows, columns)
                made = narrowed(made, self.rounded)
            self.grid.each(np.multiply, made, self.scales, rows, columns)
            made = narrowed(made, self.rounded)
            if self.biases is not None:
                self.grid.each(np.add, made, self.biases, rows, columns)
                made = narrowed(made, self.rounded)
            if self.factor is not None:
                made *= np.float32(self.factor)
            if self.shift is not None:
                made += np.float32(self.shift)
        return made


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
        base, size, at = first * F32_BYTES, (last - first) * F32_BYTES, 0
        made = bytearray()
        for piece in self._pieces(first, last):
            if len(piece) == size:
                return piece[start - base : stop - base]
            made = made or bytearray(size)
            made[at : at + len(piece)] = piece
            at += len(piece)
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


def narrowed(made: Array, dtype: DType | None) -> Array:
    """What the type of 16 bits keeps of it."""
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    return made if dtype is None else made.astype(numpy_dtype(dtype)).astype(np.float32)


def _image(made: Array) -> memoryview:
    import numpy as np

    return np.ascontiguousarray(made, "<f4").reshape(-1).view(np.uint8).data
