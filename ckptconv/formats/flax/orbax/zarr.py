"""Parses the document of a zarr array, of version 2 or 3: its shape and dtype, and how chunks are stored.

    2   NAME/.zarray     {"zarr_format": 2, "shape", "chunks", "dtype", "order": "C" or "F", "fill_value", "filters",
                          "compressor": null or {"id": "zstd", …}, "dimension_separator": "." or "/"}
        NAME/0.1         a chunk; NAME/0 for an array without dimensions
    3   NAME/zarr.json   {"zarr_format": 3, "node_type": "array", "shape", "data_type", "fill_value",
                          "chunk_grid": {"name": "regular", …}, "chunk_key_encoding": {"name": "default" or "v2", …},
                          "codecs": […]}
        NAME/c/0/1       a chunk; NAME/c for an array without dimensions

Chunks have their full size even if the array ends within one. Codecs of version 3 turn a chunk into bytes: optionally
``transpose``, then ``bytes``, then optionally ``zstd`` or ``gzip``, and ``crc32c``; or ``sharding_indexed``, which
splits it into inner chunks, with their own codecs and an index (`chunks`). Elements of fewer than 8 bits take a byte
each. Types that numpy has no code for have ml_dtypes' names (``bfloat16``, ``float8_e4m3fn``, ``int4``), as in
TensorStore.

Refused by name: other codecs and compressors (blosc, bz2), filters, structured elements, shards in shards, codecs
around shards, grids that are not regular.

Sources: https://zarr-specs.readthedocs.io (v2.0, v3.0, codecs), TensorStore's drivers zarr and zarr3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.arrays import NUMPY_CODED, NUMPY_NAMED
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import UnsupportedError
from ckptconv.formats.flax.orbax.damage import bad, too_much
from ckptconv.io.limits import MAX_DIM, MAX_RANK, is_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.dtypes import DType
    from ckptconv.core.spelling import Json

ZARRAY = ".zarray"
ZARR_JSON = "zarr.json"

_COMPRESSORS = {"zstd": "zstd", "zlib": "zlib", "gzip": "zlib"}


@dataclass(frozen=True, slots=True)
class Codec:
    """How a chunk is stored.

    axes:       the order of its axes in memory; None for C order.
    swapped:    whether its numbers are big-endian.
    compressor: "zstd", "zlib", or "" for none.
    summed:     whether a CRC-32C follows.
    """

    axes: tuple[int, ...] | None = None
    swapped: bool = False
    compressor: str = ""
    summed: bool = False


@dataclass(frozen=True, slots=True)
class Sharding:
    """Inner chunks in shards.

    shape:    of an inner chunk.
    at_start: whether the index comes before the chunks.
    summed:   whether a CRC-32C follows the index.
    """

    shape: tuple[int, ...]
    at_start: bool
    summed: bool


@dataclass(frozen=True, slots=True)
class Header:
    """An array's parsed document.

    kind:   the name of the element type.
    dtype:  None if the element type is not supported.
    chunk:  the shape of a chunk, or of a shard if there are shards.
    prefix: the start of the chunks' keys, with a separator.
    alone:  the key of the only chunk of an array without dimensions.
    fill:   the element for missing chunks, as in the document.
    """

    kind: str
    dtype: DType | None
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    prefix: str
    alone: str
    separator: str
    codec: Codec
    fill: Json
    sharding: Sharding | None = None

    @property
    def info(self) -> TensorInfo:
        """The tensor's header."""
        assert self.dtype is not None
        return TensorInfo.of(self.dtype, self.shape)

    def key(self, place: Sequence[int]) -> str:
        """The key, behind the array's name, of the chunk or shard at these coordinates of the grid."""
        return self.prefix + self.separator.join(map(str, place)) if place else self.alone


def read_v2(name: str, document: Json) -> Header:
    """Parse a ``.zarray``. Raises CorruptFileError, LimitError, UnsupportedError."""
    fields = _Document(name, document)
    fields.expect("zarr_format", 2)
    shape, chunk = fields.sizes("shape"), fields.sizes("chunks")
    _check_shapes(name, shape, chunk)
    kind, dtype, swapped = _dtype_v2(name, fields.get("dtype"))
    if fields.get("filters"):
        raise _unsupported(name, "filters")
    order, separator = fields.get("order"), document.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        raise fields.bad("order or dimension_separator")
    compressor = fields.get("compressor")
    codec = Codec(
        axes=tuple(reversed(range(len(shape)))) if order == "F" and len(shape) > 1 else None,
        swapped=swapped,
        compressor="" if compressor is None else _compressor(name, fields.part(compressor, "compressor").get("id")),
    )
    return Header(kind, dtype, shape, chunk, "", "0", separator, codec, document.get("fill_value"))


def read_v3(name: str, document: Json) -> Header:
    """Parse a ``zarr.json``. Raises CorruptFileError, LimitError, UnsupportedError."""
    fields = _Document(name, document)
    fields.expect("zarr_format", 3)
    fields.expect("node_type", "array")
    shape = fields.sizes("shape")
    grid, keys = fields.named("chunk_grid"), fields.named("chunk_key_encoding")
    if grid.get("name") != "regular" or document.get("storage_transformers"):
        raise _unsupported(name, "a grid that is not regular, or storage transformers")
    chunk = grid.configuration().sizes("chunk_shape")
    _check_shapes(name, shape, chunk)
    kind = fields.get("data_type")
    if not isinstance(kind, str):
        raise _unsupported(name, "elements of a type of its own")
    if keys.get("name") not in ("default", "v2"):
        raise _unsupported(name, f"chunk keys encoded by {keys.get('name')!r}")
    v2 = keys.get("name") == "v2"
    separator = keys.configuration().values.get("separator", "." if v2 else "/")
    if separator not in (".", "/"):
        raise keys.bad("separator")
    codec, sharding = _codecs(fields, fields.get("codecs"), chunk)
    start, alone = ("", "0") if v2 else (f"c{separator}", "c")
    return Header(
        kind, NUMPY_NAMED.get(kind), shape, chunk, start, alone, separator, codec, document.get("fill_value"), sharding
    )


