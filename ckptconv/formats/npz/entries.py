"""numpy arrays in a zip archive: numbers as tensors, and texts as metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.metadata import NumpyArray, NumpyScalar
from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CorruptFileError
from ckptconv.formats.npz.tensors import tensor_at
from ckptconv.formats.tensors.npy import SAVE_AGAIN
from ckptconv.io.checksum import crc32, tail_crc32
from ckptconv.io.limits import MAX_NPZ_TEXT

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.tensors.npy import Npy, Text
    from ckptconv.io.zip import ZipArchive


def read_text(archive: ZipArchive, entry: str, name: str, text: Text) -> NumpyArray | NumpyScalar:
    """Read an array of texts; `name` is for errors. Raises CorruptFileError, LimitError."""
    size = text.nbytes
    data = archive.read(entry, len(text.raw) + min(size, MAX_NPZ_TEXT))[len(text.raw) :]
    if len(data) != size:
        raise _size_error(name, len(data), size)
    if not text.shape:
        return NumpyScalar(text.descr, data)
    return NumpyArray(text.descr, text.shape, data, text.fortran and len(text.shape) > 1)


def tensor_in(archive: ZipArchive, entry: str, name: str, npy: Npy) -> LazyTensor:
    """The tensor of an array of numbers, with the CRC-32 of its elements. Raises CorruptFileError."""
    info, head = npy.info, len(npy.raw)
    whole = archive.span(entry)
    if whole.length - head != info.nbytes:
        raise _size_error(name, whole.length - head, info.nbytes)
    recorded = whole.recorded_crc32
    crc = None if recorded is None else tail_crc32(recorded, crc32(npy.raw), info.nbytes)
    return tensor_at(npy, ByteSpan(whole.file, whole.offset + head, info.nbytes, crc), (id(archive), name))


def _size_error(name: str, found: int, expected: int) -> CorruptFileError:
    return CorruptFileError(
        f"{name!r} has {found:,} bytes, and its type and shape ask for {expected:,}", hint=SAVE_AGAIN
    )
