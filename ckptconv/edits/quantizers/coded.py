"""The scales and codes of a matrix, neither of them read: both are computed while they are read.

A scale is for a block of `height` × `width` elements, and follows from the largest of them. Codes are made of whole
rows, some hundred thousand elements at a time; where a block is higher than that, its scale is found first, in a pass
of its own over its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ckptconv.core.dtypes import DType
from ckptconv.edits.computed import Computed
from ckptconv.edits.quantize import loss_between
from ckptconv.edits.quantized.elements import Plain
from ckptconv.edits.quantized.matrix import GATHERED

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.rounding import Loss

PIECE = 1 << 17
"""Elements that are computed at a time: half a megabyte of F32."""

MOST_COLUMNS = 1 << 20
"""Columns of a matrix that is quantized, so that whole rows can be held; layers have some ten thousand."""


class Rule(Protocol):
    """How a scheme gets from the largest sizes of blocks to scales, and from these to codes; all arrays are F32."""

    def factors(self, sizes: Array, dtype: DType) -> tuple[Array, Array]:
        """For each block the scale that is stored, and the factor that `codes` takes. `dtype`: of the weight."""

    def codes(self, values: Array, factors: Array, dtype: DType) -> tuple[Array, Array]:
        """The codes of values, and what they stand for, not yet scaled."""


@dataclass
class Blocks:
    """A matrix, read in rows of blocks, each of which has `height` rows of elements.

    known: the row of blocks whose scales and factors were found last.
    """

    source: LazyTensor
    rule: Rule
    height: int
    width: int
    known: tuple[int, tuple[Array, Array]] | None = field(default=None, init=False)

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return self.source.info.shape[1]

    @property
    def across(self) -> int:
        """Blocks side by side."""
        return self.columns // self.width

    @property
    def rows_at_a_time(self) -> int:
        """Rows of elements of which codes are made at a time; of one row of blocks where these are high."""
        piece = PIECE if self.source.light else GATHERED
        most, many = max(1, piece // self.columns), self.height
        if many == 1:
            return most
        while many > most:
            many = many // 2 if many % 2 == 0 else 1
        return many

    def rows(self, first: int, last: int) -> Array:
        """Rows of elements, as F32."""
        rows, columns = self.source.info.shape
        return Plain(self.source, (rows, columns)).rectangle(range(first, min(last, rows)), range(columns))

    def sizes(self, values: Array) -> Array:
        """The largest size of the elements of each row that are in one block."""
        import numpy as np

        made: Array = np.abs(values).reshape(len(values), self.across, self.width).max(axis=2)
        return made

    def factors(self, line: int, count: int) -> tuple[Array, Array]:
        """The scales and factors of `count` rows of blocks from `line` on."""
        import numpy as np

        found = np.zeros((count, self.across), np.float32)
        first, last, step = line * self.height, (line + count) * self.height, self.rows_at_a_time
        for at in range(first, last, step):
            sizes = self.sizes(self.rows(at, min(at + step, last)))
            if self.height == 1:
                found[at - first : at - first + len(sizes)] = sizes
            else:
                place = (at - first) // self.height
                found[place] = np.maximum(found[place], sizes.max(axis=0))
        return self.rule.factors(found, self.source.info.dtype)

    def factors_of(self, first: int, values: Array) -> tuple[Array, Array]:
        """The scales and factors of rows of elements from `first` on: a row for each, or one for all of them."""
        if self.height == 1:
            return self.rule.factors(self.sizes(values), self.source.info.dtype)
        line, known = first // self.height, self.known
        if known is None or known[0] != line:
            self.known = known = line, self.factors(line, 1)
        return known[1]


@dataclass
class Codes(Computed):
    """Reads ranges of the codes' image.

    scheme: what people call how it is done. last: the piece that was made last, for whoever goes on in it.
    """

    matrix: Blocks
    scheme: str
    last: tuple[int, bytes] = field(default=(-1, b""), init=False)

    @property
    def light(self) -> bool:
        """Whole rows are computed for any range."""
        return False

    def __call__(self, start: int, stop: int) -> memoryview:
        size = self.matrix.rows_at_a_time * self.dtype.nbytes(self.matrix.columns)
        first = start // size
        made = b"".join(self._piece(number) for number in range(first, -(-stop // size)))
        return memoryview(made)[start - first * size : stop - first * size]

    def _piece(self, number: int) -> bytes:
        """A piece, always of the same rows, so that what it lost is counted once."""
        known, data = self.last
        if known == number:
            return data
        from ckptconv.core.arrays import to_bytes

        many, columns = self.matrix.rows_at_a_time, self.matrix.columns
        values = self.matrix.rows(number * many, (number + 1) * many)
        codes, loss = self._coded(number * many, values)
        self.note(number * many * columns, number * many * columns + values.size, loss)
        data = to_bytes(codes, self.dtype)
        self.last = number, data
        return data

    def _coded(self, first: int, values: Array) -> tuple[Array, Loss]:
        import numpy as np

        with np.errstate(all="ignore"):  # an infinity makes NaN, which is told as past the range
            scales, factors = self.matrix.factors_of(first, values)
            shape = (len(values), self.matrix.across, self.matrix.width)
            codes, back = self.matrix.rule.codes(values.reshape(shape), factors[..., None], self.source.info.dtype)
            back *= scales[..., None]
            return codes.reshape(values.shape), loss_between(values, back.reshape(values.shape))


@dataclass(frozen=True, slots=True)
class Scales:
    """Reads ranges of the scales' image; `dtype` is theirs."""

    blocks: Blocks
    dtype: DType

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        from ckptconv.core.arrays import to_bytes
        from ckptconv.edits.rounding import cast_array

        line = self.dtype.nbytes(self.blocks.across)
        first, last = start // line, -(-stop // line)
        with np.errstate(all="ignore"):
            scales, _ = self.blocks.factors(first, last - first)
        made = to_bytes(cast_array(scales.reshape(-1), DType.F32, self.dtype)[0], self.dtype)
        return memoryview(made)[start - first * line : stop - first * line]
