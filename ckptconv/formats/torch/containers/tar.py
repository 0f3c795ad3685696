"""Reader for the tar archive that torch wrote before 0.1.12. Its members:

    sys_info    pickle: {"protocol_version": 1000, "little_endian", "type_sizes"}
    pickle      pickle: the object; storages and tensors are persistent ids, their keys in decimal digits, and the
                class of a module is ``(class, source file, source)``
    tensors     pickle: how many tensors follow; for each
      pickle    (key, key of its storage, class of the tensor)
      8 bytes   i32 number of dimensions n, and four unused bytes
      8n, 8n    i64 sizes, i64 strides, in elements
      8 bytes   i64 offset in the storage, in elements
    storages    pickle: how many storages follow; for each
      pickle    (key, device, class of the storage)
      8 bytes   i64 number of elements
      rest      the elements
    (storages)  pickle: a list of (key, key of another storage, first element, elements): parts of storages

Keys are ints; numbers and elements are little-endian. Source: torch/serialization.py (`legacy_load`).

A member is looked up by its exact name; nothing is extracted, and the names of other members are never used. The tar
layout is POSIX (pax), with GNU and base-256 sizes: for each member a header and its contents, in blocks of 512 bytes.
Refused: two members of one name, a member that is a link, a checksum that fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import unpack
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.torch import dtypes
from ckptconv.formats.torch.containers.legacy import MAX_SMALL, Spans, read_plain
from ckptconv.formats.torch.pickle import Budget, Global, Machine, PickleStream
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import build_tree
from ckptconv.formats.torch.tree.placing import Placer, StorageSlice
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.formats.torch.values.stubs import StorageStub, TensorStub
from ckptconv.io.limits import MAX_PICKLE_BYTES, MAX_RANK, MAX_TENSORS
from ckptconv.io.tar import Member, members

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.dtypes import DType
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.source import Source

Stub = StorageStub | TensorStub

NAMES = ("pickle", "tensors", "storages")


def claims(source: Source) -> bool:
    """Whether this is a tar archive with torch's members."""
    try:
        return {*NAMES} <= members(source).keys()
    except CkptconvError:
        return False


def read(source: Source) -> Checkpoint:
    """Open the archive. Reads the members' headers, the pickles, and the counts between storages, but no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model depends on a call).
    """
    found = members(source)
    if missing := [name for name in NAMES if name not in found]:
        raise UnsupportedError(
            f"this tar archive has no member {missing[0]!r}, as torch's have", hint="unpack it, and name a file in it"
        )
    odd: list[Machine] = []
    storages, spans = _storages(_stream(source, found["storages"]), source, odd)
    tensors = _tensors(_stream(source, found["tensors"]), storages, odd)
    data = _stream(source, found["pickle"]).pickle()
    machine = Machine(data, TarConstructors(objects={**storages, **tensors}))
    budget = Budget(len(data))
    tree = build_tree(machine.run(), budget)
    return assemble(tree, Placer(spans).place, budget, format="torch-tar", machines=[machine, *odd], file=source)


def _stream(source: Source, member: Member) -> PickleStream:
    return PickleStream(source, member.offset, member.offset + member.size)


@dataclass(slots=True)
class TarConstructors(TorchConstructors):
    """What the object's pickle may build; `objects` are storages and tensors by key."""

    objects: dict[int, Stub] = field(default_factory=dict)

    def persistent(self, identifier: Value) -> Value:
        match identifier:
            case (Global() as cls, str() | None, str() | None):  # torch compares the sources, we need not
                return cls
            case str() if identifier.isdecimal() and len(identifier) < 40 and int(identifier) in self.objects:
                return self.objects[int(identifier)]
            case _:
                raise CorruptFileError(
                    "a persistent id in the pickle names neither a tensor nor a storage nor a module"
                )


