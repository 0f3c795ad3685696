"""Reader for the stacked-pickle format, which torch.save wrote before 1.6, and still writes when asked to.

    pickle      the number 0x1950a86a20f9469cfc6c
    pickle      the protocol version, 1001
    pickle      {"protocol_version", "little_endian", "type_sizes"}
    pickle      the object; its tensors refer to storages by key
    pickle      the list of storage keys, in the order of the storages that follow
    for each key:
      8 bytes   i64 little-endian: number of elements
      rest      the elements, always little-endian

The object's persistent ids are ``("module", class, source file, source)``, which stands for the class, and
``("storage", class, key, device, elements, view)``. `view` is None or ``(key, first element, elements)``, which is a
part of that storage with a key of its own. Source: torch/serialization.py (`_legacy_save`, `_legacy_load`),
torch/csrc/serialization.cpp (`THPStorage_writeFileRaw`).

A big-endian machine says so in ``little_endian``, but swaps the elements before it writes them, so that they need no
swapping here. Older releases did not swap the number of elements, which is then read as big-endian.

Refused: a storage that the pickle has and the list lacks (torch leaves its memory uninitialised), or the other way
round, or that is listed twice; sizes that differ. A file may hold several such files one after another: the first is
read, and the pickles right after it are run for what they would call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.torch.containers import polyglot
from ckptconv.formats.torch.pickle import Budget, Global, Machine, PickleStream
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import build_tree
from ckptconv.formats.torch.tree.names import is_known
from ckptconv.formats.torch.tree.placing import Placer, StorageSlice
from ckptconv.formats.torch.values.construct import TorchConstructors

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import SpanFile
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.formats.torch.values.stubs import StorageStub
    from ckptconv.io.source import Source

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

_MAGIC_BYTES = b"\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little") + b"."
STARTS = (
    b"\x80\x02" + _MAGIC_BYTES,
    b"\x80\x03" + _MAGIC_BYTES,
    b"\x80\x04\x95\x0d" + bytes(7) + _MAGIC_BYTES,
    b"\x80\x05\x95\x0d" + bytes(7) + _MAGIC_BYTES,
    f"L{MAGIC_NUMBER}L\n.".encode(),
)
"""The first pickle, in each protocol."""

MAX_SMALL = 1 << 16
"""Bytes of a pickle that holds a few numbers."""


def claims(source: Source) -> bool:
    """Whether the file starts with torch's number."""
    start = bytes(source.read_at(0, min(source.size, max(map(len, STARTS)))))
    return start.startswith(STARTS)


def read(source: Source) -> Checkpoint:
    """Open the file. Reads its pickles and the element counts before the storages, but no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model depends on a call).
    """
    polyglot.refuse_tar(source)
    stream = PickleStream(source, 0, source.size)
    stack = follow(stream, source)
    polyglot.refuse_zip(source, stream)
    budget, findings = Budget(stack.size), trailing(stream)
    return assemble(
        build_tree(stack.value, budget),
        Placer(stack.storages).place,
        budget,
        format="torch-legacy",
        machines=[*stack.machines, *polyglot.following(stream, LegacyConstructors)],
        file=source,
        findings=findings,
    )


@dataclass(frozen=True, slots=True)
class Stack:
    """A parsed file.

    value:    the object.
    machines: the object's interpreter, and those of other pickles that are not plain (`read_plain`).
    storages: where the storages are.
    size:     bytes of the object's pickle.
    """

    value: Value
    machines: list[Machine]
    storages: Spans
    size: int


def follow(stream: PickleStream, file: SpanFile) -> Stack:
    """Parse the pickles, and skip the storages, from the stream's position in `file` on. Raises what `read` raises."""
    odd: list[Machine] = []
    if read_plain(stream.pickle(MAX_SMALL), odd) != MAGIC_NUMBER:
        raise CorruptFileError("the file does not start with torch's number")
    version = read_plain(stream.pickle(MAX_SMALL), odd)
    if version != PROTOCOL_VERSION:
        raise UnsupportedError(
            f"the file's protocol version is {str(version)[:40]}, and {PROTOCOL_VERSION} is known",
            hint="torch.save it again with a release of torch that reads it",
        )
    system = read_plain(stream.pickle(MAX_SMALL), odd)
    constructors = LegacyConstructors()
    data = stream.pickle()
    machine = Machine(data, constructors)
    value = machine.run()
    big = isinstance(system, dict) and system.get("little_endian") is False
    storages = _storages(read_plain(stream.pickle(), odd), constructors.storages, stream, file, big_counts=big)
    return Stack(value, [machine, *odd], storages, len(data))


