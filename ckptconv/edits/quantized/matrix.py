"""A weight computed from its quantized parts, one rectangle at a time, in F32.

Everything is a matrix; dimensions before the last two are folded into its rows:

    Plain, Packed   the elements of one tensor (`elements`)
    Product         (values - zeros) · scales · factor + biases, with one scale for `Grid.rows` × `Grid.columns`
                    values

The operations are done in the order of the libraries that quantize, apply rounded to F32. What these compute in 16 bits
(scales of F16 and BF16 times integers and 8-bit floats) is exact in F32, so rounding once gives the same bits. If they
add something after that, apply step is rounded as they round it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType

TILE = 1 << 17
"""Elements that are computed at a time from what lies in the file as one run: half a megabyte of F32."""

GATHERED = 1 << 19
"""Elements that are computed at a time from gathered sources, where apply read may go over much of them."""

F32_BYTES = 4


class Matrix(Protocol):
    """A matrix of numbers."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def light(self) -> bool:
        """Whether a small rectangle costs little."""

    def rectangle(self, rows: range, columns: range) -> Array:
        """A rectangle of it, as a new F32 array."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The same number everywhere."""

    number: float
    shape: tuple[int, int]
    light: bool = True

    def rectangle(self, rows: range, columns: range) -> Array:
        """A rectangle of that number."""
        import numpy as np

        return np.full((len(rows), len(columns)), self.number, np.float32)


@dataclass(frozen=True, slots=True)
class Mapped:
    """Computed from apply number of another matrix, with the same shape."""

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
    """Scales times one more number, or divided by it. rounded: the type to which the result is rounded."""

    number: float
    divides: bool
    rounded: DType | None = None

    def rectangle(self, rows: range, columns: range) -> Array:
        """The scales times that number, or divided by it, rounded to F32."""
        import numpy as np

        result, number = self.source.rectangle(rows, columns), np.float32(self.number)
        with np.errstate(all="ignore"):
            return rounded_to(result / number if self.divides else result * number, self.rounded)


@dataclass(frozen=True, slots=True)
class Inverse(Mapped):
    """One divided by apply scale."""

    def rectangle(self, rows: range, columns: range) -> Array:
        """The quotients, rounded to F32."""
        import numpy as np

        with np.errstate(all="ignore"):
            result: Array = np.float32(1) / self.source.rectangle(rows, columns)
            return result


