"""Reader of MXNet's .params, which ``mx.nd.save`` writes.

    u64            magic, 0x112
    u64            0
    u64            number of arrays
    arrays         one after the other:
        u32        magic: 0xF993FAC9 (version 2), …CA (3), …C8 (1); in older files absent, and dimensions are u32
        i32        in versions 2 and 3: the storage type, 0: dense
        u32 i64 …  number of dimensions, and their sizes; if the number is 0, in version 3 -1, there is no array
        i32 i32    device: kind and number
        i32        element type
        bytes      elements, little-endian
    u64            number of names: as many as arrays, or 0
    names          u64 length, UTF-8

Names are the file's without the prefixes ``arg:`` and ``aux:``, as in ``mx.model.load_checkpoint``; arrays without
names are numbered. Refused by name: sparse arrays.

Source: mxnet/src/ndarray/ndarray.cc (`NDArray::Save`, `Load`, `LegacyLoad`), include/mxnet/tuple.h; mshadow/base.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, in_file
from ckptconv.core.text import quoted
from ckptconv.errors import CorruptFileError, UnsupportedError
from ckptconv.formats.tensors.headers import header_info
from ckptconv.io.forward import Forward
from ckptconv.io.limits import MAX_DIM, MAX_RANK, MAX_SAFETENSORS_HEADER

if TYPE_CHECKING:
    from ckptconv.io.source import Source

MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = {
    0: DType.F32, 1: DType.F64, 2: DType.F16, 3: DType.U8, 4: DType.I32, 5: DType.I8, 6: DType.I64, 7: DType.BOOL,
    8: DType.I16, 9: DType.U16, 10: DType.U32, 11: DType.U64, 12: DType.BF16,
}  # fmt: skip
"""The element types, by mshadow's ``TypeFlag``."""

PREFIXES = ("arg:", "aux:")
MAX_NAME = 4096


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the MXNet file is invalid: {what}")


def claims(source: Source) -> bool:
    """Whether it begins with the magic number, and is long enough for the number of arrays."""
    return source.size >= 24 and int.from_bytes(source.read_at(0, 8), "little") == MAGIC


def read(source: Source) -> Checkpoint:
    """Open the file: read each array's header, and the names. Raises CorruptFileError, LimitError, UnsupportedError."""
    if not claims(source):
        raise bad("its magic is missing")
    file = Forward(source, 8, bad, MAX_SAFETENSORS_HEADER)
    file.take(8)
    arrays = [_read_array(file, index) for index in range(file.entries("arrays", 8, 8))]
    names = [_read_name(file) for _ in range(file.entries("names", 8, 8))]
    if not names:
        names = [str(index) for index in range(len(arrays))]
    if len(names) != len(arrays):
        raise bad(f"it has {len(arrays):,} arrays, and {len(names):,} names")
    if len(set(names)) != len(names):
        raise bad("a name comes twice")
    if file.left:
        raise bad(f"{file.left:,} bytes follow its names")
    unprefixed = [name.removeprefix(name[:4]) if name.startswith(PREFIXES) else name for name in names]
    if len(set(unprefixed)) == len(unprefixed):
        names = unprefixed
    tensors = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    missing = [name for name, array in zip(names, arrays, strict=True) if array is None]
    findings: tuple[Finding, ...] = ()
    if missing:
        message = f"arrays that were never given a shape are left out: {quoted(missing)}"
        findings = (Finding("empty", "info", missing[0], message),)
    return Checkpoint(tensors, format="mxnet", notes=Notes(source="mxnet"), findings=findings, file=source)


def _read_name(file: Forward) -> str:
    try:
        return file.take(file.count("the length of a name", MAX_NAME, 8)).decode("utf-8")
    except UnicodeDecodeError:
        raise bad("a name is not UTF-8") from None


def _read_array(file: Forward, index: int) -> LazyTensor | None:
    """Read an array's header; None if the array was never given a shape."""
    shape = _read_shape(file, index)
    if shape is None:
        return None
    file.take(8)  # the device
    info = header_info(f"the array {index:,}", file.signed(4), shape, dtypes=DTYPES, library="MXNet 1.9", bad=bad)
    return in_file(info, file.span(info.nbytes), (id(file.source), index))


def _read_shape(file: Forward, index: int) -> tuple[int, ...] | None:
    magic = file.number(4)
    if magic in (V2, V3) and (storage_type := file.signed(4)):
        what = {1: "row_sparse", 2: "csr"}.get(storage_type, f"of the storage type {storage_type}")
        raise UnsupportedError(
            f"the array {index:,} is {what}, which is not read", hint="save array.tostype('default') instead of it"
        )
    if magic in (V1, V2, V3):
        rank, width = file.signed(4), 8
    else:
        rank, width = magic, 4
    if rank == (-1 if magic == V3 else 0):
        return None
    if not 0 <= rank <= MAX_RANK:
        raise bad(f"the array {index:,} has {rank:,} dimensions")
    return tuple(file.count(f"a dimension of the array {index:,}", MAX_DIM, width) for _ in range(rank))
