"""A chunk in its blob: found within the small archive around it when its first byte is asked for.

``.metadata`` says what every tensor is, so that opening a folder looks into no blob that holds a tensor, and 100,000
chunks open as fast as their listing is read.
"""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import COPY_ALL_AGAIN, CkptconvError, CorruptFileError, DamagedTensorError
from ckptconv.formats.torch.read import Saved, open_saved
from ckptconv.formats.torch.stubs import TensorStub
from ckptconv.io.checksum import is_damaged
from ckptconv.io.stream import GATHER_BLOCK
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.io.window import Window


def open_blob(window: Window, name: str) -> Saved:
    """What torch.save put there. Raises CkptconvError, with the file and the entry's name."""
    try:
        return open_saved(ZipArchive(window))
    except CkptconvError as error:
        raise _named(error, window, name) from error.__cause__


class Blob:
    """The bytes of one chunk's image, as a file: `read_at` and `read_into` count from its first element."""

    __slots__ = ("_block", "_block_start", "_info", "_lock", "_name", "_tensor", "_window")

    def __init__(self, window: Window, name: str, info: TensorInfo) -> None:
        """`info` is what the listing says that the blob holds."""
        self._window = window
        self._name = name
        self._info = info
        self._lock = RLock()
        self._tensor: LazyTensor | None = None
        self._block = memoryview(b"")
        self._block_start = 0

    @property
    def path(self) -> Path:
        """The file's, for errors."""
        return self._window.path

    def span(self) -> ByteSpan:
        """The chunk's image as a run of bytes."""
        return ByteSpan(self, 0, self._info.nbytes, self._crc32)

    def read_at(self, offset: int, length: int) -> memoryview:
        span = self._found().span
        if span is not None:
            return span.file.read_at(span.offset + offset, length)
        buffer = memoryview(bytearray(length))
        self._gather(buffer, offset)
        return buffer

    def read_into(self, buffer: memoryview, offset: int) -> None:
        span = self._found().span
        if span is not None:
            span.file.read_into(buffer, span.offset + offset)
        else:
            self._gather(buffer, offset)

    def _crc32(self) -> int | None:
        """The recorded checksum, where it is that of the image."""
        tensor = self._found()
        return tensor.span.recorded_crc32 if tensor.span is not None and tensor.depends == (tensor.span,) else None

    def _gather(self, buffer: memoryview, offset: int) -> None:
        """Elements that lie in another order (channels last, transposed) are gathered in large blocks; the last one is
        kept, so that small pieces one after the other do not each go through the whole chunk.
        """
        with self._lock:
            done = 0
            while done < len(buffer):
                at = offset + done - self._block_start
                if not 0 <= at < len(self._block):
                    self._block_start = (offset + done) // GATHER_BLOCK * GATHER_BLOCK
                    stop = min(self._block_start + GATHER_BLOCK, self._info.nbytes)
                    self._block = self._found().read(self._block_start, stop)
                    at = offset + done - self._block_start
                piece = self._block[at : at + len(buffer) - done]
                buffer[done : done + len(piece)] = piece
                done += len(piece)
            if offset + done == self._info.nbytes:
                self._block = memoryview(b"")

    def _found(self) -> LazyTensor:
        with self._lock:
            if self._tensor is None:
                self._tensor = self._find()
            return self._tensor

    def _find(self) -> LazyTensor:
        saved = open_blob(self._window, self._name)
        if not isinstance(saved.value, TensorStub):
            raise _named(_bad("its blob holds no tensor"), self._window, self._name)
        try:
            tensor = saved.placer.place(self._name, saved.value)
        except CkptconvError as error:
            raise _named(error, self._window, self._name) from error.__cause__
        if tensor.info != self._info:
            found, said = (f"{one.dtype} {list(one.shape)}" for one in (tensor.info, self._info))
            raise _named(_bad(f"its blob holds {found}, and .metadata says {said}"), self._window, self._name)
        if tensor.span is None or tensor.depends != (tensor.span,):
            self._check(tensor)
        return tensor

    def _check(self, tensor: LazyTensor) -> None:
        """Check a storage that is not the image itself, once, before anything is taken from it."""
        for span in tensor.depends:
            if is_damaged(span):
                raise DamagedTensorError(self._name, path=self.path)


def _bad(what: str) -> CorruptFileError:
    return CorruptFileError(what, hint=COPY_ALL_AGAIN)


def _named(error: CkptconvError, window: Window, name: str) -> CkptconvError:
    if repr(name) not in error.message:
        error.message = f"{name!r}: {error.message}"
        error.args = (error.message,)
    return error.at(window.path)
