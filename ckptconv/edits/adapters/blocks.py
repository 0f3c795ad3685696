"""What an adapter adds to a weight in repeated blocks, or to single elements. `deltas` has the others.

    Tiled       one matrix, repeated side by side and one below the other               MiSS, Bone
    Circulant   blocks whose rows are one vector, each shifted by one more place        C3A
    Grid        k × k blocks, each a product of factors of its own                      GraLoRA
    Sparse      single elements                                                         SHiRA

Sources: peft's tuners/miss/layer.py, tuners/c3a/utils.py, tuners/gralora/layer.py and tuners/shira/layer.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.deltas import product
from ckptconv.edits.adapters.matrices import RECENT
from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.matrices import Factor, Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Tiled:
    """A matrix, repeated as often as it takes; the last copies may be cut off."""

    shape: tuple[int, int]
    tile: Matrix

    def rectangle(self, rows: range, columns: range) -> Array:
        """Element (i, j) is the tile's at the remainders."""
        import numpy as np

        high, wide = self.tile.shape
        row, column = np.arange(rows.start, rows.stop) % high, np.arange(columns.start, columns.stop) % wide
        result: Array = self.tile.whole()[np.ix_(row, column)]
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Circulant:
    """Block (m, n) is made of the vector in row m·N + n: its row o is that vector shifted by o places."""

    shape: tuple[int, int]
    vectors: Factor

    def rectangle(self, rows: range, columns: range) -> Array:
        """Element (i, j) of a block is the vector's at (j - i) mod its length."""
        import numpy as np

        size = self.vectors.shape[1]
        across = self.shape[1] // size
        row, column = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)
        result: Array = self.vectors.whole()[row // size * across + column // size, (column - row) % size]
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Block (m, n) is the product of the n-th part of up's rank in m, and of the m-th part of down's in n.

    down: k·I × r, the columns of each of k blocks, transposed. up: k·r × O, the rows of each.
    """

    shape: tuple[int, int]
    count: int
    down: Factor
    up: Factor

    def rectangle(self, rows: range, columns: range) -> Array:
        """A part of each block that it touches."""
        import numpy as np

        high, wide, rank = self.shape[0] // self.count, self.shape[1] // self.count, self.down.shape[1]
        part = rank // self.count
        up, down = self.up.whole(), self.down.whole()
        result = np.empty((len(rows), len(columns)), np.float64)
        for m, high_part in _parts(rows, high):
            for n, wide_part in _parts(columns, wide):
                first = m * rank + n * part
                left = up[first : first + part, high_part.start - m * high : high_part.stop - m * high]
                right = down[wide_part.start : wide_part.stop, m * part : (m + 1) * part]
                place = slice(high_part.start - rows.start, high_part.stop - rows.start)
                result[place, wide_part.start - columns.start : wide_part.stop - columns.start] = product(
                    left.T, right.T
                )
        return result


def _parts(wanted: range, size: int) -> list[tuple[int, range]]:
    """The blocks of that size that a range touches, and the part of the range in each."""
    numbers = range(wanted.start // size, -(-wanted.stop // size))
    return [(block, range(max(block * size, wanted.start), min((block + 1) * size, wanted.stop))) for block in numbers]


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """Values at places, 2 × n: rows and columns. Values at the same place are added."""

    shape: tuple[int, int]
    values: Factor
    places: Factor

    def rectangle(self, rows: range, columns: range) -> Array:
        """The values inside whole rows, or inside part of a single row: a run of neighbouring elements."""
        import numpy as np

        order, sorted_values = RECENT.get(self, 0, self._sorted_places), RECENT.get(self, 1, self._sorted_values)
        first = rows.start * self.shape[1] + columns.start
        result = np.zeros(len(rows) * len(columns), np.float64)
        lowest, highest = np.searchsorted(order, [first, first + result.size])
        np.add.at(result, (order[lowest:highest] - first).astype(np.int64), sorted_values[lowest:highest])
        return result.reshape(len(rows), len(columns))

    def _flat_places(self) -> Array:
        """Indices of the places in the flattened weight. Raises CorruptFileError for one outside of it."""
        import numpy as np

        row, column = self.places.whole()
        inside = (row >= 0) & (row < self.shape[0]) & (column >= 0) & (column < self.shape[1])
        if not inside.all():
            raise CorruptFileError(
                f"{int(np.count_nonzero(~inside)):,} of its places are outside of a weight of shape {list(self.shape)}",
                hint="the adapter may be for another base, or damaged",
            )
        flat: Array = np.trunc(row) * self.shape[1] + np.trunc(column)
        return flat

    def _sorted_places(self) -> Array:
        import numpy as np

        return np.sort(self._flat_places(), kind="stable")

    def _sorted_values(self) -> Array:
        import numpy as np

        result: Array = self.values.whole().reshape(-1)[np.argsort(self._flat_places(), kind="stable")]
        return result
