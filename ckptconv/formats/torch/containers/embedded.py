"""What skorch's nets keep of torch within their pickle: bytes that are a file of their own.

    NeuralNet              an object whose state has, beside its settings,
      __cuda_dependent_attributes__   bytes: a dict of module_, criterion_, optimizer_, …, as pickle.dump wrote it, or
                                      torch.save's archive (skorch before 1.1)

On loading it puts that dict into its state, and so does this: `module_` is the module that was fitted. Long runs of
bytes stay in the file, and the pickle in it counts as any other does.

Source: skorch/net.py (`__getstate__`, `__setstate__`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.formats.torch.containers.saved import open_saved
from ckptconv.formats.torch.pickle import Elided, Machine, PickleStream, Thing, Value
from ckptconv.formats.torch.tree.placing import Places
from ckptconv.io.held import Held
from ckptconv.io.window import Window
from ckptconv.io.zip import LOCAL_MAGIC, ZipArchive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.tree.placing import Place
    from ckptconv.formats.torch.values.stubs import TensorStub

KEY = "__cuda_dependent_attributes__"


@dataclass(slots=True)
class Embedded:
    """The files that were found.

    machines: those of their pickles. size: bytes of these.
    """

    machines: list[Machine] = field(default_factory=list)
    size: int = 0
    _places: Places = field(default_factory=Places)

    def place(self, otherwise: Place) -> Place:
        """What places the tensors of these files, and `otherwise` all others."""

        def placed(name: str, stub: TensorStub) -> LazyTensor:
            known = self._places.found.get(id(stub.storage))
            return known[1](name, stub) if known is not None else otherwise(name, stub)

        return placed if self.machines else otherwise

    def open(self, value: bytes) -> Value:
        """What is in one of them; the bytes themselves where they are nothing of this. Raises as its reader does."""
        span = value.span if isinstance(value, Elided) else ByteSpan(Held(bytes(value)), 0, len(value))
        start = bytes(span.file.read_at(span.offset, min(len(LOCAL_MAGIC), span.length)))
        if start == LOCAL_MAGIC:
            saved = open_saved(ZipArchive(Window(span.file, span.offset, span.length)))
            self._add(saved.machine, saved.size)
            self._places.add(saved.storages, saved.placer.place)
            return saved.value
        if start[:1] != b"\x80":
            return value
        from ckptconv.formats.torch.containers.pickled import follow  # hardly a file has one

        data, elided = PickleStream(span.file, span.offset, span.offset + span.length).elided()
        found, machine, makers = follow(data, elided)
        self._add(machine, len(data))
        self._places.add(makers.storages.values(), makers.place)
        return found

    def _add(self, machine: Machine, size: int) -> None:
        self.machines.append(machine)
        self.size += size


def unfold_embedded(value: Value, machine: Machine) -> Embedded:
    """Put what such files hold into the objects around them, in the value that a pickle's `machine` left.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    found = Embedded()
    if not any(f"{name.module}.".startswith("skorch.") for name in machine.globals):
        return found
    for thing in list(_nets(value)):
        inner = found.open(thing.state[KEY])
        if isinstance(inner, dict) and all(type(key) is str for key in inner):
            thing.state.pop(KEY)
            thing.state.update(inner)
    return found


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
