"""The arrays of a store as tensors, and as Python's numbers."""

from __future__ import annotations

from itertools import product
from math import prod
from struct import unpack
from typing import TYPE_CHECKING

from ckptconv.core.arrays import from_bytes
from ckptconv.core.dtypes import COMPONENT, DType
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, in_file
from ckptconv.errors import CkptconvError
from ckptconv.formats.flax.orbax.chunks import Chunks, Kept
from ckptconv.formats.flax.orbax.damage import bad, too_empty, too_much
from ckptconv.formats.flax.orbax.documents import parse_json
from ckptconv.formats.flax.orbax.ocdbt import Inline
from ckptconv.formats.flax.orbax.streams import named
from ckptconv.formats.flax.orbax.zarr import ZARRAY, ZARR_JSON, Header, read_v2, read_v3
from ckptconv.formats.flax.packed import Packed
from ckptconv.io.limits import FREE_ZARR_BYTES, MAX_TENSORS, MAX_ZARR_CHUNKS, MAX_ZSTD_RATIO

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.flax.orbax.store import Store

_FORMATS = {DType.F64: "<d", DType.F32: "<f", DType.F16: "<e", DType.C64: "<ff", DType.C128: "<dd", DType.BOOL: "?"}
_MAX_DOCUMENT = 1 << 20


