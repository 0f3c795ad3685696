"""The arrays of a store, as tensors or as Python numbers."""

from __future__ import annotations

from itertools import product
from math import prod
from struct import unpack
from typing import TYPE_CHECKING

from ckptconv.core.arrays import from_bytes
from ckptconv.core.dtypes import COMPONENT, DType
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, in_file
from ckptconv.errors import CkptconvError
from ckptconv.formats.flax.orbax.chunks import Cache, Chunks
from ckptconv.formats.flax.orbax.damage import bad, too_empty, too_much
from ckptconv.formats.flax.orbax.documents import parse_json
from ckptconv.formats.flax.orbax.ocdbt import Inline
from ckptconv.formats.flax.orbax.streams import with_name
from ckptconv.formats.flax.orbax.zarr import ZARR_JSON, ZARRAY, Header, read_v2, read_v3
from ckptconv.formats.flax.packed import Packed
from ckptconv.io.limits import FREE_ZARR_BYTES, MAX_TENSORS, MAX_ZARR_CHUNKS, MAX_ZSTD_RATIO

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.flax.orbax.store import Store

_FORMATS = {DType.F64: "<d", DType.F32: "<f", DType.F16: "<e", DType.C64: "<ff", DType.C128: "<dd", DType.BOOL: "?"}
_MAX_DOCUMENT = 1 << 20


class Arrays:
    """The arrays of a store. Opening one reads its document, but no elements.

    complete: whether Orbax wrote all chunks, so that a missing one is lost.
    used:     the names of arrays whose headers were read.
    """

    def __init__(self, store: Store, cache: Cache, *, complete: bool) -> None:
        self._store = store
        self._cache = cache
        self._complete = complete
        self._unwritten = 0
        self._headers: dict[bytes, Header] = {}
        self.used: set[str] = set()

    def unused(self) -> list[str]:
        """The names of arrays in the store that were not used, sorted."""
        suffixes = f"/{ZARRAY}", f"/{ZARR_JSON}"
        names = {key[: -len(suffix)] for key in self._store.names() for suffix in suffixes if key.endswith(suffix)}
        if self._store.find(ZARRAY) or self._store.find(ZARR_JSON):
            names.add("")
        return sorted(names - self.used)

    def check_unwritten(self) -> None:
        """Raise LimitError if arrays that may lack chunks are too large for the size of the files."""
        if self._unwritten > FREE_ZARR_BYTES + MAX_ZSTD_RATIO * self._store.size:
            raise too_empty("it has far more elements that were never written than bytes")

    def header(self, name: str) -> Header | None:
        """An array's parsed document; None if there is no such array. Raises CkptconvError."""
        for file_name, read in ((ZARRAY, read_v2), (ZARR_JSON, read_v3)):
            span = self._store.find(_key(name, file_name))
            if span is not None:
                if span.length > _MAX_DOCUMENT:
                    raise too_much(f"what describes the array {name!r} has {span.length:,} bytes")
                self._mark_used(name)
                data = bytes(span.file.read_at(span.offset, span.length))
                if data not in self._headers:
                    self._headers[data] = read(name, parse_json(data, _key(name, file_name)))
                return self._headers[data]
        return None

    def tensor(self, name: str, header: Header) -> LazyTensor:
        """An array with a known dtype as a tensor. Raises CkptconvError if chunks are missing."""
        chunks = self._chunks(name, header)
        info = header.info
        alias = (self._store, name)
        if info.dtype.bits < 8:
            return LazyTensor(info, Packed(chunks, info.dtype, info.numel), None, alias)
        span = self._contiguous_span(chunks, info)
        return in_file(info, span, alias) if span else LazyTensor(info, chunks, None, alias)

    def number(self, name: str, header: Header) -> MetaNode:
        """An array without dimensions as a Python number. Reads it."""
        assert header.dtype is not None
        if header.shape:
            raise bad(f"{name!r} is a number, and an array of shape {list(header.shape)}")
        data = self._chunks(name, header).read_scalar()
        return _python_number(data, header.dtype)

    def _mark_used(self, name: str) -> None:
        self.used.add(name)
        if len(self.used) > MAX_TENSORS:
            raise too_much(f"it has more than {MAX_TENSORS:,} arrays")

    def _chunks(self, name: str, header: Header) -> Chunks:
        assert header.dtype is not None
        width = max(1, header.dtype.bits // 8)
        component = COMPONENT.get(header.dtype)
        part = component.bits // 8 if component else width
        chunks = Chunks(name, header, lambda key: self._store.find(_key(name, key)), self._cache, width, part)
        self._check_written(chunks)
        return chunks

    def _check_written(self, chunks: Chunks) -> None:
        """Look up each chunk, so that lost ones are found when the checkpoint is opened. Raises CkptconvError."""
        header, name = chunks.header, chunks.name
        grid = [-(-n // m) for n, m in zip(header.shape, header.chunk, strict=True)]
        count = prod(grid)
        stored = self._store.count_keys(_key(name, "")) - 1  # all but its document
        if count > MAX_ZARR_CHUNKS and (stored >= count or self._complete):
            raise too_much(f"{name!r} has {count:,} chunks; the limit is {MAX_ZARR_CHUNKS:,}")
        found = stored
        if count <= stored:
            found = 0
            for place in product(*map(range, grid)):
                span = chunks.find(header.key(place))
                if span is not None:
                    _check_size(chunks, span)
                    found += 1
        if found < count and self._complete:
            raise bad(f"{count - found:,} of the {count:,} chunks of {name!r} are not there")
        if found < count or header.sharding:  # a shard may lack most of its chunks
            self._unwritten += header.info.nbytes

    def _contiguous_span(self, chunks: Chunks, info: TensorInfo) -> ByteSpan | None:
        """Where an array lies in one piece: in a single chunk, in C order, uncompressed. None if it does not."""
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
            raise with_name(error, chunks.name) from error.__cause__
        return ByteSpan(span.file, span.offset, info.nbytes)


def _check_size(chunks: Chunks, span: ByteSpan) -> None:
    """Raise CorruptFileError if a stored chunk has an impossible size. A shard may have any: chunks may be missing."""
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


def _key(name: str, rest: str) -> str:
    return f"{name}/{rest}" if name else rest


def _python_number(data: bytes, dtype: DType) -> MetaNode:
    """The Python number for the bytes of an element."""
    if dtype.kind in ("int", "uint") and dtype.bits >= 8:
        return int.from_bytes(data, "little", signed=dtype.kind == "int")
    if dtype in _FORMATS:
        parts = unpack(_FORMATS[dtype], data)
        return complex(*parts) if dtype.kind == "complex" else parts[0]
    number = from_bytes(memoryview(data), dtype, ()).item()
    return int(number) if dtype.kind in ("int", "uint") else float(number)
