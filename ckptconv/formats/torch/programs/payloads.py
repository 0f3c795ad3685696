"""The JSON files of a torch.export archive: which tensor is in which entry, and the graph.

    {"config": {NAME: {
        "path_name":   the entry, in the configuration's folder
        "is_param":    bool
        "use_pickle":  bool; if true, the entry is a pickle instead of a storage
        "tensor_meta": {"dtype": 7, "sizes": [{"as_int": 2}…], "strides": [{"as_int": 1}…],
                        "storage_offset": {"as_int": 0}, "requires_grad": bool,
                        "device": {"type": "cpu", "index": null}, "layout": 7} or null
    }}}

Sizes, strides and the offset count elements of the storage, which several names may share. Source:
torch/_export/serde/schema.py (`PayloadMeta`, `TensorMeta`, `ScalarType`, `Layout`), whose numbers are not those of
torch's own ScalarType.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.errors import COPY_AGAIN, CorruptFileError, UnsupportedError
from ckptconv.formats.torch.dtypes import DTYPE_BY_NAME
from ckptconv.formats.torch.programs import graph_code
from ckptconv.formats.torch.values.stubs import StorageStub, TensorStub, exact_flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.notes import Program
    from ckptconv.io.zip import ZipArchive

MAX_JSON_BYTES = 1 << 26
"""Bytes of a JSON file: 30,000 tensors take 9 MB, and Python needs about ten times that."""

DTYPES = {
    code: DTYPE_BY_NAME[name]
    for code, name in {
        1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
        9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
        29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu",
        34: "uint32", 35: "uint64",
    }.items()
}  # fmt: skip

STRIDED = 7

CUSTOM, OPAQUE = OBJECTS = ("custom_obj_", "opaque_obj_")
"""The prefixes of entries that are objects."""


@dataclass(frozen=True, slots=True)
class Payload:
    """An entry of the archive, and the tensor that views it; None if the entry is a pickle."""

    entry: str
    stub: TensorStub | None


def payloads(archive: ZipArchive, name: str, folder: str) -> dict[str, Payload]:
    """The payloads in the configuration `name`; their entries are in `folder`. Raises CorruptFileError, LimitError."""
    config = _parsed(archive, name)
    listed = config.get("config") if isinstance(config, dict) else None
    if not isinstance(listed, dict):
        raise CorruptFileError(f"{name!r} holds no configuration")
    storages: dict[str, StorageStub] = {}
    found = {}
    for tensor, payload in listed.items():
        try:
            found[tensor] = _payload(archive, payload, folder, storages)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(f"{name!r} is malformed at {tensor!r}: {error}") from error
    return found


def _payload(archive: ZipArchive, payload: Any, folder: str, storages: dict[str, StorageStub]) -> Payload:
    entry, meta = payload["path_name"], payload["tensor_meta"]
    if type(entry) is not str:
        raise TypeError("an entry's name is none")
    if exact_flag(payload["use_pickle"]):
        return Payload(entry, None)
    if entry.startswith(OBJECTS):  # torch goes by the entry's name, and would unpickle it
        raise ValueError("an object is said to be a tensor")
    if meta["layout"] != STRIDED:
        raise UnsupportedError("a sparse tensor of an export is not read", hint="export it with dense tensors")
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise UnsupportedError(f"element type {meta['dtype']!r} of an exported tensor is not known", hint="cast it")
    if folder + entry not in archive.entries:
        raise CorruptFileError(f"the archive has no {folder + entry!r}")
    nbytes = archive.entries[folder + entry].size
    if nbytes % max(1, dtype.bits // 8):
        raise ValueError(f"its entry has {nbytes:,} bytes, which is not a whole number of elements")
    storage = storages.setdefault(entry, StorageStub(entry, None, _device(meta["device"]), nbytes))
    sizes, strides = (tuple(_int(n) for n in meta[key]) for key in ("sizes", "strides"))
    stub = TensorStub(storage, dtype, _int(meta["storage_offset"]), sizes, strides, exact_flag(meta["requires_grad"]))
    stub.parameter = exact_flag(payload["is_param"])
    return Payload(entry, stub)


def _int(value: Any) -> int:
    number = value["as_int"]
    if type(number) is not int:
        raise TypeError("a size is not an int")
    return number


def _device(value: Any) -> str:
    kind, index = value["type"], value.get("index")
    if type(kind) is not str or not (index is None or type(index) is int):
        raise TypeError("a device is none")
    return kind if index is None or kind == "cpu" else f"{kind}:{index}"


def graph_of(archive: ZipArchive, name: str) -> MetaNode:
    """What `inspect` shows of a graph: its producer, and its operators, unless the file is too large."""
    if name in archive.entries and archive.entries[name].size > MAX_JSON_BYTES:
        return {"producer": "torch.export"}
    program = _parsed(archive, name)
    try:
        nodes = program["graph_module"]["graph"]["nodes"]
        operators = Counter(str(node["target"]).removeprefix("torch.ops.") for node in nodes)
        version = program.get("torch_version")
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"{name!r} holds no graph: {error}") from error
    producer = f"torch.export {version}" if isinstance(version, str) else "torch.export"
    return {"producer": producer, "nodes": operators.total(), "operators": dict(operators.most_common())}


def programs_of(archive: ZipArchive, name: str) -> Iterator[Program]:
    """The code in a graph that torch would run. Raises CorruptFileError."""
    if archive.entries[name].size > MAX_JSON_BYTES:
        yield graph_code.unread(name, archive.entries[name].size)
    else:
        yield from graph_code.programs_in(_parsed(archive, name), name)


def _parsed(archive: ZipArchive, name: str) -> Any:
    if name not in archive.entries:
        raise CorruptFileError(f"the archive has no {name!r}")
    return strict_json.document(archive.read(name, MAX_JSON_BYTES), repr(name), hint=COPY_AGAIN)
