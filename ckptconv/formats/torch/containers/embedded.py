"""What libraries keep of torch within their pickle: bytes that are a file of their own.

skorch's nets:

    NeuralNet              an object whose state has, beside its settings,
      __cuda_dependent_attributes__   bytes: a dict of module_, criterion_, optimizer_, …, as pickle.dump wrote it, or
                                      torch.save's archive (skorch before 1.1)

On loading it puts that dict into its state, and so does this: `module_` is the module that was fitted. Long runs of
bytes stay in the file, and the pickle in it counts as any other does.

And d3rlpy's learners, or anybody's dict:

    {"torch": bytes, "config": …}   torch.save's archive, or a pickle with tensors or arrays in it

Where the pickle has no tensor besides, what such bytes hold stands in their place, which is told.

Sources: skorch/net.py (`__getstate__`, `__setstate__`); d3rlpy/algos/qlearning/base.py (`save`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CkptconvError
from ckptconv.formats.torch.containers.saved import open_saved, root_of
from ckptconv.formats.torch.pickle import Elided, Machine, PickleStream, Thing, Value
from ckptconv.formats.torch.tree.placing import Places
from ckptconv.formats.torch.values.stubs import TensorStub
from ckptconv.io.held import Held
from ckptconv.io.window import Window
from ckptconv.io.zip import LOCAL_MAGIC, ZipArchive

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.tree.placing import Place

KEY = "__cuda_dependent_attributes__"

MOST_FILES = 8
"""Files in one dict that are looked into: what is compressed in one may be large."""


@dataclass(slots=True)
class Embedded:
    """The files that were found.

    machines: those of their pickles, each with the names that are no news in it. size: bytes of these.
    findings: what is to be told of them.
    """

    machines: list[tuple[Machine, Collection[str]]] = field(default_factory=list)
    size: int = 0
    findings: list[Finding] = field(default_factory=list)
    _places: Places = field(default_factory=Places)

    def place(self, otherwise: Place) -> Place:
        """What places the tensors of these files, and `otherwise` all others."""

        def placed(name: str, stub: TensorStub) -> LazyTensor:
            known = self._places.found.get(id(stub.storage))
            return known[1](name, stub) if known is not None else otherwise(name, stub)

        return placed if self.machines else otherwise

    def open(self, value: bytes) -> Value:
        """What is in one of them; the bytes themselves where they are nothing of this. Raises as its reader does."""
        span = _span_of(value)
        start = bytes(span.file.read_at(span.offset, min(len(LOCAL_MAGIC), span.length)))
        if start == LOCAL_MAGIC:
            saved = open_saved(ZipArchive(Window(span.file, span.offset, span.length)))
            self._add(saved.machine, (), saved.size)
            self._places.add(saved.storages, saved.placer.place)
            return saved.value
        if start[:1] != b"\x80":
            return value
        from ckptconv.formats.torch.containers.pickled import follow  # hardly a file has one

        stream = PickleStream(span.file, span.offset, span.offset + span.length)
        data, elided = stream.elided()
        if stream.left:
            return value
        found, machine, makers = follow(data, elided)
        self._add(machine, makers.answered, len(data))
        self._places.add(makers.storages.values(), makers.place)
        return found

    def take(self, other: Embedded) -> None:
        """Those that another one found as well."""
        self.machines += other.machines
        self.size += other.size
        self._places.found.update(other._places.found)

    def _add(self, machine: Machine, answered: Collection[str], size: int) -> None:
        self.machines.append((machine, answered))
        self.size += size


def unfold_embedded(value: Value, machine: Machine) -> Embedded:
    """Put what such files hold into the objects around them, in the value that a pickle's `machine` left.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    found = Embedded()
    if isinstance(value, dict):
        _unfold_entries(value, found)
    if not any(f"{name.module}.".startswith("skorch.") for name in machine.globals):
        return found
    for thing in list(_nets(value)):
        inner = found.open(thing.state[KEY])
        if isinstance(inner, dict) and all(type(key) is str for key in inner):
            thing.state.pop(KEY)
            thing.state.update(inner)
    return found


def _unfold_entries(root: dict[Value, Value], found: Embedded) -> None:
    """Put what bytes hold in their place, where they are a file with tensors and nothing else has any."""
    starts = {key: data for key, data in root.items() if isinstance(data, bytes) and _is_file(data)}
    if not 0 < len(starts) <= MOST_FILES or next(_tensors(root), None) is not None:
        return
    for key, data in starts.items():
        one = Embedded()
        with suppress(CkptconvError):  # no such file after all; those who ask what would run look again
            inner = one.open(data)
            if next(_tensors(inner), None) is not None:
                root[key] = inner
                found.take(one)
                message = (
                    f"the bytes at {key!r} are a file of their own: its tensors are read, a .pth gets a dict of it"
                )
                found.findings.append(Finding("embedded", "info", str(key), message))


def _is_file(data: bytes) -> bool:
    """Whether bytes start as an archive of torch.save's, or as a pickle."""
    span = _span_of(data)
    start = bytes(span.file.read_at(span.offset, min(len(LOCAL_MAGIC), span.length)))
    if start[:1] == b"\x80":
        return True
    if start != LOCAL_MAGIC:
        return False
    with suppress(CkptconvError):
        archive = ZipArchive(Window(span.file, span.offset, span.length))
        root = root_of(archive)
        return root is not None and root + "constants.pkl" not in archive.entries  # which TorchScript has
    return False


def _span_of(data: bytes) -> ByteSpan:
    return data.span if isinstance(data, Elided) else ByteSpan(Held(bytes(data)), 0, len(data))


def _tensors(value: Value) -> Iterator[TensorStub]:
    """The tensors in plain containers and in the states of objects."""
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, TensorStub):
            yield one
        if id(one) in seen:
            continue
        seen.add(id(one))
        match one:
            case Thing():
                waiting += [one.state, *one.args, *one.kwargs.values(), *one.items, *(item for _, item in one.pairs)]
            case dict():
                waiting.extend(one.values())
            case list() | tuple():
                waiting.extend(one)


def _nets(value: Value) -> Iterator[Thing]:
    """The objects with such bytes in their state, each once."""
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        match one:
            case Thing(state=state):
                if isinstance(state, dict) and isinstance(state.get(KEY), bytes):
                    yield one
                waiting.append(state)
            case dict():
                waiting.extend(one.values())
            case list() | tuple():
                waiting.extend(one)
