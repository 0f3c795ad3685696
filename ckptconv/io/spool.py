"""An unnamed temporary file for data that has to be inflated before it can be read in ranges."""

from __future__ import annotations

import weakref
from threading import Lock
from typing import TYPE_CHECKING

from ckptconv.errors import FileAccessError, LimitError
from ckptconv.io import positional
from ckptconv.io.limits import FREE_ARCHIVE_BYTES, FREE_PARSED_BYTES, MAX_ARCHIVE_RATIO, MAX_PARSED_RATIO
from ckptconv.io.source import Source, reason

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO


class Spool:
    """The temporary file. It is made at the first write, and removed together with this object.

    most: the most bytes that it may take; None: no limit.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self._file: IO[bytes] | None = None
        self._end = 0
        self._lock = Lock()

    def take(self, size: int) -> int:
        """Reserve `size` bytes for the caller, and return their offset. Raises LimitError past `most`."""
        with self._lock:
            if self.most is not None and self._end + size > self.most:
                raise LimitError(
                    f"what is compressed in it inflates to more than {self.most:,} bytes", hint="do not trust it"
                )
            start, self._end = self._end, self._end + size
            return start

    def write(self, data: bytes, offset: int) -> None:
        """Write all of `data`. Raises FileAccessError."""
        view = memoryview(data)
        while view:
            try:
                count = positional.write(self._descriptor(), view, offset)
            except OSError as error:
                raise FileAccessError(
                    f"cannot write to a temporary file: {reason(error)}", hint="set TMPDIR to a folder with more room"
                ) from error
            view, offset = view[count:], offset + count

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with what was written at `offset`."""
        done = 0
        while done < len(buffer):
            count = positional.read_into(self._descriptor(), buffer[done:], offset + done)
            if not count:
                raise FileAccessError("a temporary file became shorter", hint="set TMPDIR to a folder of your own")
            done += count

    def _descriptor(self) -> int:
        import tempfile  # imported late: it takes as long as opening a zip, and few files need to be inflated

        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as this object)
                weakref.finalize(self, self._file.close)
            return self._file.fileno()


def check_parsed(spent: int, size: int) -> None:
    """Raise LimitError if more bytes were parsed from `size` compressed bytes than any honest file becomes."""
    if spent > max(FREE_PARSED_BYTES, MAX_PARSED_RATIO * size):
        raise LimitError(
            f"what is to be parsed of it has more than {MAX_PARSED_RATIO} times its {size:,} bytes",
            hint="unpack it, and name what it holds",
        )


class Spooled(Source):
    """The contents of a compressed file as a file; `path` is the compressed file's."""

    def __init__(self, source: Source, pieces: Iterable[bytes]) -> None:
        """Write the inflated pieces to a temporary file. Raises LimitError, FileAccessError, and as inflating does."""
        self._spool, self._packed, self._spent = Spool(), source.size, 0
        self._initialize(source.path, 0, source.identity)
        for data in pieces:
            if self.size + len(data) > max(FREE_ARCHIVE_BYTES, MAX_ARCHIVE_RATIO * source.size):
                raise LimitError(f"it inflates to more than {MAX_ARCHIVE_RATIO} times its {source.size:,} bytes")
            source.inflate(len(data))
            self._spool.write(data, self.size)
            self.size += len(data)

    def spend(self, count: int) -> None:
        self._spent += count
        check_parsed(self._spent, self._packed)

    def place(self, offset: int) -> None:
        """None: the bytes are in no file on disk as they are."""

    def _read_small(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self._spool.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def _pread(self, buffer: memoryview, offset: int) -> int:
        self._spool.read_into(buffer, offset)
        return len(buffer)
