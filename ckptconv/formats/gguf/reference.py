"""Opens a written file with the gguf package's own reader, as a check.

That reader makes a numpy array of each item of a list: twenty seconds and a gigabyte for a vocabulary of 150,000
tokens. So of long lists it gets only the size here; the items are walked without it. It also keeps eight arrays for
each tensor, two and a half kilobytes: it gets the tensors one by one here, and keeps only the last.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

MAX_ITEMS = 1000
"""The gguf package reads lists of up to this many items itself."""


def open_with_gguf(path: str | PathLike[str]) -> None:
    """Open the file with the gguf package. Raises ModuleNotFoundError without it, and whatever its reader raises."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        """Skips the items of long lists, and reads the file as a plain array: six slices of a memmap take 4 kB."""

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
            if int(count[0]) <= MAX_ITEMS or (width is None and items is not GGUFValueType.STRING):
                return super()._get_field_parts(orig_offs, raw_type)
            start, number = orig_offs + 12, int(count[0])
            size = np.dtype(width).itemsize * number if width is not None else _strings_size(self.data, start, number)
            return 12 + size, [kind, count], [], [GGUFValueType.ARRAY, items]

        def _build_tensor_info(self, offs: int, count: int) -> tuple[int, Any]:
            return _tensor_list_end(self.data, offs, int(count)), self._tensor_fields(offs, int(count))

        def _tensor_fields(self, offs: int, count: int) -> Iterator[Any]:
            for _ in range(count):
                field = self._get_tensor_info_field(offs)
                offs += sum(int(part.nbytes) for part in field.parts)
                yield field

        def _build_tensors(self, start_offs: int, fields: Iterable[Any]) -> None:
            names: set[str] = set()
            for field in fields:
                if field.name in names:
                    raise ValueError(f"the name {field.name!r} comes twice")
                names.add(field.name)
                super()._build_tensors(start_offs, [field])

    Reader(path)


def _tensor_list_end(data: Any, start: int, count: int) -> int:
    """The end of the list of `count` tensors that begins at `start`. Raises ValueError if the file ends before."""
    view, at = memoryview(data), start
    for _ in range(count):
        at += _strings_size(data, at, 1)
        if at + 4 > len(view):
            raise ValueError("the list of tensors is longer than the file")
        (rank,) = unpack_from("<I", view, at)
        at += 4 + 8 * rank + 4 + 8
    return at


def _strings_size(data: Any, start: int, count: int) -> int:
    """The bytes that the `count` strings from `start` on take. Raises ValueError if the file ends before."""
    view, at = memoryview(data), start
    for _ in range(count):
        if at + 8 > len(view):
            raise ValueError("a list of strings is longer than the file")
        (length,) = unpack_from("<Q", view, at)
        at += 8 + length
    return at - start
