"""Values and scales in orders of their own.

    Tiles       4-bit integers as a GPU's tensor cores take them. I32 [N/8, K/16t, 32, t/2], t tiles of 16 columns side
                by side: 2, 4 or 8. Word [n, k, 4i + j, w] has of row 8n + i the columns 16(tk + 2w) + 2j +
                {0, 1, 8, 9, 16, 17, 24, 25}, whose codes begin at the bits {0, 16, 4, 20, 8, 24, 12, 28}.
    Shards      integers of 1 to 7 bits, split into 4, 2 and 1: of a row whose columns are as many slabs as a byte has
                elements, each byte has one of every slab, the first in the lowest bits.
    Unswizzled  scales as cuBLAS takes them: 512 bytes for 128 rows × 4 columns, of row 32a + b at 16b + 4a.
    Quotients   NF4's scales: integers divided by a factor of their block, plus a mean, each rounded.
    Below       the rows of a matrix from one on.

AMD's GPUs order tiles otherwise, under the same shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.quantized.matrix import Grid, Mapped, rounded_to

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.quantized.matrix import Matrix

TILE_ROWS, TILE_COLUMNS, LANES = 8, 16, 32
SWIZZLED_ROWS, SWIZZLED_COLUMNS = 128, 4
SWIZZLED_BYTES = SWIZZLED_ROWS * SWIZZLED_COLUMNS


@dataclass(frozen=True, slots=True)
class Tiles:
    """Codes less 8. inner: words side by side, half as many as tiles. shape: without the rows and columns that fill up
    the last tiles.
    """

    words: LazyTensor
    shape: tuple[int, int]
    light: bool = False

    def rectangle(self, rows: range, columns: range) -> Array:
        """Whole rows of tiles, which are cut."""
        import numpy as np

        _, across, _, inner = self.words.info.shape
        row = across * LANES * inner * 4
        low, high = rows.start // TILE_ROWS, -(-rows.stop // TILE_ROWS)
        words = np.frombuffer(self.words.read(low * row, high * row), "<u4")
        words = words.reshape(high - low, across, TILE_ROWS, 4, inner)
        shifts = np.array([[[0, 16], [4, 20]], [[8, 24], [12, 28]]], np.uint32)  # tile, half of it, one of two
        codes = (words[..., None, None, None] >> shifts & 15).astype(np.float32) - np.float32(8)
        whole = codes.transpose(0, 2, 1, 4, 5, 6, 3, 7).reshape((high - low) * TILE_ROWS, -1)
        first = rows.start - low * TILE_ROWS
        return np.ascontiguousarray(whole[first : first + len(rows), columns.start : columns.stop])


@dataclass(frozen=True, slots=True)
class Shards:
    """Integers of several tensors, each with the bits that it has of an element."""

    shards: tuple[tuple[LazyTensor, int], ...]
    shape: tuple[int, int]
    light: bool = False

    def rectangle(self, rows: range, columns: range) -> Array:
        """Whole rows, which are cut."""
        import numpy as np

        width, base = self.shape[1], 0
        codes = np.zeros((len(rows), width), np.uint8)
        for tensor, bits in self.shards:
            row = width * bits // 8
            data = np.frombuffer(tensor.read(rows.start * row, rows.stop * row), np.uint8).reshape(len(rows), row)
            for slab in range(8 // bits):
                codes[:, slab * row : (slab + 1) * row] |= (data >> slab * bits & (1 << bits) - 1) << base
            base += bits
        return codes[:, columns.start : columns.stop].astype(np.float32)


@dataclass(frozen=True, slots=True)
class Unswizzled:
    """Bytes of 8-bit floats in rows and columns again."""

    scales: LazyTensor
    dtype: DType
    shape: tuple[int, int]
    light: bool = False

    def rectangle(self, rows: range, columns: range) -> Array:
        """Whole rows of blocks are read."""
        import numpy as np

        from ckptconv.core.arrays import from_bytes

        row = -(-self.shape[1] // SWIZZLED_COLUMNS) * SWIZZLED_BYTES
        low, high = rows.start // SWIZZLED_ROWS, -(-rows.stop // SWIZZLED_ROWS)
        data = np.frombuffer(self.scales.read(low * row, high * row), np.uint8)
        down, across = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)
        at = (down // SWIZZLED_ROWS - low) * row + across // SWIZZLED_COLUMNS * SWIZZLED_BYTES
        at = at + down % 32 * 16 + down % SWIZZLED_ROWS // 32 * 4 + across % SWIZZLED_COLUMNS
        codes = np.ascontiguousarray(data[at])
        made: Array = from_bytes(codes.reshape(-1).data, self.dtype, codes.shape).astype(np.float32)
        return made


@dataclass(frozen=True, slots=True)
class Quotients(Mapped):
    """Each number divided by that of its block, plus a mean; both rounded, which F32 is not."""

    by: Matrix
    block: int
    mean: float
    rounded: DType | None

    def rectangle(self, rows: range, columns: range) -> Array:
        """One row."""
        import numpy as np

        made = self.source.rectangle(rows, columns)
        with np.errstate(all="ignore"):
            Grid(1, 1, self.block, 1).apply(np.divide, made, self.by, rows, columns)
            return rounded_to(rounded_to(made, self.rounded) + np.float32(self.mean), self.rounded)


@dataclass(frozen=True, slots=True)
class Below:
    """The rows from one on."""

    source: Matrix
    start: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of those that are left."""
        rows, columns = self.source.shape
        return rows - self.start, columns

    @property
    def light(self) -> bool:
        """As the other."""
        return self.source.light

    def rectangle(self, rows: range, columns: range) -> Array:
        """Further down."""
        return self.source.rectangle(range(rows.start + self.start, rows.stop + self.start), columns)
