"""h5py, which is asked about files that are written, where it is installed: whether it opens them."""

from __future__ import annotations

from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from typing import TYPE_CHECKING, Any

from ckptconv.errors import RejectedOutputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Part(RawIOBase):
    """A run of bytes of an open file, as a file of its own, to be read alone."""

    def __init__(self, file: RawIOBase, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move, as in a file of the run alone."""
        self._at = offset + {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read what is left of the run, or as much as the buffer takes."""
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._at)]) or 0
        self._at += count
        return count


def open_with_h5py(path: Path, datasets: Iterable[str], start: int = 0, size: int | None = None) -> None:
    """Let h5py open the file, and the headers of these datasets; of an archive the `size` bytes from `start` on. Raises
    RejectedOutputError.
    """
    try:
        import h5py
    except ImportError:
        return
    try:
        with path.open("rb", buffering=0) as unnamed:  # it asks a path for its name
            part = unnamed if size is None else Part(unnamed, start, size)
            with h5py.File(part, "r") as file:
                for name in datasets:
                    file[name].id.get_space()
    except (OSError, KeyError, RuntimeError) as error:
        raise RejectedOutputError(f"h5py refuses what was written: {error}") from error
