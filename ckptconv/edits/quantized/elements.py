"""The elements of one tensor as a matrix of F32. There are

Plain     elements of any type; those of 8 bits by a table
Packed    elements of a few bits in words, from the lowest bits on unless `order` says otherwise; those of 3, 5 and
          6 bits cross words
Folded    one row as several: for elements that share bytes across rows
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor


F32_BYTES = 4

FEW = 4096
"""Up to so many elements are looked up one by one; for more, a table of all pairs is twice as fast."""

E8M0_BIAS = 127
"""The bias of the exponents of OCP's MX formats (5.4.1)."""

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The values of 4-bit floats (OCP Microscaling Formats 1.0, 5.3.3)."""

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The values of NF4 (QLoRA, appendix E)."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A tensor's elements.

    bias: if not 0, the elements are U8 exponents of two with that bias.
    wide: elements of F64 stay F64, so that what is computed with them is rounded only once.
    """

    tensor: LazyTensor
    shape: tuple[int, int]
    bias: int = 0
    wide: bool = False

    @property
    def light(self) -> bool:
        """Whether the tensor lies in its file as one run."""
        return self.tensor.span is not None

    def rectangle(self, rows: range, columns: range) -> Array:
        """As F32, or F64."""
        import numpy as np

        from ckptconv.core.arrays import from_bytes

        dtype = self.tensor.info.dtype
        if dtype.bits != 8 or dtype.kind in ("int", "bool"):
            data, shape = read(self.tensor, self.shape, rows, columns, dtype.bits // 8)
            found = cut(from_bytes(data, dtype, shape), columns)
            return found if self.wide and dtype.bits == 64 else found.astype(np.float32)
        data, shape = read(self.tensor, self.shape, rows, columns, 1)
        codes = cut(np.frombuffer(data, np.uint8).reshape(shape), columns)
        table = None if self.bias else dtype
        if codes.size < FEW or codes.shape[1] % 2 or codes.shape != shape:
            return np.take(_table(table, self.bias), codes)
        return np.take(_pairs(table, self.bias), codes.view("<u2")).view(np.float32)


@dataclass(frozen=True, slots=True)
class Packed:
    """Elements of `bits` bits in words: 1 to 6, or 8.

    words:  a tensor of words, or of bytes.
    along:  the dimension along which a word has several elements.
    table:  the value of each code.
    order:  where the elements lie in a word, if not one after another from the lowest bits on.
    add:    is added to every word first, with carries.
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
        step = 1 if unit * 8 % self.bits == 0 else self.bits  # after so many words, an element starts with a word again
        many = step * unit * 8 // self.bits
        wanted = (rows, columns)[self.along]
        low, high = wanted.start // many, -(-wanted.stop // many)
        words, start = range(low * step, high * step), wanted.start - low * many
        lines, across = (words, columns) if self.along == 0 else (rows, words)
        data, shape = read(self.words, size, lines, across, unit)
        codes = cut(np.frombuffer(data, f"<u{unit}").reshape(shape), across)
        if self.add:
            codes = (codes + codes.dtype.type(self.add)).astype(codes.dtype)  # stays little-endian
        if self.along == 0:
            result = self._unpack(codes.reshape(high - low, step, -1).transpose(0, 2, 1), many)
            return result.transpose(0, 2, 1).reshape(-1, len(columns))[start : start + len(rows)]
        result = self._unpack(codes.reshape(len(rows), high - low, step), many)
        return np.ascontiguousarray(result.reshape(len(rows), -1)[:, start : start + len(columns)])

    def _unpack(self, codes: Array, many: int) -> Array:
        """`many` values from the words in the last dimension."""
        import numpy as np

        shape, data = codes.shape[:2], np.ascontiguousarray(codes).view(np.uint8)
        if 8 % self.bits:  # every eighth element starts with a byte
            kind: Any = np.uint32 if self.bits <= 4 else np.int64  # numpy 2.0 cannot index by U64
            several = data.reshape(*shape, -1, self.bits).astype(kind)
            joint = (several << np.arange(0, 8 * self.bits, 8, dtype=kind)).sum(axis=-1, dtype=kind)
            fields = joint[..., None] >> np.arange(0, 8 * self.bits, self.bits, dtype=kind)
            result = np.take(np.array(self.table, np.float32), fields & kind((1 << self.bits) - 1))
        else:
            result = np.take(_bytes_table(self.table, self.bits), data).view(np.float32)
        result = result.reshape(*shape, many)
        return np.take(result, self.order, axis=-1) if self.order else result


@dataclass(frozen=True, slots=True)
class Folded:
    """A matrix of a single row as several rows, one after the other."""

    row: Packed
    shape: tuple[int, int]

    @property
    def light(self) -> bool:
        """As the row."""
        return self.row.light

    def rectangle(self, rows: range, columns: range) -> Array:
        """Several rows are read whole, and cut."""
        width = self.shape[1]
        if len(rows) == 1:
            start = rows.start * width + columns.start
            return self.row.rectangle(range(1), range(start, start + len(columns)))
        result = self.row.rectangle(range(1), range(rows.start * width, rows.stop * width))
        return cut(result.reshape(len(rows), width), columns)


def read(
    tensor: LazyTensor, shape: tuple[int, int], rows: range, columns: range, unit: int
) -> tuple[memoryview, tuple[int, int]]:
    """The bytes and the shape of a rectangle. Several rows are read whole, to be cut by `cut`."""
    width = shape[1]
    if len(rows) == 1:
        start = rows.start * width + columns.start
        return tensor.read(start * unit, (start + len(columns)) * unit), (1, len(columns))
    return tensor.read(rows.start * width * unit, rows.stop * width * unit), (len(rows), width)


def cut(made: Array, columns: range) -> Array:
    """What `read` gave, without the columns that are not wanted."""
    return made if made.shape[1] == len(columns) else made[:, columns.start : columns.stop]


@lru_cache(maxsize=8)
def _table(dtype: DType | None, bias: int) -> Array:
    """All values of an 8-bit element type; or with a bias, 2^(code - bias).

    As in torch, the exponent 255 then is no NaN, as it would be in E8M0, but 2^128, which is infinite in F32.
    """
    import numpy as np

    from ckptconv.core.arrays import from_bytes

    table: Array
    if dtype is not None:
        table = from_bytes(memoryview(bytes(range(256))), dtype, 256).astype(np.float32)
        return table
    with np.errstate(over="ignore"):
        table = np.ldexp(np.float32(1), np.arange(256) - bias)
    return table


@lru_cache(maxsize=4)
def _pairs(dtype: DType | None, bias: int) -> Array:
    """The values of both codes of each pair of bytes, as one item: half a megabyte."""
    import numpy as np

    table, codes = _table(dtype, bias), np.arange(1 << 16, dtype="<u2").view(np.uint8)
    return np.take(table, codes).view(np.complex64)


@lru_cache(maxsize=32)
def _bytes_table(table: tuple[float, ...], bits: int) -> Array:
    """The values of all elements in a byte, for each byte, as one item of so many floats."""
    import numpy as np

    many = 8 // bits
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & ((1 << bits) - 1)
    values = np.array(table, np.float32)[codes]
    return np.ascontiguousarray(values).view(f"V{many * F32_BYTES}").reshape(256)
