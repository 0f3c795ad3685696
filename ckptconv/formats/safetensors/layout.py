"""The layout of a safetensors file.

    8 bytes   u64 little-endian: length N of the header, N ≤ 100,000,000
    N bytes   UTF-8 JSON object: name → {"dtype", "shape", "data_offsets": [begin, end]},
              and "__metadata__" → an object of strings; may be padded with spaces
    rest      the tensors' bytes, little-endian, C order; offsets count from here

Refused: duplicate names, an unknown dtype, a size that is not the product of shape and width, overlaps, gaps, bytes
after the last tensor. Unknown fields of a tensor are ignored, as by the reference reader.

Source: github.com/huggingface/safetensors, README and safetensors/src/tensor.rs (0.8.0).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import COPY_AGAIN, CorruptFileError, LimitError
from ckptconv.formats.tensors.headers import Slot
from ckptconv.io.limits import MAX_DIM, MAX_RANK, MAX_SAFETENSORS_HEADER, MAX_TENSORS, is_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.io.source import Source

LENGTH = Struct("<Q")
METADATA = "__metadata__"
ALIGNMENT = 8
"""The data starts at a multiple of this. With the wide types first, every tensor is aligned to its own width."""

DTYPE_BY_CODE: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        DType.BOOL, DType.F4, DType.F6_E2M3, DType.F6_E3M2, DType.U8, DType.I8, DType.F8_E5M2, DType.F8_E4M3,
        DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ, DType.F8_E8M0, DType.I16, DType.U16, DType.F16, DType.BF16, DType.I32,
        DType.U32, DType.F32, DType.C64, DType.F64, DType.I64, DType.U64,
    )
}  # fmt: skip
"""Every element type that the format has a code for; our names are its codes."""


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header: tensors in the header's order, and its string metadata."""

    slots: dict[str, Slot]
    metadata: dict[str, str]


def _bad(what: str) -> CorruptFileError:
    return CorruptFileError(f"the safetensors header is invalid: {what}")


def claims(source: Source) -> bool:
    """Whether the file starts with a length and a JSON object. Eight bytes of text are not a length: it would be
    exabytes.
    """
    if source.size < LENGTH.size + 2:
        return False
    first = bytes(source.read_at(0, LENGTH.size))
    start = bytes(source.read_at(LENGTH.size, min(64, source.size - LENGTH.size)))
    is_text = all(0x20 <= byte < 0x7F or byte in b"\t\n\r" for byte in first)
    return LENGTH.unpack(first)[0] >= 2 and not is_text and start.lstrip(b" ").startswith(b"{")


def read_header(source: Source) -> Header:
    """Read and check the header. Raises CorruptFileError, LimitError."""
    if source.size < LENGTH.size:
        raise _bad("the file is too short for its length")
    (length,) = LENGTH.unpack(source.read_at(0, LENGTH.size))
    if length > MAX_SAFETENSORS_HEADER:
        raise LimitError(
            f"the header claims {length:,} bytes; the format allows {MAX_SAFETENSORS_HEADER:,}", hint=COPY_AGAIN
        )
    if LENGTH.size + length > source.size:
        raise _bad(f"it claims {length:,} bytes, and the file has {source.size - LENGTH.size:,} after the length")
    document = _parse(bytes(source.read_at(LENGTH.size, length)))
    metadata = _metadata(document.pop(METADATA, {}))
    if len(document) > MAX_TENSORS:
        raise LimitError(f"the header names {len(document):,} tensors; the limit is {MAX_TENSORS:,}", hint=COPY_AGAIN)
    data_start = LENGTH.size + length
    slots = {name: _slot(name, entry, data_start) for name, entry in document.items()}
    _check_coverage(slots, data_start, source.size)
    return Header(slots, metadata)


