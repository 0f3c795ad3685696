"""A chunk in its blob: found within the small archive around it when its first byte is asked for.

``.metadata`` says what every tensor is, so that opening a folder looks into no blob that holds a tensor, and 100,000
chunks open as fast as their listing is read.
"""

from __future__ import annotations

from functools import lru_cache
from threading import RLock
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan, LazyTensor
from ckptconv.errors import COPY_ALL_AGAIN, CkptconvError, CorruptFileError, DamagedTensorError
from ckptconv.formats.torch.containers.saved import Saved, checked_root, open_saved, placer_of
from ckptconv.formats.torch.pickle import Machine
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.formats.torch.values.stubs import TensorStub
from ckptconv.io.checksum import is_damaged
from ckptconv.io.limits import MAX_PICKLE_BYTES
from ckptconv.io.stream import GATHER_BLOCK
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.window import Window

SMALL = 4096
"""Bytes of a pickle that is kept for the next chunk."""

_NONE = memoryview(b"")


def open_blob(window: Window, name: str) -> Saved:
    """What torch.save put there. Raises CkptconvError, with the file and the entry's name."""
    try:
        return open_saved(ZipArchive(window))
    except CkptconvError as error:
        raise _named(error, window, name) from error.__cause__


def _tensor_in(archive: ZipArchive, name: str) -> LazyTensor:
    """The tensor that is alone in an archive of torch.save's. Raises CkptconvError."""
    root = checked_root(archive)
    data = archive.read(f"{root}data.pkl", MAX_PICKLE_BYTES)
    value = _usual(data) if len(data) <= SMALL else _unpickled(data)
    if not isinstance(value, TensorStub):
        raise _bad("its blob holds no tensor")
    return placer_of(archive, root).place(name, value)


def _unpickled(data: bytes) -> Value:
    return Machine(data, TorchConstructors()).run()


_usual = lru_cache(maxsize=256)(_unpickled)
"""Chunks of one shape have the same pickle. What is made of it is not changed."""


class Blob:
    """The bytes of one chunk's image, as a file: `read_at` and `read_into` count from its first element."""

    __slots__ = ("_block", "_block_start", "_image", "_info", "_lock", "_name", "_window")

    def __init__(self, window: Window, name: str, info: TensorInfo) -> None:
        """`info` is what the listing says that the blob holds."""
        self._window = window
        self._name = name
        self._info = info
        self._lock = RLock()
        self._image: ByteSpan | LazyTensor | None = None
        self._block = _NONE
        self._block_start = 0

    @property
    def path(self) -> Path:
        """The file's, for errors."""
        return self._window.path

    def span(self) -> ByteSpan:
        """The chunk's image as a run of bytes."""
        return ByteSpan(self, 0, self._info.nbytes, self._crc32)

    def read_at(self, offset: int, length: int) -> memoryview:
        image = self._found()
        if isinstance(image, ByteSpan):
            return image.file.read_at(image.offset + offset, length)
        buffer = memoryview(bytearray(length))
        self._gather(image, buffer, offset)
        return buffer

    def read_into(self, buffer: memoryview, offset: int) -> None:
        image = self._found()
        if isinstance(image, ByteSpan):
            image.file.read_into(buffer, image.offset + offset)
        else:
            self._gather(image, buffer, offset)

    def _crc32(self) -> int | None:
        """The recorded checksum, where it is that of the image."""
        image = self._found()
        return image.recorded_crc32 if isinstance(image, ByteSpan) else None

    def _gather(self, image: LazyTensor, buffer: memoryview, offset: int) -> None:
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
                    self._block = image.read(self._block_start, stop)
                    at = offset + done - self._block_start
                piece = self._block[at : at + len(buffer) - done]
                buffer[done : done + len(piece)] = piece
                done += len(piece)
            if offset + done == self._info.nbytes:
                self._block = _NONE

    def _found(self) -> ByteSpan | LazyTensor:
        """The image where it lies as one run, or what gathers it."""
        with self._lock:
            if self._image is None:
                self._image = self._find()
            return self._image

    def _find(self) -> ByteSpan | LazyTensor:
        try:
            tensor = _tensor_in(ZipArchive(self._window), self._name)
        except CkptconvError as error:
            raise _named(error, self._window, self._name) from error.__cause__
        if tensor.info != self._info:
            found, said = (f"{one.dtype} {list(one.shape)}" for one in (tensor.info, self._info))
            raise _named(_bad(f"its blob holds {found}, and .metadata says {said}"), self._window, self._name)
        if tensor.span is None or tensor.depends != (tensor.span,):
            self._check(tensor)
        return tensor if tensor.span is None else tensor.span  # without all that a hundred thousand need not keep

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