def _count(stream: PickleStream, odd: list[Machine]) -> int:
    count = read_plain(stream.pickle(MAX_SMALL), odd)
    if type(count) is not int or count < 0:
        raise CorruptFileError("a member does not start with a number")
    if count > MAX_TENSORS:
        raise LimitError(f"a member claims {count:,} entries")
    return count


def _storages(stream: PickleStream, source: Source, odd: list[Machine]) -> tuple[dict[int, Stub], Spans]:
    """The storages and the parts of storages by key, and where they are."""
    storages: dict[int, Stub] = {}
    spans: dict[str, ByteSpan] = {}
    for _ in range(_count(stream, odd)):
        match read_plain(stream.pickle(MAX_SMALL), odd):
            case (int() as key, str() as device, Global() as cls) if key not in storages:
                pass
            case _:
                raise CorruptFileError("the member 'storages' lists something else than storages")
        storages[key], spans[str(key)] = _storage(stream, source, key, device, cls)
    for view in _views(read_plain(stream.pickle(MAX_PICKLE_BYTES), odd)):
        match view:
            case (int() as key, int() as root, int() as start, int() as numel) if key not in storages and numel >= 0:
                whole = storages.get(root)
            case _:
                raise CorruptFileError("the member 'storages' has a malformed entry")
        if not isinstance(whole, StorageStub):
            raise CorruptFileError(f"a part of storage {root} is listed, which is not there")
        storages[key] = _part(whole, str(key), start, numel)
    return storages, Spans(id(source), spans)


def _views(listed: Value) -> list[Value]:
    if not isinstance(listed, (list, tuple)):
        raise CorruptFileError("the member 'storages' does not end with a list")
    return list(listed)


def _storage(stream: PickleStream, source: Source, key: int, device: str, cls: Global) -> tuple[StorageStub, ByteSpan]:
    """Skip a storage: a count of elements, and the elements."""
    dtype = dtypes.STORAGE_CLASSES.get(cls.name)
    if dtype is None:
        raise UnsupportedError(f"storages of class {cls} are not supported", hint="save plain tensors")
    numel = int.from_bytes(stream.take(8), "little")
    nbytes = numel * (dtype.bits // 8)
    if nbytes > stream.left:
        raise CorruptFileError(f"storage {key} has {numel:,} elements, of which {stream.left:,} bytes are there")
    return StorageStub(str(key), dtype, device, numel), ByteSpan(source, stream.skip(nbytes), nbytes)


def _part(whole: StorageStub, key: str, start: int, numel: int) -> StorageSlice:
    root = whole
    if isinstance(whole, StorageSlice):
        root, start = whole.root, whole.start + start
    if not 0 <= start <= whole.numel - numel:
        raise CorruptFileError(f"storage {key} is declared as part of another and reaches past its end")
    return StorageSlice(key, root.dtype, root.device, numel, root, start)


def _tensors(stream: PickleStream, storages: Mapping[int, Stub], odd: list[Machine]) -> dict[int, Stub]:
    """The tensors by key."""
    tensors: dict[int, Stub] = {}
    for _ in range(_count(stream, odd)):
        match read_plain(stream.pickle(MAX_SMALL), odd):
            case (int() as key, int() as root, _) if key not in tensors and key not in storages:
                storage = storages.get(root)
            case _:
                raise CorruptFileError("the member 'tensors' lists something else than tensors")
        if not isinstance(storage, StorageStub) or storage.dtype is None:
            raise CorruptFileError(f"tensor {key} lies in storage {root}, which is not there")
        tensors[key] = _tensor(stream, storage, storage.dtype)
    return tensors


def _tensor(stream: PickleStream, storage: StorageStub, dtype: DType) -> TensorStub:
    (rank,) = unpack("<i4x", stream.take(8))
    if not 0 <= rank <= MAX_RANK:
        raise CorruptFileError(f"a tensor has {rank:,} dimensions")
    numbers = unpack(f"<{2 * rank + 1}q", stream.take(8 * (2 * rank + 1)))
    return TensorStub(storage, dtype, numbers[-1], numbers[:rank], numbers[rank:-1])
