"""The ``.metadata`` pickle: which tensors and values there are, and where each part of them is.

torch reads it with `pickle.load`, which does whatever it says. Here our own machine runs it, with our stand-ins for the
classes of torch.distributed.checkpoint, and a pickle that calls anything else is refused.

Sources: torch/distributed/checkpoint/metadata.py, filesystem.py, planner.py; before torch 2.3 the properties' class was
that of torch/distributed/_shard/sharded_tensor/metadata.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.metadata import RUNS, TorchValue
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, LimitError, UnsafeError, UnsupportedError
from ckptconv.formats.torch.dtypes import DTYPE_BY_NAME
from ckptconv.formats.torch.pickle import Budget, Global, Machine, Value
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.io.limits import MAX_DEPTH, MAX_RANK, MAX_TENSORS, is_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.dtypes import DType

METADATA, FILESYSTEM = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
_PLANNER = "torch.distributed.checkpoint.planner"
_BEFORE = "torch.distributed._shard.sharded_tensor.metadata"


Step = str | int
"""A dict key, or a list index."""


@dataclass(slots=True, eq=False)
class Instance:
    """An object of a known class: the class's name, and the object's state."""

    kind: str
    state: Value = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob is: a plain file name, and a range of bytes."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a tensor.

    begin:  the index of its first element in the tensor.
    size:   its shape.
    place:  its blob; None if it has no elements.
    stored: its shape in the blob, if that has an additional dimension of 1.
    """

    begin: tuple[int, ...]
    size: tuple[int, ...]
    place: Place | None
    stored: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor, or if `dtype` is None a value. Like the chunks, `shape` counts torch's elements, not logical ones.

    name: the flat name.
    path: the path in the nested state_dict.
    """

    name: str
    path: tuple[Step, ...]
    chunks: tuple[Chunk, ...]
    dtype: DType | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """The parsed pickle: the entries in order, our record if there is one, and the names that it mentions."""

    entries: list[Entry]
    record: str | None
    globals: Mapping[Global, bool]


def _instance(kind: str) -> Callable[..., Value]:
    return lambda *args: NotImplemented if args else Instance(kind)


_CLASSES = {
    **{Global(METADATA, kind): _instance(kind) for kind in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
        "MetadataIndex", "StorageMeta",
    )},
    # Megatron also stores its plan for writing, which repeats what the rest says.
    **{Global(_PLANNER, kind): _instance(kind) for kind in (
        "SavePlan", "WriteItem", "TensorWriteData", "BytesIOWriteData",
    )},
    Global(_PLANNER, "WriteItemType"): lambda number: number,
    Global(FILESYSTEM, "_StorageInfo"): _instance("_StorageInfo"),
    Global(_BEFORE, "TensorProperties"): _instance("TensorProperties"),
    Global(METADATA, "_MEM_FORMAT_ENCODING"): lambda number: number,  # the memory format does not matter
    Global(_BEFORE, "MEM_FORMAT_ENCODING"): lambda number: number,
}  # fmt: skip


class _Constructors(TorchConstructors):
    def constructor(self, name: Global) -> Callable[..., Value] | None:
        return _CLASSES.get(name) or super().constructor(name)

    def build(self, instance: Value, state: Value) -> bool:
        if not isinstance(instance, Instance):
            return super().build(instance, state)
        instance.state = state
        return True


def parse(data: bytes) -> Listing:
    """Run the pickle and check its contents, but not the files. Raises CorruptFileError, UnsafeError, LimitError."""
    machine = Machine(data, _Constructors())
    value = machine.run()
    if calls := [obj.name for obj in machine.unbuilt if obj.how in RUNS]:
        raise UnsafeError(
            f"loading this checkpoint with torch would run code: .metadata calls {calls[0][:200]!r}",
            hint="do not load it; it is not what torch.distributed.checkpoint writes",
        )
    state = _state(value, "Metadata")
    record = state.get("ckptconv")
    entries = _Parser(state, Budget(len(data))).entries()
    return Listing(entries, record if isinstance(record, str) else None, machine.globals)


class _Parser:
    """Turns the pickle's objects into entries. It drops each object on the way, because they take more memory."""

    def __init__(self, state: dict[str, Value], budget: Budget) -> None:
        self._budget = budget
        self._kinds = _dict(state.get("state_dict_metadata"), "state_dict_metadata")
        planner = state.get("planner_data")
        self._paths = planner if isinstance(planner, dict) else {}
        self._places: dict[tuple[str, tuple[int, ...] | None], Place] = {}
        places = _dict(state.get("storage_data"), "storage_data")
        while places:
            index, info = places.popitem()
            self._add_place(_state(index, "MetadataIndex"), _state(info, "_StorageInfo"))

    def _add_place(self, index: dict[str, Value], info: dict[str, Value]) -> None:
        name, offset = index.get("fqn"), index.get("offset")
        file, start, length = info.get("relative_path"), info.get("offset"), info.get("length")
        if type(name) is not str or type(file) is not str:
            raise malformed("a blob's name or file is not a string")
        if not (is_size(start) and is_size(length)):
            raise malformed(f"the blob of {name!r} is at {start!r:.40}, {length!r:.40} bytes long")
        if how := info.get("transform_descriptors"):
            raise UnsupportedError(
                f"{name!r} is stored through an extension ({how!r:.80}), which is not undone here",
                hint="load it with torch and that extension, and save it without",
            )
        key = name, None if offset is None else _sizes(name, offset)
        place = Place(file, start, length)
        if self._places.setdefault(key, place) != place:
            raise malformed(f"the chunk of {name!r} at {key[1]} is in two places")

    def entries(self) -> list[Entry]:
        if len(self._kinds) > MAX_TENSORS:
            raise LimitError(f"it has more than {MAX_TENSORS:,} entries")
        return [self._entry(name, self._kinds.pop(name)) for name in list(self._kinds)]

    def _entry(self, name: Value, kind: Value) -> Entry:
        if type(name) is not str or not isinstance(kind, Instance):
            raise malformed("state_dict_metadata holds something else than names and their storage")
        path = self._path(name)
        if kind.kind == "BytesStorageMetadata":
            return Entry(name, path, (Chunk((), (), self._place(name, None)),))
        state = _state(kind, "TensorStorageMetadata")
        shape = _sizes(name, state.get("size"))
        chunks = state.get("chunks")
        if not isinstance(chunks, list):
            raise malformed(f"{name!r} has no list of chunks")
        self._budget.take(len(chunks))
        return Entry(name, path, tuple(self._chunk(name, chunk) for chunk in chunks), _dtype(name, state), shape)

    def _chunk(self, name: str, chunk: Value) -> Chunk:
        state = _state(chunk, "ChunkStorageMetadata")
        begin, size = _sizes(name, state.get("offsets")), _sizes(name, state.get("sizes"))
        return Chunk(begin, size, None if 0 in size else self._place(name, begin))

    def _place(self, name: str, begin: tuple[int, ...] | None) -> Place:
        place = self._places.get((name, begin))
        if place is None:
            where = "" if begin is None else f" at {list(begin)}"
            raise malformed(f"{name!r}{where} is in no file")
        return place

    def _path(self, name: str) -> tuple[Step, ...]:
        path = self._paths.get(name, (name,))
        if not isinstance(path, (tuple, list)) or not path or len(path) > MAX_DEPTH:
            raise malformed(f"the path of {name!r} is none")
        if type(path[0]) is not str or any(
            type(step) is not str and (type(step) is not int or step < 0) for step in path
        ):
            raise malformed(f"the path of {name!r} has a step that is not a key and no place in a list")
        return tuple(path)


