"""Matrices whose elements are stored in unusual orders.

    Tiles       4-bit integers for a GPU's tensor cores. I32 [N/8, K/16t, 32, t/2], where t tiles of 16 columns (2, 4 or
                8) are side by side. Word [n, k, 4i + j, w] has the columns 16(tk + 2w) + 2j + {0, 1, 8, 9, 16, 17, 24,
                25} of row 8n + i; their codes start at the bits {0, 16, 4, 20, 8, 24, 12, 28}.
    Shards      integers of 1 to 7 bits, split into 4, 2 and 1 bits. The columns of a row are as many slabs as a byte
                has elements; each byte has one element of every slab, the first in the lowest bits.
    Unswizzled  scales in cuBLAS' order: 512 bytes for 128 rows × 4 columns; row 32a + b starts at 16b + 4a.
    Quotients   NF4's scales: integers divided by their block's factor, plus a mean, each rounded.
    Below       a matrix without its first rows.

AMD's GPUs order tiles differently, in the same shapes.
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
    """The codes minus 8. `shape` leaves out the rows and columns that only fill up the last tiles."""

    words: LazyTensor
    shape: tuple[int, int]
    light: bool = False

    def rectangle(self, rows: range, columns: range) -> Array:
        """Reads whole rows of tiles."""
        import numpy as np

        _, across, _, inner = self.words.info.shape
        row = across * LANES * inner * 4
        low, high = rows.start // TILE_ROWS, -(-rows.stop // TILE_ROWS)
        words = np.frombuffer(self.words.read(low * row, high * row), "<u4")
        words = words.reshape(high - low, across, TILE_ROWS, 4, inner)
        shifts = np.array(
            [[[0, 16], [4, 20]], [[8, 24], [12, 28]]], np.uint32
        )  # by tile of the word, half of the tile, and column of the pair
        codes = (words[..., None, None, None] >> shifts & 15).astype(np.float32) - np.float32(8)
        whole = codes.transpose(0, 2, 1, 4, 5, 6, 3, 7).reshape((high - low) * TILE_ROWS, -1)
        first = rows.start - low * TILE_ROWS
        return np.ascontiguousarray(whole[first : first + len(rows), columns.start : columns.stop])


@dataclass(frozen=True, slots=True)
class Shards:
    """Integers whose bits are split over several tensors, each with the number of bits that it holds."""

    shards: tuple[tuple[LazyTensor, int], ...]
    shape: tuple[int, int]
    light: bool = False

    def rectangle(self, rows: range, columns: range) -> Array:
        """Reads whole rows."""
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
    """8-bit floats, back in rows and columns."""

    scales: LazyTensor
    dtype: DType
    shape: tuple[int, int]
    light: bool = False

    def rectangle(self, rows: range, columns: range) -> Array:
        """Reads whole rows of blocks."""
        import numpy as np

        from ckptconv.core.arrays import from_bytes

        row = -(-self.shape[1] // SWIZZLED_COLUMNS) * SWIZZLED_BYTES
        low, high = rows.start // SWIZZLED_ROWS, -(-rows.stop // SWIZZLED_ROWS)
        data = np.frombuffer(self.scales.read(low * row, high * row), np.uint8)
        down, across = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)
        at = (down // SWIZZLED_ROWS - low) * row + across // SWIZZLED_COLUMNS * SWIZZLED_BYTES
        at = at + down % 32 * 16 + down % SWIZZLED_ROWS // 32 * 4 + across % SWIZZLED_COLUMNS
        codes = np.ascontiguousarray(data[at])
        scales: Array = from_bytes(codes.reshape(-1).data, self.dtype, codes.shape).astype(np.float32)
        return scales


@dataclass(frozen=True, slots=True)
class Quotients(Mapped):
    """Each number divided by its block's factor, plus a mean. Both steps are rounded, except in F32."""

    by: Matrix
    block: int
    mean: float
    rounded: DType | None

    def rectangle(self, rows: range, columns: range) -> Array:
        """Of a single row."""
        import numpy as np

        numbers = self.source.rectangle(rows, columns)
        with np.errstate(all="ignore"):
            Grid(1, 1, self.block, 1).apply(np.divide, numbers, self.by, rows, columns)
            return rounded_to(rounded_to(numbers, self.rounded) + np.float32(self.mean), self.rounded)


@dataclass(frozen=True, slots=True)
class Below:
    """The rows of a matrix from `start` on."""

    source: Matrix
    start: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of what is left."""
        rows, columns = self.source.shape
        return rows - self.start, columns

    @property
    def light(self) -> bool:
        """As the source's."""
        return self.source.light

    def rectangle(self, rows: range, columns: range) -> Array:
        """The source's rectangle, `start` rows further down."""
        return self.source.rectangle(range(rows.start + self.start, rows.stop + self.start), columns)
