"""The gguf package's own reader, which has to open what was written.

It makes an array of numpy's for each item of a list, which takes a vocabulary of 150,000 tokens twenty seconds and a
gigabyte. Of long lists only the size is told to it: the items are walked here, as they lie.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

MOST_ITEMS = 1000
"""Items of a list that it is given."""


def open_with_gguf(path: str | PathLike[str]) -> None:
    """Raises ModuleNotFoundError where the package is not installed, and what its reader raises."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        """One to which a long list is its type and the number of its items, and the file an array like others: six
        slices of a memmap for each tensor take 4 kB.
        """

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = np.asarray(mapped)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
            items = GGUFValueType(kind[0])
            width = self.gguf_scalar_to_np.get(items)
            if int(count[0]) <= MOST_ITEMS or (width is None and items is not GGUFValueType.STRING):
                return super()._get_field_parts(orig_offs, raw_type)
            start, number = orig_offs + 12, int(count[0])
            size = np.dtype(width).itemsize * number if width is not None else _texts(self.data, start, number)
            return 12 + size, [kind, count], [], [GGUFValueType.ARRAY, items]

    Reader(path)


def _texts(data: Any, start: int, count: int) -> int:
    """Bytes that so many strings take. Raises ValueError where the file ends before."""
    view, at = memoryview(data), start
    for _ in range(count):
        if at + 8 > len(view):
            raise ValueError("a list of strings is longer than the file")
        (length,) = unpack_from("<Q", view, at)
        at += 8 + length
    return at - start