class _Document:
    """A JSON object that describes the array `name`. Methods raise CorruptFileError for missing and invalid values."""

    def __init__(self, name: str, values: Json) -> None:
        if not isinstance(values, dict):
            raise bad(f"what describes the array {name!r} is not an object")
        self.name, self.values = name, values

    def get(self, key: str) -> Json:
        """A mandatory value."""
        if key not in self.values:
            raise self.bad(key)
        return self.values[key]

    def expect(self, key: str, value: Json) -> None:
        if self.get(key) != value:
            raise self.bad(key)

    def part(self, value: Json, key: str) -> _Document:
        if not isinstance(value, dict):
            raise self.bad(key)
        return _Document(self.name, value)

    def named(self, key: str) -> _Document:
        """An inner object, which has a name and a configuration."""
        return self.part(self.get(key), key)

    def configuration(self) -> _Document:
        return self.part(self.values.get("configuration") or {}, "configuration")

    def sizes(self, key: str) -> tuple[int, ...]:
        value = self.get(key)
        if not isinstance(value, list) or not all(map(is_size, value)):
            raise self.bad(key)
        if len(value) > MAX_RANK:
            raise too_much(f"the array {self.name!r} has {len(value):,} dimensions; the limit is {MAX_RANK}")
        return tuple(value)

    def bad(self, key: str) -> Exception:
        return bad(f"what describes the array {self.name!r} has no {key}, or none that can be")


def _check_shapes(name: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
    if len(chunk) != len(shape) or 0 in chunk:
        raise bad(f"the chunks of {name!r} are of shape {list(chunk)}, and it is of shape {list(shape)}")
    if prod(shape) * 16 > MAX_DIM or prod(chunk) * 16 > MAX_DIM:
        raise too_much(f"the array {name!r} takes more bytes than a file can have")


def _dtype_v2(name: str, word: Json) -> tuple[str, DType | None, bool]:
    """The type's name, its dtype, None if unsupported, and whether it is big-endian."""
    if not isinstance(word, str):
        raise _unsupported(name, "structured elements")
    if word in NUMPY_NAMED and word not in NUMPY_CODED:  # numpy itself has no code for it
        return word, NUMPY_NAMED[word], False
    known = NUMPY_CODED.get(word[1:]) if word[:1] in "<>|" else None
    return word, known, word[:1] == ">" and known is not None and known.bits > 8


def _compressor(name: str, word: Json) -> str:
    if not isinstance(word, str) or word not in _COMPRESSORS:
        raise _unsupported(name, f"the compressor {word!r}")
    return _COMPRESSORS[word]


def _codecs(
    fields: _Document, codecs: Json, shape: tuple[int, ...], *, within: bool = False
) -> tuple[Codec, Sharding | None]:
    """Parse how chunks of this shape become bytes; `within`: the chunks are in shards."""
    if not isinstance(codecs, list) or not codecs:
        raise fields.bad("codecs")
    waiting = [fields.part({"name": entry} if isinstance(entry, str) else entry, "codecs") for entry in codecs]
    if waiting[0].get("name") == "sharding_indexed" and not within:
        if len(waiting) > 1:
            raise _unsupported(fields.name, "codecs around shards")
        return _sharding(waiting[0].configuration(), shape)
    axes, swapped, compressor, summed = None, None, "", False
    for codec in waiting:
        match codec.get("name"), swapped is None:
            case "transpose", True if axes is None:
                axes = _axes(codec.configuration(), len(shape))
            case "bytes", True:
                swapped = codec.configuration().values.get("endian", "little") == "big"
            case "zstd" | "gzip" as word, False if not compressor and not summed:
                compressor = _COMPRESSORS[word]
            case "crc32c", False if not summed:
                summed = True
            case word, _:
                raise _unsupported(fields.name, f"the codec {word!r}" + (" in a shard" if within else ""))
    if swapped is None:
        raise fields.bad("codec that makes bytes")
    return Codec(axes, swapped, compressor, summed), None


def _axes(configuration: _Document, rank: int) -> tuple[int, ...] | None:
    order = configuration.sizes("order")
    if sorted(order) != list(range(rank)):
        raise configuration.bad("order")
    return None if order == tuple(range(rank)) else order


def _sharding(configuration: _Document, shape: tuple[int, ...]) -> tuple[Codec, Sharding]:
    inner = configuration.sizes("chunk_shape")
    if len(inner) != len(shape) or 0 in inner or any(n % m for n, m in zip(shape, inner, strict=True)):
        raise bad(f"the shards of {configuration.name!r} are not a whole number of chunks")
    index, _ = _codecs(configuration, configuration.get("index_codecs"), (), within=True)
    where = configuration.values.get("index_location", "end")
    if index.swapped or index.compressor or where not in ("start", "end"):
        raise _unsupported(configuration.name, "an index of shards that is not little-endian and plain")
    codec, _ = _codecs(configuration, configuration.get("codecs"), inner, within=True)
    return codec, Sharding(inner, where == "start", index.summed)


def _unsupported(name: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"the array {name!r} has {what}, which is not supported",
        hint="restore it with orbax.checkpoint, and save it again with Orbax's own settings",
    )
