"""Files inside a pickle: bytes objects that are a torch.save archive or another pickle.

skorch's nets:

    NeuralNet              an object whose state has, beside its settings,
      __cuda_dependent_attributes__   bytes: a dict of module_, criterion_, optimizer_, …, written by pickle.dump, or by
                                      torch.save (skorch before 1.1)

skorch puts that dict into the object's state when it loads it, and so does this: `module_` is the fitted module. Long
runs of bytes stay in the file, and the inner pickle is judged like any other.

d3rlpy's learners, and any other dict like

    {"torch": bytes, "config": …}   a torch.save archive, or a pickle with tensors or arrays in it

If the pickle has no other tensor, the contents of such bytes take their place, and a finding says so.

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
from ckptconv.formats.torch.pickle import Elided, Machine, PickleStream, UnbuiltObject, Value
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

MAX_FILES = 8
"""Files in one dict that are opened: each may expand to a large size."""


@dataclass(slots=True)
class Embedded:
    """The embedded files that were opened.

    machines: the interpreters of their pickles, each with the names in it that need not be reported.
    size:     bytes of these pickles.
    findings: one for each file that took the place of its bytes.
    """

    machines: list[tuple[Machine, Collection[str]]] = field(default_factory=list)
    size: int = 0
    findings: list[Finding] = field(default_factory=list)
    _places: Places = field(default_factory=Places)

    def place(self, otherwise: Place) -> Place:
        """A function that places the tensors of these files, and leaves all others to `otherwise`."""

        def placed(name: str, stub: TensorStub) -> LazyTensor:
            known = self._places.found.get(id(stub.storage))
            return known[1](name, stub) if known is not None else otherwise(name, stub)

        return placed if self.machines else otherwise

    def open(self, value: bytes) -> Value:
        """The object in an embedded file; the bytes themselves if they are no such file. Raises as its reader does."""
        span = _span_of(value)
        start = bytes(span.file.read_at(span.offset, min(len(LOCAL_MAGIC), span.length)))
        if start == LOCAL_MAGIC:
            saved = open_saved(ZipArchive(Window(span.file, span.offset, span.length)))
            self._add(saved.machine, (), saved.size)
            self._places.add(saved.storages, saved.placer.place)
            return saved.value
        if start[:1] != b"\x80":
            return value
        from ckptconv.formats.torch.containers.pickled import follow  # rarely needed

        stream = PickleStream(span.file, span.offset, span.offset + span.length)
        data, elided = stream.elided()
        if stream.left:
            return value
        inner, machine, constructors = follow(data, elided)
        self._add(machine, constructors.answered, len(data))
        self._places.add(constructors.storages.values(), constructors.place)
        return inner

    def merge(self, other: Embedded) -> None:
        """Add the files that `other` has opened."""
        self.machines += other.machines
        self.size += other.size
        self._places.found.update(other._places.found)

    def _add(self, machine: Machine, answered: Collection[str], size: int) -> None:
        self.machines.append((machine, answered))
        self.size += size


def unfold_embedded(value: Value, machine: Machine) -> Embedded:
    """Replace embedded files by their contents, in the value that a pickle's `machine` has built.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    found = Embedded()
    if isinstance(value, dict):
        _unfold_entries(value, found)
    if not any(f"{name.module}.".startswith("skorch.") for name in machine.globals):
        return found
    for obj in list(_nets(value)):
        inner = found.open(obj.state[KEY])
        if isinstance(inner, dict) and all(type(key) is str for key in inner):
            obj.state.pop(KEY)
            obj.state.update(inner)
    return found


def _unfold_entries(root: dict[Value, Value], found: Embedded) -> None:
    """Replace files among a dict's values by their contents, if these have tensors and the rest of it has none."""
    files = {key: data for key, data in root.items() if isinstance(data, bytes) and _is_file(data)}
    if not 0 < len(files) <= MAX_FILES or next(_tensors(root), None) is not None:
        return
    for key, data in files.items():
        file = Embedded()
        with suppress(CkptconvError):  # not such a file after all; `inspect` examines the bytes again
            inner = file.open(data)
            if next(_tensors(inner), None) is not None:
                root[key] = inner
                found.merge(file)
                message = (
                    f"the bytes at {key!r} are a file of their own: its tensors are read, a .pth gets a dict of it"
                )
                found.findings.append(Finding("embedded", "info", str(key), message))


def _is_file(data: bytes) -> bool:
    """Whether bytes are a torch.save archive, or start like a pickle."""
    span = _span_of(data)
    start = bytes(span.file.read_at(span.offset, min(len(LOCAL_MAGIC), span.length)))
    if start[:1] == b"\x80":
        return True
    if start != LOCAL_MAGIC:
        return False
    with suppress(CkptconvError):
        archive = ZipArchive(Window(span.file, span.offset, span.length))
        root = root_of(archive)
        return root is not None and root + "constants.pkl" not in archive.entries  # it would be TorchScript
    return False


def _span_of(data: bytes) -> ByteSpan:
    return data.span if isinstance(data, Elided) else ByteSpan(Held(bytes(data)), 0, len(data))


def _tensors(value: Value) -> Iterator[TensorStub]:
    """The tensors in plain containers and in the states of objects."""
    waiting, seen = [value], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, TensorStub):
            yield value
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case UnbuiltObject():
                waiting += [
                    value.state,
                    *value.args,
                    *value.kwargs.values(),
                    *value.items,
                    *(item for _, item in value.pairs),
                ]
            case dict():
                waiting.extend(value.values())
            case list() | tuple():
                waiting.extend(value)


def _nets(value: Value) -> Iterator[UnbuiltObject]:
    """The objects with an embedded file in their state, each once."""
    waiting, seen = [value], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case UnbuiltObject(state=state):
                if isinstance(state, dict) and isinstance(state.get(KEY), bytes):
                    yield value
                waiting.append(state)
            case dict():
                waiting.extend(value.values())
            case list() | tuple():
                waiting.extend(value)
