"""A chunk in its blob. It is located in the small archive around it only when its first byte is read.

``.metadata`` has the type and shape of every tensor, so that opening a folder does not open the blobs of tensors:
100,000 chunks open as fast as their listing is read.
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
"""Bytes of a pickle up to which its result is cached for the next chunk."""

_NONE = memoryview(b"")


def open_blob(window: Window, name: str) -> Saved:
    """The contents of a blob's archive. Raises CkptconvError with the file and the entry's name."""
    try:
        return open_saved(ZipArchive(window))
    except CkptconvError as error:
        raise _named(error, window, name) from error.__cause__


def _tensor_in(archive: ZipArchive, name: str) -> LazyTensor:
    """The tensor in a torch.save archive that holds nothing else. Raises CkptconvError."""
    root = checked_root(archive)
    data = archive.read(f"{root}data.pkl", MAX_PICKLE_BYTES)
    value = _cached_unpickle(data) if len(data) <= SMALL else _unpickle(data)
    if not isinstance(value, TensorStub):
        raise _bad("its blob holds no tensor")
    return placer_of(archive, root).place(name, value)


def _unpickle(data: bytes) -> Value:
    return Machine(data, TorchConstructors()).run()


_cached_unpickle = lru_cache(maxsize=256)(_unpickle)
"""Chunks of the same shape have the same pickle. The result must not be changed."""


class Blob:
    """The elements of a chunk as a file: `read_at` and `read_into` count from the first element."""

    __slots__ = ("_block", "_block_start", "_image", "_info", "_lock", "_name", "_window")

    def __init__(self, window: Window, name: str, info: TensorInfo) -> None:
        """`info` is the type and shape that the listing gives."""
        self._window = window
        self._name = name
        self._info = info
        self._lock = RLock()
        self._image: ByteSpan | LazyTensor | None = None
        self._block = _NONE
        self._block_start = 0

    @property
    def path(self) -> Path:
        """The path of the file, for errors."""
        return self._window.path

    def span(self) -> ByteSpan:
        """The chunk's elements as a run of bytes."""
        return ByteSpan(self, 0, self._info.nbytes, self._crc32)

    def read_at(self, offset: int, length: int) -> memoryview:
        image = self._located()
        if isinstance(image, ByteSpan):
            return image.file.read_at(image.offset + offset, length)
        buffer = memoryview(bytearray(length))
        self._gather(image, buffer, offset)
        return buffer

    def read_into(self, buffer: memoryview, offset: int) -> None:
        image = self._located()
        if isinstance(image, ByteSpan):
            image.file.read_into(buffer, image.offset + offset)
        else:
            self._gather(image, buffer, offset)

    def _crc32(self) -> int | None:
        """The recorded checksum, if it is that of the chunk's elements."""
        image = self._located()
        return image.recorded_crc32 if isinstance(image, ByteSpan) else None

    def _gather(self, image: LazyTensor, buffer: memoryview, offset: int) -> None:
        """Read elements that are stored in another order (channels last, transposed), in large blocks. The last block
        is kept, so that a series of small reads does not go through the whole chunk each time.
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

    def _located(self) -> ByteSpan | LazyTensor:
        """The chunk's elements as a run of bytes, or if they are not one, as a tensor that gathers them."""
        with self._lock:
            if self._image is None:
                self._image = self._locate()
            return self._image

    def _locate(self) -> ByteSpan | LazyTensor:
        try:
            tensor = _tensor_in(ZipArchive(self._window), self._name)
        except CkptconvError as error:
            raise _named(error, self._window, self._name) from error.__cause__
        if tensor.info != self._info:
            found, listed = (f"{info.dtype} {list(info.shape)}" for info in (tensor.info, self._info))
            raise _named(_bad(f"its blob holds {found}, and .metadata says {listed}"), self._window, self._name)
        if tensor.span is None or tensor.depends != (tensor.span,):
            self._check_storages(tensor)
        return tensor if tensor.span is None else tensor.span  # a span is smaller to keep, a hundred thousand times

    def _check_storages(self, tensor: LazyTensor) -> None:
        """Check the storages of a tensor that is only a part or a view of them, once, before it is read."""
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