def _dtype(name: str, state: dict[str, Value]) -> DType:
    properties = state.get("properties")
    fields = properties.state if isinstance(properties, Instance) and properties.kind == "TensorProperties" else None
    if not isinstance(fields, tuple) or len(fields) < 2:
        raise malformed(f"the properties of {name!r} are none")
    dtype, layout = fields[:2]
    if not isinstance(dtype, TorchValue) or dtype.kind != "dtype":
        raise malformed(f"the element type of {name!r} is none")
    if layout != TorchValue("layout", "strided"):
        raise UnsupportedError(f"{name!r} has the layout {layout!r:.40}", hint="save it as a plain, dense tensor")
    known = DTYPE_BY_NAME.get(dtype.name)
    if known is None:
        raise UnsupportedError(f"{name!r} has the element type {dtype!r}", hint="save it as a plain, dense tensor")
    return known


def _state(value: Value, kind: str) -> dict[str, Value]:
    if not isinstance(value, Instance) or value.kind != kind or not isinstance(value.state, dict):
        raise malformed(f"it has something else where a {kind} belongs")
    return value.state


def _dict(value: Value, name: str) -> dict[Value, Value]:
    if not isinstance(value, dict):
        raise malformed(f"its {name} is not a dict")
    return value


def _sizes(name: str, values: Value) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_RANK:
        raise malformed(f"a size or an offset of {name!r} is none")
    if not all(map(is_size, values)):
        raise malformed(f"a size or an offset of {name!r} is out of range")
    return tuple(values)


def malformed(what: str) -> CorruptFileError:
    """The error for a malformed ``.metadata``."""
    return CorruptFileError(f".metadata is malformed: {what}", hint=COPY_ALL_AGAIN)
