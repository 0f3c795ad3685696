"""The codes of a matrix, and the numbers that its blocks share (scales), computed while they are read.

What a block of `height` × `width` elements shares follows from a few measures of it, such as its largest absolute
value. Codes are computed for whole rows, some hundred thousand elements at a time. If a block is higher than a row, it
is measured first, in a pass over its rows.
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
"""How many 4-bit integers a word has."""

MOST_COLUMNS = 1 << 20
"""The most columns of a matrix, so that whole rows can be held; layers have some ten thousand."""


class Rule(Protocol):
    """How a scheme computes measures of blocks from values, what is stored from the measures, and codes; in F32."""

    @property
    def measures(self) -> int:
        """How many measures there are of a block."""

    def measured(self, values: Array) -> Array:
        """The measures of values in groups (the last dimension). For a block of several groups, the largest count."""

    def shared(self, measures: Array, dtype: DType) -> tuple[Array, ...]:
        """For each block, the numbers that are stored, rounded to their types, and then what else `codes` needs.

        dtype: the weight's type.
        """

    def codes(self, values: Array, shared: tuple[Array, ...], dtype: DType) -> tuple[Array, Array]:
        """The codes of values in groups, as the bytes that are stored, and the values that they stand for."""


@dataclass
class Blocks:
    """A matrix, read in rows of blocks; each block has `height` rows of elements.

    known: the row of blocks that was measured last, and what its blocks share.
    """

    source: LazyTensor
    rule: Rule
    height: int
    width: int
    known: tuple[int, tuple[Array, ...]] | None = field(default=None, init=False)

    @property
    def columns(self) -> int:
        """The elements of a row."""
        return self.source.info.shape[1]

    @property
    def across(self) -> int:
        """The number of blocks side by side."""
        return self.columns // self.width

    @property
    def rows_at_a_time(self) -> int:
        """How many rows are coded at a time; not more than one row of blocks if blocks are higher than a row."""
        piece = PIECE if self.source.light else GATHERED
        most, many = max(1, piece // self.columns), self.height
        if many == 1:
            return most
        while many > most:
            many = many // 2 if many % 2 == 0 else 1
        return many

    def rows(self, first: int, last: int) -> Array:
        """Some rows as F32, in groups: the part of a row inside each block."""
        rows, columns = self.source.info.shape
        found = Plain(self.source, (rows, columns)).rectangle(range(first, min(last, rows)), range(columns))
        return found.reshape(len(found), self.across, self.width)

    def shared(self, line: int, count: int) -> tuple[Array, ...]:
        """What the blocks share, for `count` rows of blocks from `line` on."""
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
        """What the blocks of some rows share, from row `first` on: for each row, or the same for all of them."""
        if self.height == 1:
            return self.rule.shared(self.rule.measured(values), self.source.info.dtype)
        line, known = first // self.height, self.known
        if known is None or known[0] != line:
            self.known = known = line, self.shared(line, 1)
        return known[1]


@dataclass
class Codes(Computed):
    """A reader of the codes.

    row:    bytes of a row. scheme: its name.
    last:   the piece that was computed last, for a read that continues in it.
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
        """False: whole rows are computed for any range."""
        return False

    def __call__(self, start: int, stop: int) -> memoryview:
        size = self.matrix.rows_at_a_time * self.row
        first = start // size
        result = b"".join(self._piece(number) for number in range(first, -(-stop // size)))
        return memoryview(result)[start - first * size : stop - first * size]

    def _piece(self, number: int) -> bytes:
        """A piece. A piece always has the same rows, so that its loss is counted once."""
        known, data = self.last
        if known == number:
            return data
        many, columns = self.matrix.rows_at_a_time, self.matrix.columns
        values = self.matrix.rows(number * many, (number + 1) * many)
        codes, loss = self._code_rows(number * many, values)
        self.note(number * many * columns, number * many * columns + values.size, loss)
        data = codes.tobytes()
        self.last = number, data
        return data

    def _code_rows(self, first: int, values: Array) -> tuple[Array, Loss]:
        import numpy as np

        with np.errstate(all="ignore"):  # an infinity makes NaNs, which are counted as losses
            codes, back = self.matrix.rule.codes(values, self.matrix.shared_by(first, values), self.source.info.dtype)
            return codes, loss_between(values, back)


@dataclass(frozen=True, slots=True)
class Shared:
    """A reader of one of the numbers that blocks share: the `index`-th of the rule's, as `dtype`."""

    matrix: Blocks
    index: int
    dtype: DType

    def __call__(self, start: int, stop: int) -> memoryview:
        line = self.dtype.nbytes(self.matrix.across)
        first, last = start // line, -(-stop // line)
        step = self.matrix.rows_at_a_time if self.matrix.height == 1 else 1
        result = b"".join(self._lines(at, min(step, last - at)) for at in range(first, last, step))
        return memoryview(result)[start - first * line : stop - first * line]

    def _lines(self, line: int, count: int) -> bytes:
        import numpy as np

        from ckptconv.core.arrays import to_bytes
        from ckptconv.edits.rounding import cast_array

        with np.errstate(all="ignore"):
            found = self.matrix.shared(line, count)[self.index]
        return to_bytes(cast_array(found.reshape(-1), DType.F32, self.dtype)[0], self.dtype)


@dataclass(frozen=True, slots=True)
class SharedBelow:
    """A reader of 4-bit integers that blocks of one row share: the `index`-th of the rule's numbers.

    A word has those of eight rows, the first in the low bits. They are counted from -8; padding is 0.
    """

    matrix: Blocks
    index: int

    def __call__(self, start: int, stop: int) -> memoryview:
        line = 4 * self.matrix.across
        first, last = start // line, -(-stop // line)
        step = max(1, self.matrix.rows_at_a_time // _IN_A_WORD)
        result = b"".join(self._lines(at, min(step, last - at)) for at in range(first, last, step))
        return memoryview(result)[start - first * line : stop - first * line]

    def _lines(self, line: int, count: int) -> bytes:
        import numpy as np

        first, rows = line * _IN_A_WORD, self.matrix.source.info.shape[0]
        filled = np.zeros((count * _IN_A_WORD, self.matrix.across), np.uint32)
        with np.errstate(all="ignore"):
            found = self.matrix.shared(first, min(len(filled), rows - first))[self.index]
        filled[: len(found)] = found + 8
        nibbles = filled.reshape(count, _IN_A_WORD, -1) << np.arange(0, 32, 4, dtype=np.uint32)[:, None]
        result: bytes = np.bitwise_or.reduce(nibbles, axis=1).astype("<u4").tobytes()
        return result
