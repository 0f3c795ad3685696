"""Turn the header of a TensorProto into a lazy tensor. Every number is checked before it is used.

The data is in one of three places: in `raw_data`, little-endian and packed as our images are; in a typed field, which
has the same bytes for floats and doubles, and varints for integers; or in a file beside the model. A tensor with two of
these, or whose length is not that of its type and shape, is refused, although other readers accept it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, in_file
from ckptconv.formats.onnx.graph import DOUBLE_DATA, FLOAT_DATA, INT32_DATA, INT64_DATA, UINT64_DATA
from ckptconv.formats.onnx.typed_data import FixedReader, VarintReader
from ckptconv.formats.onnx.wire import bad
from ckptconv.formats.tensors.headers import header_info

if TYPE_CHECKING:
    from ckptconv.formats.onnx.external import ModelFiles
    from ckptconv.formats.onnx.graph import TensorHeader

STRING = 8

DTYPE_BY_CODE: dict[int, DType] = {
    1: DType.F32, 2: DType.U8, 3: DType.I8, 4: DType.U16, 5: DType.I16, 6: DType.I32, 7: DType.I64, 9: DType.BOOL,
    10: DType.F16, 11: DType.F64, 12: DType.U32, 13: DType.U64, 14: DType.C64, 15: DType.C128, 16: DType.BF16,
    17: DType.F8_E4M3, 18: DType.F8_E4M3FNUZ, 19: DType.F8_E5M2, 20: DType.F8_E5M2FNUZ, 21: DType.U4, 22: DType.I4,
    23: DType.F4, 24: DType.F8_E8M0, 25: DType.U2, 26: DType.I2, 27: DType.F6_E2M3, 28: DType.F6_E3M2,
}  # fmt: skip
"""TensorProto.DataType, without STRING."""

_OWN_FIELD: dict[DType, int] = {
    DType.F32: FLOAT_DATA, DType.C64: FLOAT_DATA, DType.F64: DOUBLE_DATA, DType.C128: DOUBLE_DATA,
    DType.I64: INT64_DATA, DType.U64: UINT64_DATA, DType.U32: UINT64_DATA,
}  # fmt: skip
"""The typed field for the numbers of a type; `int32_data` for all others."""

_FIELD_NAMES = {
    FLOAT_DATA: "float_data", INT32_DATA: "int32_data", INT64_DATA: "int64_data", DOUBLE_DATA: "double_data",
    UINT64_DATA: "uint64_data",
}  # fmt: skip
_WIDTHS = {FLOAT_DATA: 4, DOUBLE_DATA: 8}
_LONGEST_VARINT = 10

SCANNED_AT_ONCE = 64 << 10
"""Up to so many bytes of varints are counted when the file is opened; more are counted when they are read."""


def tensor_info(header: TensorHeader, name: str) -> TensorInfo:
    """The type, shape and size that a header states. Raises CorruptFileError, UnsupportedError."""
    return header_info(repr(name), header.code, header.dims, dtypes=DTYPE_BY_CODE, library="ONNX 1.23", bad=bad)


def build_tensor(header: TensorHeader, name: str, files: ModelFiles) -> LazyTensor:
    """Make the tensor. Opens the file that holds its data, but reads none of it."""
    info = tensor_info(header, name)
    numbers = {key: segments for key, segments in header.numbers.items() if segments}
    places = [header.raw is not None, bool(numbers), header.is_external, header.has_strings]
    if sum(places) > 1 or len(numbers) > 1:
        raise bad(f"{name!r} has its numbers in two places at once")
    if header.has_strings:
        raise bad(f"{name!r} is {info.dtype}, and holds strings")
    if header.is_external:
        file, offset = files.locate(name, header.external, info.nbytes)
        alias = ("external", id(file), offset, info.dtype, info.shape) if info.nbytes else (id(files), name)
        return in_file(info, ByteSpan(file, offset, info.nbytes), alias)
    if numbers:
        return _build_from_typed_data(header, name, info, files)
    start, stop = header.raw or (0, 0)
    if stop - start != info.nbytes:
        raise bad(f"{name!r} holds {stop - start:,} bytes, and {info.dtype} of shape {list(info.shape)} takes "
                  f"{info.nbytes:,}")  # fmt: skip
    return in_file(info, ByteSpan(files.source, start, info.nbytes), (id(files), name))


def _build_from_typed_data(header: TensorHeader, name: str, info: TensorInfo, files: ModelFiles) -> LazyTensor:
    ((key, segments),) = ((key, segments) for key, segments in header.numbers.items() if segments)
    wanted = _OWN_FIELD.get(info.dtype, INT32_DATA)
    if key != wanted:
        raise bad(f"{name!r} is {info.dtype}, which belongs into {_FIELD_NAMES[wanted]}, not {_FIELD_NAMES[key]}")
    source = files.source
    depends = tuple(ByteSpan(source, segment.start, segment.stop - segment.start) for segment in segments)
    alias = (id(files), name)
    if width := _WIDTHS.get(key):
        fixed = FixedReader(name, source, segments, width)
        if fixed.count * width != info.nbytes:
            wanted = info.nbytes // width
            raise bad(f"{name!r} holds {fixed.count:,} numbers, and its type and shape ask for {wanted:,}")
        if len(segments) == 1 and segments[0].packed:
            return in_file(info, depends[0], alias)
        return LazyTensor(info, fixed, None, alias, depends)
    unit = max(info.dtype.bits // 8, 1)
    total = info.numel if info.dtype.bits == 6 else info.nbytes // unit
    varints = VarintReader(name, source, segments, unit, info.dtype.bits, total)
    length = sum(segment.stop - segment.start for segment in segments)
    if not total <= length <= total * (_LONGEST_VARINT + 1):
        raise bad(f"{name!r} holds {length:,} bytes of numbers, and its type and shape ask for {total:,} numbers")
    if length <= SCANNED_AT_ONCE:
        varints.check()
    return LazyTensor(info, varints, None, alias, depends)
