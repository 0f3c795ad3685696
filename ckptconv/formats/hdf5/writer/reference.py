"""Opens a written file with h5py, if that is installed, as a check."""

from __future__ import annotations

from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from typing import TYPE_CHECKING, Any

from ckptconv.errors import RejectedOutputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Part(RawIOBase):
    """A range of an open file as a read-only file of its own."""

    def __init__(self, file: RawIOBase, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to an offset within the range."""
        self._at = offset + {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read the rest of the range, or as much as the buffer takes."""
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._at)]) or 0
        self._at += count
        return count


def open_with_h5py(path: Path, datasets: Iterable[str], start: int = 0, size: int | None = None) -> None:
    """Let h5py open the file, and the headers of these datasets. Does nothing without h5py.

    start, size: where the HDF5 file lies in an archive.

    Raises RejectedOutputError.
    """
    try:
        import h5py
    except ImportError:
        return
    try:
        with path.open("rb", buffering=0) as whole:  # given a path, h5py would need the file to have a name
            part = whole if size is None else Part(whole, start, size)
            with h5py.File(part, "r") as file:
                for name in datasets:
                    file[name].id.get_space()
    except (OSError, KeyError, RuntimeError) as error:
        raise RejectedOutputError(f"h5py refuses what was written: {error}") from error