def _parse(text: bytes) -> dict[str, Json]:
    try:
        document = strict_json.loads(text)
    except ValueError as error:
        raise _bad(str(error)) from error
    if not isinstance(document, dict):
        raise _bad("it is not a JSON object")
    return document


def _metadata(entry: Json) -> dict[str, str]:
    if entry is None:  # MLX writes null if there is none, and the safetensors package accepts it
        return {}
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise _bad(f"{METADATA} is not a map of strings to strings")
    return entry


def _slot(name: str, entry: Json, data_start: int) -> Slot:
    match entry:
        case {"dtype": str() as code, "shape": list() as shape, "data_offsets": [int() as begin, int() as end]}:
            pass
        case _:
            raise _bad(f"the entry of {name!r} lacks dtype, shape or data_offsets")
    dtype = DTYPE_BY_CODE.get(code)
    if dtype is None:
        raise _bad(f"{name!r} has the unknown dtype {code!r}")
    if not all(map(is_size, (*shape, begin, end))) or len(shape) > MAX_RANK:
        raise _bad(f"{name!r} has a shape or an offset out of range")
    bits = prod(shape) * dtype.bits
    if bits > MAX_DIM or bits % 8 or begin > end or (end - begin) * 8 != bits:
        raise _bad(f"{name!r} has {end - begin:,} bytes, and {code} of shape {shape} takes {bits / 8:,.10g}")
    return Slot(_info(dtype, tuple(shape)), data_start + begin)


@lru_cache(maxsize=1000)
def _info(dtype: DType, shape: tuple[int, ...]) -> TensorInfo:
    """Cached, because tensors that are alike share one: a mixture of experts has many thousands."""
    return TensorInfo.of(dtype, shape)


def _check_coverage(slots: Mapping[str, Slot], data_start: int, size: int) -> None:
    position = data_start
    for name, slot in sorted(slots.items(), key=lambda item: (item[1].start, item[1].info.nbytes)):
        if slot.start != position:
            raise _bad(f"{name!r} {'overlaps the tensor before it' if slot.start < position else 'follows a gap'}")
        position += slot.info.nbytes
    if position != size:
        more = size - position
        raise _bad(f"{more:,} bytes follow the last tensor" if more > 0 else f"{-more:,} bytes are missing at the end")


def arrange(infos: Mapping[str, TensorInfo]) -> dict[str, int]:
    """Offsets within the data, by name: wide types first, otherwise in the order given, so that all are aligned."""
    offsets, position = {}, 0
    for name, info in sorted(infos.items(), key=lambda item: -item[1].dtype.bits):
        offsets[name] = position
        position += info.nbytes
    return {name: offsets[name] for name in infos}


def spell_header(infos: Mapping[str, TensorInfo], offsets: Mapping[str, int], metadata: Mapping[str, str]) -> bytes:
    """Length and header, padded. Raises LimitError if the header is larger than the format allows."""
    text = bytearray(LENGTH.size)
    if metadata:
        text += f'{{"{METADATA}":{_spelled(dict(metadata))}'.encode()
    for name, info in infos.items():  # one at a time: a single JSON document takes a kilobyte for each tensor
        begin, shape = offsets[name], ",".join(map(str, info.shape))
        end = begin + info.nbytes
        entry = f'"dtype":"{info.dtype.name}","shape":[{shape}],"data_offsets":[{begin},{end}]'
        text += f"{',' if len(text) > LENGTH.size else '{'}{_spelled(name)}:{{{entry}}}".encode()
    text += b"}" if len(text) > LENGTH.size else b"{}"
    text += b" " * (-len(text) % ALIGNMENT)
    length = len(text) - LENGTH.size
    if length > MAX_SAFETENSORS_HEADER:
        raise LimitError(
            f"the header would have {length:,} bytes; the format allows {MAX_SAFETENSORS_HEADER:,}",
            hint="--bare leaves the metadata out",
        )
    LENGTH.pack_into(text, 0, length)
    return bytes(text)


def _spelled(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