class Arrays:
    """The arrays of a store. Opening one reads its document; reading an element is left to its tensor.

    complete: whether Orbax wrote all chunks, so that one that is not there is lost.
    used:     names of the arrays that have been asked for.
    """

    def __init__(self, store: Store, kept: Kept, *, complete: bool) -> None:
        self._store = store
        self._kept = kept
        self._complete = complete
        self._unwritten = 0
        self._headers: dict[bytes, Header] = {}
        self.used: set[str] = set()

    def unused(self) -> list[str]:
        """Names of the arrays in the store that nobody asked for."""
        ends = f"/{ZARRAY}", f"/{ZARR_JSON}"
        names = {key[: -len(end)] for key in self._store.names() for end in ends if key.endswith(end)}
        names |= {""} if self._store.find(ZARRAY) or self._store.find(ZARR_JSON) else set()
        return sorted(names - self.used)

    def check_unwritten(self) -> None:
        """Raise LimitError where arrays whose chunks need not be there are out of all proportion to the files."""
        if self._unwritten > FREE_ZARR_BYTES + MAX_ZSTD_RATIO * self._store.size:
            raise too_empty("it has far more elements that were never written than bytes")

    def header(self, name: str) -> Header | None:
        """What an array's document says; None where there is no such array. Raises CkptconvError."""
        for end, read in ((ZARRAY, read_v2), (ZARR_JSON, read_v3)):
            span = self._store.find(_key(name, end))
            if span is not None:
                if span.length > _MAX_DOCUMENT:
                    raise too_much(f"what describes the array {name!r} has {span.length:,} bytes")
                self._count(name)
                data = bytes(span.file.read_at(span.offset, span.length))
                if data not in self._headers:
                    self._headers[data] = read(name, parse_json(data, _key(name, end)))
                return self._headers[data]
        return None

    def tensor(self, name: str, header: Header) -> LazyTensor:
        """An array of an element type that is known. Raises CkptconvError where chunks are missing."""
        chunks = self._chunks(name, header)
        info = header.info
        alias = (self._store, name)
        if info.dtype.bits < 8:
            return LazyTensor(info, Packed(chunks, info.dtype, info.numel), None, alias)
        span = self._span(chunks, info)
        return in_file(info, span, alias) if span else LazyTensor(info, chunks, None, alias)

    def number(self, name: str, header: Header) -> MetaNode:
        """An array without dimensions as Orbax gives Python's numbers back. Reads it."""
        assert header.dtype is not None
        if header.shape:
            raise bad(f"{name!r} is a number, and an array of shape {list(header.shape)}")
        data = self._chunks(name, header).only()
        return _number(data, header.dtype)

    def _count(self, name: str) -> None:
        self.used.add(name)
        if len(self.used) > MAX_TENSORS:
            raise too_much(f"it has more than {MAX_TENSORS:,} arrays")

    def _chunks(self, name: str, header: Header) -> Chunks:
        assert header.dtype is not None
        width = max(1, header.dtype.bits // 8)
        component = COMPONENT.get(header.dtype)
        part = component.bits // 8 if component else width
        chunks = Chunks(name, header, lambda key: self._store.find(_key(name, key)), self._kept, width, part)
        self._check_written(chunks)
        return chunks

    def _check_written(self, chunks: Chunks) -> None:
        """Look each chunk up, so that those that are lost are told before anything is read."""
        header, name = chunks.header, chunks.name
        grid = [-(-n // m) for n, m in zip(header.shape, header.chunk, strict=True)]
        count = prod(grid)
        there = self._store.under(_key(name, "")) - 1  # all but its document
        if count > MAX_ZARR_CHUNKS and (there >= count or self._complete):
            raise too_much(f"{name!r} has {count:,} chunks; the limit is {MAX_ZARR_CHUNKS:,}")
        found = 0 if count <= there else there
        for place in product(*map(range, grid)) if count <= there else ():
            span = chunks.find(header.key(place))
            if span is not None:
                _check_size(chunks, span)
                found += 1
        if found < count and self._complete:
            raise bad(f"{count - found:,} of the {count:,} chunks of {name!r} are not there")
        if found < count or header.sharding:  # a shard that is there may lack most of its chunks
            self._unwritten += header.info.nbytes

    def _span(self, chunks: Chunks, info: TensorInfo) -> ByteSpan | None:
        """Where an array lies as one run: in one chunk of C's order that is not compressed."""
        codec, rank = chunks.header.codec, len(info.shape)
        single = all(n <= m for n, m in zip(info.shape, chunks.chunk, strict=True))
        if codec.compressor or codec.summed or codec.axes or (codec.swapped and chunks.part > 1) or not single:
            return None
        if chunks.chunk[1:] != info.shape[1:] or not info.nbytes:
            return None
        try:
            span = chunks.locate((0,) * rank)
            if span is None or isinstance(span.file, Inline):
                return None
            if span.length != prod(chunks.chunk) * chunks.width:
                raise bad(f"its chunk has {span.length:,} bytes, and should have {prod(chunks.chunk) * chunks.width:,}")
        except CkptconvError as error:
            raise named(error, chunks.name) from error.__cause__
        return ByteSpan(span.file, span.offset, info.nbytes)


def _check_size(chunks: Chunks, span: ByteSpan) -> None:
    """Whether what is stored of a chunk can be one; a shard may have any of its chunks. Raises CorruptFileError."""
    header, size = chunks.header, prod(chunks.header.chunk) * chunks.width
    codec = header.codec
    if header.sharding:
        return
    if codec.compressor and size > (span.length + 1) * MAX_ZSTD_RATIO:
        raise bad(f"{chunks.name!r} has a chunk of {span.length:,} bytes, which can not inflate to {size:,}")
    if not codec.compressor and span.length != size + 4 * codec.summed:
        raise bad(
            f"{chunks.name!r} has a chunk of {span.length:,} bytes, which should have {size + 4 * codec.summed:,}"
        )


def _key(name: str, end: str) -> str:
    return f"{name}/{end}" if name else end


def _number(data: bytes, dtype: DType) -> MetaNode:
    """Python's number of an element."""
    if dtype.kind in ("int", "uint") and dtype.bits >= 8:
        return int.from_bytes(data, "little", signed=dtype.kind == "int")
    if dtype in _FORMATS:
        parts = unpack(_FORMATS[dtype], data)
        return complex(*parts) if dtype.kind == "complex" else parts[0]
    number = from_bytes(memoryview(data), dtype, ()).item()
    return int(number) if dtype.kind in ("int", "uint") else float(number)