def read_plain(data: bytes, odd: list[Machine]) -> Value:
    """The value of a pickle that should be plain. If it names more than a torch class, or calls anything, its
    interpreter is added to `odd`, because loading the file makes that call too. Raises CorruptFileError if it is
    malformed.
    """
    machine = Machine(data, TorchConstructors())
    value = machine.run()
    if not all(map(is_known, machine.globals)) or machine.unbuilt:
        odd.append(machine)
    return value


def trailing(stream: PickleStream, last: str = "storage") -> tuple[Finding, ...]:
    """A warning if the file goes on after the last storage or opcode."""
    if not stream.left:
        return ()
    message = f"{stream.left:,} bytes follow the last {last} and are not read"
    return (Finding("trailing", "warning", "", message),)


@dataclass(slots=True)
class LegacyConstructors(TorchConstructors):
    """What the object's pickle may build; `slices` are the parts of storages, by their own keys."""

    slices: dict[str, StorageSlice] = field(default_factory=dict)

    def persistent(self, identifier: Value) -> Value:
        match identifier:
            case ("module", Global() as cls, str() | None, str() | None):  # torch compares the sources, we need not
                return cls
            case ("storage", _, _, _, _, None):
                return TorchConstructors.persistent(self, identifier[:5])
            case ("storage", _, _, _, _, (str() as key, int() as start, int() as numel)):
                return self._slice(TorchConstructors.persistent(self, identifier[:5]), key, start, numel)
            case _:
                raise CorruptFileError("a persistent id in the pickle names neither a storage nor a module")

    def _slice(self, root: StorageStub, key: str, start: int, numel: int) -> StorageSlice:
        part = StorageSlice(key, root.dtype, root.device, numel, root, start)
        known = self.slices.setdefault(key, part)
        if known != part or numel < 0:
            raise CorruptFileError(f"the pickle describes the part {key!r} of a storage in two ways")
        return known


@dataclass(frozen=True, slots=True)
class Spans:
    """The `Records` of a file with storages one after another."""

    identity: Hashable
    spans: dict[str, ByteSpan]

    def span(self, key: str) -> ByteSpan:
        if key not in self.spans:
            raise CorruptFileError(f"its storage {key!r} is not in the file")
        return self.spans[key]


def _storages(
    keys: Value, known: dict[str, StorageStub], stream: PickleStream, file: SpanFile, *, big_counts: bool
) -> Spans:
    """Where each storage is, by its element count and its type in the pickle."""
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise CorruptFileError("the list of storages is none")
    listed = set(keys)
    if len(listed) != len(keys):
        raise CorruptFileError("the list of storages names one of them twice")
    if missing := [key for key in known if key not in listed]:
        raise CorruptFileError(
            f"the list of storages lacks {missing[0]!r}, which the pickle has", hint="do not trust it"
        )
    spans = {}
    for key in keys:
        if key not in known:
            raise CorruptFileError(f"the list of storages has {key!r}, which the pickle lacks")
        try:
            spans[key] = _storage_span(stream, file, known[key], big_count=big_counts)
        except CkptconvError as error:
            error.message = f"storage {key!r}: {error.message}"
            error.args = (error.message,)
            raise
    return Spans(id(file), spans)


def _storage_span(stream: PickleStream, file: SpanFile, stub: StorageStub, *, big_count: bool) -> ByteSpan:
    """Skip a storage: a count of elements, which must be the pickle's, and the elements."""
    raw = stream.take(8)
    numel = int.from_bytes(raw, "little")
    if numel != stub.numel and big_count:
        numel = int.from_bytes(raw, "big")
    if numel != stub.numel:
        raise CorruptFileError(f"it has {numel:,} elements, and the pickle says {stub.numel:,}")
    nbytes = numel * (stub.dtype.bits // 8 if stub.dtype else 1)
    return ByteSpan(file, stream.skip(nbytes), nbytes)
