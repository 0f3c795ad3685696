"""Entries of a zip archive that are arrays of numpy's: as tensors, and as texts, which are metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.metadata import NumpyArray, NumpyScalar
from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CorruptFileError
from ckptconv.formats.npz.layout import AGAIN
from ckptconv.formats.npz.placed import placed
from ckptconv.io.checksum import crc32, tail_crc32
from ckptconv.io.limits import MAX_NPZ_TEXT

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.npz.layout import Npy, Text
    from ckptconv.io.zip import ZipArchive


def text_in(archive: ZipArchive, entry: str, name: str, text: Text) -> NumpyArray | NumpyScalar:
    """The value of an array of texts, which errors call `name`. Reads it. Raises CorruptFileError, LimitError."""
    size = text.nbytes
    data = archive.read(entry, len(text.raw) + min(size, MAX_NPZ_TEXT))[len(text.raw) :]
    if len(data) != size:
        raise _other_size(name, len(data), size)
    if not text.shape:
        return NumpyScalar(text.descr, data)
    return NumpyArray(text.descr, text.shape, data, text.fortran and len(text.shape) > 1)


def tensor_in(archive: ZipArchive, entry: str, name: str, npy: Npy) -> LazyTensor:
    """The tensor of an array of numbers, with the checksum of its elements. Raises CorruptFileError."""
    info, head = npy.info, len(npy.raw)
    whole = archive.span(entry)
    if whole.length - head != info.nbytes:
        raise _other_size(name, whole.length - head, info.nbytes)
    recorded = whole.recorded_crc32
    crc = None if recorded is None else tail_crc32(recorded, crc32(npy.raw), info.nbytes)
    return placed(npy, ByteSpan(whole.file, whole.offset + head, info.nbytes, crc), (id(archive), name))


def _other_size(name: str, there: int, asked: int) -> CorruptFileError:
    return CorruptFileError(f"{name!r} has {there:,} bytes, and its type and shape ask for {asked:,}", hint=AGAIN)
