"""The codes of a matrix and what goes with them (scales), none of it read: all is computed while it is read.

What a block of `height` × `width` elements has in common follows from a few measures of it, such as the largest size.
Codes are made of whole rows, some hundred thousand elements at a time; where a block is higher than a row, it is
measured first, in a pass of its own over its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ckptconv.core.dtypes import DType
from ckptconv.edits.computed import Computed
from ckptconv.edits.ggml.quantize import loss_between
from ckptconv.edits.quantized.elements import Plain
from ckptconv.edits.quantized.matrix import GATHERED

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.rounding import Loss

PIECE = 1 << 17
"""Elements that are computed at a time: half a megabyte of F32."""

_IN_A_WORD = 8
"""Integers of 4 bits."""

MOST_COLUMNS = 1 << 20
"""Columns of a matrix that is quantized, so that whole rows can be held; layers have some ten thousand."""


class Rule(Protocol):
    """How a scheme gets from values to measures of blocks, from these to what is stored, and to codes; in F32."""

    @property
    def measures(self) -> int:
        """How many numbers are known of a block."""

    def measured(self, values: Array) -> Array:
        """Those of values in groups, in a last dimension; of groups that make one block the largest counts."""

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        """For each block what is stored of it, as the types that it is stored in keep it, and then what `codes` takes
        besides. `dtype`: of the weight.
        """

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        """The codes of values in groups, as the bytes that are stored; and what they stand for."""


@dataclass
class Blocks:
    """A matrix, read in rows of blocks, each of which has `height` rows of elements.

    known: the row of blocks that was measured last, and what it has in common.
    """

    source: LazyTensor
    rule: Rule
    height: int
    width: int
    known: tuple[int, tuple[Array, ...]] | None = field(default=None, init=False)

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
        """Rows of elements in groups, as F32: what of a row is in one block."""
        rows, columns = self.source.info.shape
        found = Plain(self.source, (rows, columns)).rectangle(range(first, min(last, rows)), range(columns))
        return found.reshape(len(found), self.across, self.width)

    def shared(self, line: int, count: int) -> tuple[Array, ...]:
        """What `count` rows of blocks from `line` on have in common, block by block."""
        import numpy as np

        found = np.full((count, self.across, self.rule.measures), -np.inf, np.float32)
        first, last, step = line * self.height, (line + count) * self.height, self.rows_at_a_time
        for at in range(first, last, step):
            measures = self.rule.measured(self.rows(at, min(at + step, last)))
            if self.height == 1:
                found[at - first : at - first + len(measures)] = measures
            else:
                place = (at - first) // self.height
                found[place] = np.maximum(found[place], measures.max(axis=0))
        return self.rule.shared(found, self.source.info.dtype)

    def shared_by(self, first: int, values: Array) -> tuple[Array, ...]:
        """What rows of elements from `first` on have in common: for each row, or the same for all of them."""
        if self.height == 1:
            return self.rule.shared(self.rule.measured(values), self.source.info.dtype)
        line, known = first // self.height, self.known
        if known is None or known[0] != line:
            self.known = known = line, self.shared(line, 1)
        return known[1]


@dataclass
class Codes(Computed):
    """Reads ranges of the codes' image.

    row:    bytes of a row. scheme: what people call how it is done.
    last:   the piece that was made last, for whoever goes on in it.
    """

    matrix: Blocks
    row: int
    scheme: str
    last: tuple[int, bytes] = field(default=(-1, b""), init=False)

    @property
    def quantized_as(self) -> str:
        """The scheme."""
        return self.scheme

    @property
    def light(self) -> bool:
        """Whole rows are computed for any range."""
        return False

    def __call__(self, start: int, stop: int) -> memoryview:
        size = self.matrix.rows_at_a_time * self.row
        first = start // size
        made = b"".join(self._piece(number) for number in range(first, -(-stop // size)))
        return memoryview(made)[start - first * size : stop - first * size]

    def _piece(self, number: int) -> bytes:
        """A piece, always of the same rows, so that what it lost is counted once."""
        known, data = self.last
        if known == number:
            return data
        many, columns = self.matrix.rows_at_a_time, self.matrix.columns
        values = self.matrix.rows(number * many, (number + 1) * many)
        codes, loss = self._coded(number * many, values)
        self.note(number * many * columns, number * many * columns + values.size, loss)
        data = codes.tobytes()
        self.last = number, data
        return data

    def _coded(self, first: int, values: Array) -> tuple[Array, Loss]:
        import numpy as np

        with np.errstate(all="ignore"):  # an infinity makes NaN, which is told
            codes, back = self.matrix.rule.codes(values, self.matrix.shared_by(first, values), self.source.info.dtype)
            return codes, loss_between(values, back)


@dataclass(frozen=True, slots=True)
class Shared:
    """Reads ranges of the image of what is stored of each block: the `index`-th of its rule's, as `dtype`."""

    matrix: Blocks
    index: int
    dtype: DType

    def __call__(self, start: int, stop: int) -> memoryview:
        line = self.dtype.nbytes(self.matrix.across)
        first, last = start // line, -(-stop // line)
        step = self.matrix.rows_at_a_time if self.matrix.height == 1 else 1
        made = b"".join(self._lines(at, min(step, last - at)) for at in range(first, last, step))
        return memoryview(made)[start - first * line : stop - first * line]

    def _lines(self, line: int, count: int) -> bytes:
        import numpy as np

        from ckptconv.core.arrays import to_bytes
        from ckptconv.edits.rounding import cast_array

        with np.errstate(all="ignore"):
            found = self.matrix.shared(line, count)[self.index]
        return to_bytes(cast_array(found.reshape(-1), DType.F32, self.dtype)[0], self.dtype)


@dataclass(frozen=True, slots=True)
class SharedBelow:
    """Reads ranges of the image of integers of 4 bits that blocks of one row have, those of eight rows in a word, the
    first in the low bits: the `index`-th of their rule's. They are counted from -8 on; what is missing is 0.
    """

    matrix: Blocks
    index: int

    def __call__(self, start: int, stop: int) -> memoryview:
        line = 4 * self.matrix.across
        first, last = start // line, -(-stop // line)
        step = max(1, self.matrix.rows_at_a_time // _IN_A_WORD)
        made = b"".join(self._lines(at, min(step, last - at)) for at in range(first, last, step))
        return memoryview(made)[start - first * line : stop - first * line]

    def _lines(self, line: int, count: int) -> bytes:
        import numpy as np

        first, rows = line * _IN_A_WORD, self.matrix.source.info.shape[0]
        filled = np.zeros((count * _IN_A_WORD, self.matrix.across), np.uint32)
        with np.errstate(all="ignore"):
            found = self.matrix.shared(first, min(len(filled), rows - first))[self.index]
        filled[: len(found)] = found + 8
        nibbles = filled.reshape(count, _IN_A_WORD, -1) << np.arange(0, 32, 4, dtype=np.uint32)[:, None]
        made: bytes = np.bitwise_or.reduce(nibbles, axis=1).astype("<u4").tobytes()
        return made