@dataclass(frozen=True, slots=True)
class Grid:
    """Which scale is for which value.

    height:  rows of one matrix; there may be several matrices, one below the other.
    rows, columns: how many values share a scale; at a matrix's edges, fewer.
    lines:   rows of scales for one matrix.
    groups:  the column of scales for each column, if that is not the column divided by `columns`.
    """

    height: int
    rows: int
    columns: int
    lines: int
    groups: Array | None = None

    def apply(self, operation: Callable[..., object], made: Array, by: Matrix, rows: range, columns: range) -> None:
        """Replace the values of a rectangle in `made` by ``operation(values, their scales)``."""
        import numpy as np

        line = self._line(np.arange(rows.start, rows.stop))
        first = int(line[0])
        spread = self._scales_for(by, range(first, int(line[-1]) + 1), columns)
        if self.rows == 1:
            operation(made, spread, out=made)
            return
        ends = [*(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
        start = 0
        for end in ends:
            operation(made[start:end], spread[line[start] - first], out=made[start:end])
            start = end

    def _line(self, rows: Array) -> Array:
        result: Array = rows // self.height * self.lines + rows % self.height // self.rows
        return result

    def _scales_for(self, by: Matrix, lines: range, columns: range) -> Array:
        """Rows of scales, with one for each column or a single one."""
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
class Lines:
    """Which line of scales is for which row of values: any, by number. There is one scale for each column.

    The scales are read whole for every rectangle.
    """

    groups: Array

    def apply(self, operation: Callable[..., object], made: Array, by: Matrix, rows: range, columns: range) -> None:
        """Replace the values of a rectangle in `made` by ``operation(values, their scales)``."""
        scales = by.rectangle(range(by.shape[0]), columns)
        operation(made, scales[self.groups[rows.start : rows.stop]], out=made)


@dataclass(frozen=True, slots=True)
class Product:
    """(Values - zeros) · scales · factor.

    biases:  added to values, in the same grid as the scales. shift: added at the end.
    rounded: the 16-bit type to which differences, products and sums are rounded, if the library computes in it.
    divides: whether it is divided by the scales instead.
    """

    values: Matrix
    scales: Matrix
    grid: Grid | Lines
    zeros: Matrix | None = None
    factor: float | None = None
    shift: float | None = None
    biases: Matrix | None = None
    rounded: DType | None = None
    divides: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """That of the values."""
        return self.values.shape

    @property
    def light(self) -> bool:
        """Whether all its parts lie in the file as one run."""
        return all(part.light for part in (self.values, self.scales, self.zeros, self.biases) if part is not None)

    def rectangle(self, rows: range, columns: range) -> Array:
        """As F32."""
        import numpy as np

        with np.errstate(all="ignore"):  # a scale may be infinite, or any NaN
            result = self.values.rectangle(rows, columns)
            if self.zeros is not None:
                self.grid.apply(np.subtract, result, self.zeros, rows, columns)
                result = rounded_to(result, self.rounded)
            self.grid.apply(np.divide if self.divides else np.multiply, result, self.scales, rows, columns)
            result = rounded_to(result, self.rounded)
            if self.biases is not None:
                self.grid.apply(np.add, result, self.biases, rows, columns)
                result = rounded_to(result, self.rounded)
            if self.factor is not None:
                result *= np.float32(self.factor)
            if self.shift is not None:
                result += np.float32(self.shift)
        return result


@dataclass(frozen=True, slots=True)
class MatrixReader:
    """A reader of a matrix as F32. Takes memory for the range, and some arrays of TILE or GATHERED elements."""

    matrix: Matrix

    @property
    def light(self) -> bool:
        """Whether a small range costs little memory and few calls."""
        return self.matrix.light

    def __call__(self, start: int, stop: int) -> memoryview:
        first, last = start // F32_BYTES, -(-stop // F32_BYTES)
        base, size, at = first * F32_BYTES, (last - first) * F32_BYTES, 0
        result = bytearray()
        for piece in self._pieces(first, last):
            if len(piece) == size:
                return piece[start - base : stop - base]
            result = result or bytearray(size)
            result[at : at + len(piece)] = piece
            at += len(piece)
        return memoryview(result)[start - base : stop - base]

    def _pieces(self, first: int, last: int) -> Iterator[memoryview]:
        width = self.matrix.shape[1]
        if self.light or width > GATHERED:
            return self._wanted_elements(first, last, width, TILE if self.light else GATHERED)
        return self._whole_rows(first, last, width)

    def _wanted_elements(self, first: int, last: int, width: int, most: int) -> Iterator[memoryview]:
        """Exactly the wanted elements: whole rows where possible, else parts of rows."""
        while first < last:
            row, column = divmod(first, width)
            whole = 0 if column or width > most else min(most, last - first) // width
            end = width if whole else min(width, column + most, column + last - first)
            result = self.matrix.rectangle(range(row, row + (whole or 1)), range(column, end))
            yield _bytes(result)
            first += result.size

    def _whole_rows(self, first: int, last: int, width: int) -> Iterator[memoryview]:
        """The wanted elements, computed by whole rows."""
        many, stop = GATHERED // width, -(-last // width)
        for row in range(first // width, stop, many):
            image = _bytes(self.matrix.rectangle(range(row, min(row + many, stop)), range(width)))
            base = row * width
            yield image[max(first - base, 0) * F32_BYTES : (last - base) * F32_BYTES]


def rounded_to(made: Array, dtype: DType | None) -> Array:
    """The values rounded to the 16-bit type, as F32."""
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    return made if dtype is None else made.astype(numpy_dtype(dtype)).astype(np.float32)


def _bytes(made: Array) -> memoryview:
    import numpy as np

    return np.ascontiguousarray(made, "<f4").reshape(-1).view(np.uint8).data
