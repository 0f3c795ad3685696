"""Reader of the folders in which MLC-LLM, WebLLM and TVM keep parameters.

    tensor-cache.json       {"metadata": {…}, "records": [SHARD, …]}; before 2025 it is called ndarray-cache.json
    SHARD                   {"dataPath": FILE, "format": "raw-shard", "nbytes", "md5sum"?, "records": [RECORD, …]}
    RECORD                  {"name", "shape", "dtype", "format", "nbytes", "byteOffset"}
    params_shard_0.bin …    the elements, in C order, little-endian
    …-b16.json              the same, with bfloat16 for what the other calls float32: read only if it is named

The format of a record is ``raw`` or ``f32-to-bf16``: then float32 is stored as its upper two bytes, and read as
float32, as TVM does. Names are the file's: a quantized weight is ``w.q_weight`` and ``w.q_scale``. The MD5 sums are not
checked, since that takes reading all files.

Refused: files that are missing, outside of this folder, or of another size; records that reach past their file.

Source: tvm/contrib/tvmjs.py (`dump_tensor_cache`), tvm/src/runtime/vm/tensor_cache_support.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import MetaNode, StateDict
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, depends_of, in_file
from ckptconv.core.text import plural, quoted
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, LimitError, UnsupportedError, located
from ckptconv.formats.tensors.headers import header_info
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_FILES, MAX_INDEX_BYTES, MAX_RANK, MAX_TENSORS, is_size

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckptconv.core.spelling import Json
    from ckptconv.io.source import Source

NAMES = ("tensor-cache.json", "ndarray-cache.json")
SHARD_FORMAT = "raw-shard"
RAW, HALVED = "raw", "f32-to-bf16"
DTYPES = {
    "float16": DType.F16, "bfloat16": DType.BF16, "float32": DType.F32, "float64": DType.F64,
    "float8_e4m3fn": DType.F8_E4M3, "float8_e5m2": DType.F8_E5M2, "bool": DType.BOOL, "uint1": DType.BOOL,
    "int8": DType.I8, "int16": DType.I16, "int32": DType.I32, "int64": DType.I64,
    "uint8": DType.U8, "uint16": DType.U16, "uint32": DType.U32, "uint64": DType.U64,
}  # fmt: skip
_NEAR = 1 << 16


def bad(what: str) -> CorruptFileError:
    """The error for a document that contradicts the format."""
    return CorruptFileError(f"the MLC parameters are invalid: {what}", hint=COPY_ALL_AGAIN)


class _Widened:
    """Reads ranges of a float32 tensor that is stored as its upper two bytes."""

    def __init__(self, stored: LazyTensor) -> None:
        self._stored = stored
        self.light = stored.light

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        first, last = start // 4, -(-stop // 4)
        words = np.frombuffer(self._stored.read(2 * first, 2 * last), "<u2").astype("<u4") << 16
        return memoryview(words.astype("<u4").tobytes())[start - 4 * first : stop - 4 * first]


@dataclass(frozen=True, slots=True)
class _Shard:
    """A file of elements, how many bytes it should have, and its records."""

    file: str
    nbytes: int
    records: list[Json]


def claims(source: Source | Folder) -> bool:
    """Whether it is such a document, or a folder with one."""
    if isinstance(source, Folder):
        name = _document_in(source)
        return name is not None and claims(source.open(name))
    if source.size < 2 or bytes(source.read_at(0, 1)) != b"{":
        return False
    start = bytes(source.read_at(0, min(_NEAR, source.size)))
    return all(key in start for key in (b'"records"', b'"dataPath"', b'"byteOffset"'))


def read(source: Source | Folder) -> Checkpoint:
    """Open the parameters: read the document, and look at the size of each file.

    Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError.
    """
    if not isinstance(source, Folder):
        return _read(Folder.around(source), source)
    name = _document_in(source)
    if name is None:
        raise UnsupportedError(f"there is no {NAMES[0]} or {NAMES[1]} in it", hint="name a file in it")
    document = source.open(name)
    with located(document.path):
        return _read(source, document)


def _document_in(folder: Folder) -> str | None:
    return next((name for name in NAMES if name in folder.names), None)


def _read(folder: Folder, document: Source) -> Checkpoint:
    entries = strict_json.object_of(bytes(document.read_all(MAX_INDEX_BYTES)), "this file", hint=COPY_ALL_AGAIN)
    records = entries.pop("records", None)
    if not isinstance(records, list):
        raise bad("it has no list of records")
    if len(records) > MAX_FILES:
        raise LimitError(f"it names {len(records):,} files; the limit is {MAX_FILES:,}")
    shards = [_parse_shard(record) for record in records]
    if sum(len(shard.records) for shard in shards) > MAX_TENSORS:
        raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
    opened = _open(folder, document, shards)
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        for record in shard.records:
            _add_tensor(tensors, record, opened[shard.file])
    if not tensors:
        raise bad("it has no tensors")
    return Checkpoint(tensors, root=_root(entries), format="mlc", notes=Notes(source="mlc"), file=folder)


def _parse_shard(record: Json) -> _Shard:
    if not isinstance(record, dict) or not isinstance(file := record.get("dataPath"), str):
        raise bad("a record has no dataPath")
    if (form := record.get("format")) != SHARD_FORMAT:
        raise UnsupportedError(
            f"{file!r} has the format {form!r}, which TVM 0.27 does not know",
            hint="the file is damaged, or newer than this ckptconv",
        )
    nbytes, inner = record.get("nbytes"), record.get("records")
    if not is_size(nbytes) or not isinstance(inner, list):
        raise bad(f"{file!r} has no size, or no records")
    return _Shard(file, nbytes, inner)


def _open(folder: Folder, document: Source, shards: list[_Shard]) -> dict[str, Source]:
    opened, missing = folder.open_all(dict.fromkeys(shard.file for shard in shards))
    if missing:
        raise CorruptFileError(
            f"{plural(len(missing), 'file')} of its parameters missing: {quoted(missing, 6)}", path=document.path,
            hint="copy the whole folder, with its params_shard_….bin",
        )  # fmt: skip
    for shard in shards:
        if (size := opened[shard.file].size) != shard.nbytes:
            raise CorruptFileError(
                f"it has {size:,} bytes, and {document.path.name!r} says {shard.nbytes:,}",
                path=opened[shard.file].path, hint=COPY_ALL_AGAIN,
            )  # fmt: skip
    return opened


def _add_tensor(tensors: dict[str, LazyTensor], record: Json, file: Source) -> None:
    if not isinstance(record, dict) or not isinstance(name := record.get("name"), str):
        raise bad("a tensor has no name")
    if name in tensors:
        raise bad(f"the tensor {name!r} comes twice")
    shape, dtype, form = record.get("shape"), record.get("dtype"), record.get("format")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not isinstance(dtype, str):
        raise bad(f"{name!r} has no shape or no type")
    sizes = [size for size in shape if is_size(size)]
    if len(sizes) != len(shape):
        raise bad(f"the shape of {name!r} is not a list of sizes")
    if form not in (RAW, HALVED):
        raise UnsupportedError(
            f"{name!r} has the format {form!r}, which TVM 0.27 does not know",
            hint="the file is damaged, or newer than this ckptconv",
        )
    info = header_info(repr(name), dtype, sizes, dtypes=DTYPES, library="TVM 0.27", bad=bad)
    halved = form == HALVED and info.dtype is DType.F32
    stored = TensorInfo.of(DType.BF16, info.shape) if halved else info
    start, nbytes = record.get("byteOffset"), record.get("nbytes")
    if not is_size(start) or nbytes != stored.nbytes or start + stored.nbytes > file.size:
        raise bad(f"{name!r} is not where it should be in {file.path.name!r}, or has another size")
    tensor = in_file(stored, ByteSpan(file, start, stored.nbytes), (id(file), name))
    tensors[name] = LazyTensor(info, _Widened(tensor), depends=depends_of([tensor])) if halved else tensor


def _root(entries: dict[str, Json]) -> MetaNode:
    """The metadata: what MLC-LLM counted, such as BitsPerParam, and any other entry."""
    counted = entries.pop("metadata", None)
    found: dict[Hashable, MetaNode] = {**counted} if isinstance(counted, dict) else {}
    if counted is not None and not isinstance(counted, dict):
        found["metadata"] = counted
    for key, value in entries.items():
        found[free_key(key, found)] = value
    if not found:
        return StateDict()
    strict_json.check_depth(found, "its metadata")
    return {**found, free_key("state_dict", found): StateDict(container="dict")}
