"""The objects that a bare pickle builds (`bare` is the reader): torch's, and storages and arrays inside the opcodes.

Sources: torch/storage.py (`_load_from_bytes`); jax/_src/array.py (`_reconstruct_array`); paddle/framework/io.py
(`_pickle_save`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.strided import contiguous_strides
from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CorruptFileError, UnsafeError
from ckptconv.formats.torch.containers import legacy
from ckptconv.formats.torch.pickle import Elided, Global, Machine, PickleStream, StateOrderedDict, UnbuiltObject, Value
from ckptconv.formats.torch.tree.names import is_known
from ckptconv.formats.torch.tree.placing import Placer
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.formats.torch.values.numpy_values import ArrayParts, NumpyStub, whole_array, whole_bytes, width
from ckptconv.formats.torch.values.stubs import QuantizedStorageStub, StorageStub, TensorStub
from ckptconv.io.held import Held
from ckptconv.io.limits import MAX_DEPTH
from ckptconv.io.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor

_STORAGE = Global("torch.storage", "_load_from_bytes")
_JAX = (Global("jax._src.array", "_reconstruct_array"), Global("jax._src.device_array", "reconstruct_device_array"))
_TUPLE = Global("builtins", "tuple")
_NUMPY = ("_reconstruct", "_frombuffer")
"""The numpy constructors that accept `Elided` bytes."""


def follow(data: bytes, elided: Sequence[Elided] = ()) -> tuple[Value, Machine, BareConstructors]:
    """Run a pickle: its value, with tensors in place of arrays; the interpreter; and the constructors that it used."""
    constructors = BareConstructors()
    machine = Machine(data, constructors, elided)
    return with_tensors(machine.run(), constructors, {}, 0), machine, constructors


@dataclass(slots=True)
class BareConstructors(TorchConstructors):
    """What a bare pickle may build: what torch's files may, and storages and arrays that are in the pickle itself.

    spans:    where the elements of each storage are, by keys that are made up here.
    swapped:  the keys of big-endian storages.
    answered: names that only bare pickles may call, and that made a storage or array each time: need not be reported.
    tensors:  the arrays as tensors, by the `id` of each array, which is kept alive so that its id stays unique.
    """

    spans: dict[str, ByteSpan] = field(default_factory=dict)
    swapped: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    tensors: dict[int, tuple[NumpyStub, TensorStub]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    _placers: tuple[Placer, Placer] | None = None

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        """Our constructor for a name. Those that do not accept `Elided` bytes get them read."""
        if name == _STORAGE:
            return self._recorded(name, self._load_from_bytes)
        if name in _JAX:
            return self._recorded(name, self._jax_array)
        if name == _TUPLE:
            return _paddle_tensor
        construct = TorchConstructors.constructor(self, name)
        if construct is None or name.name in _NUMPY:
            return construct
        return lambda *args: construct(*(arg.whole() if isinstance(arg, Elided) else arg for arg in args))

    def counts_when_named(self, name: Global) -> bool:
        """As for other files, and also for the function that loads a storage, unless it is called here."""
        return name == _STORAGE or TorchConstructors.counts_when_named(self, name)

    def _recorded(self, name: Global, construct: Callable[..., Value]) -> Callable[..., Value]:
        """The constructor, wrapped so that each call updates `answered`."""

        def recorded(*args: Value) -> Value:
            value = construct(*args)
            if value is NotImplemented:
                self._refused.add(str(name))
                self.answered.discard(str(name))
            elif str(name) not in self._refused:
                self.answered.add(str(name))
            return value

        return recorded

    def persistent(self, identifier: Value) -> StorageStub:
        raise CorruptFileError("it needs objects that are not in the file (a persistent id)")

    def _load_from_bytes(self, data: Value) -> Value:
        """``torch.storage._load_from_bytes``: a storage that torch.save wrote as a whole file."""
        if not isinstance(data, (bytes, bytearray)):
            return NotImplemented
        if isinstance(data, Elided):
            file, start, size = data.span.file, data.span.offset, data.span.length
        else:
            file, start, size = Held(bytes(data)), 0, len(data)
        window = Window(file, start, size)
        stack = legacy.follow(PickleStream(window, 0, size), window)
        stub = stack.value
        if odd := [name for machine in stack.machines for name in machine.globals if not is_known(name)]:
            raise UnsafeError(
                f"a storage in it is a file whose loading would run code: it names {odd[0]}", hint="do not trust it"
            )
        if not isinstance(stub, StorageStub):
            return NotImplemented
        span = stack.storages.span(stub.key)
        key = self._keep(ByteSpan(file, start + span.offset, span.length))
        if isinstance(stub, QuantizedStorageStub):
            result: StorageStub = QuantizedStorageStub(key, stub.dtype, stub.device, stub.numel, stub.quantized)
        else:
            result = StorageStub(key, stub.dtype, stub.device, stub.numel)
        self.storages[key] = result
        return result

    def _jax_array(self, function: Value, args: Value, state: Value, aval: Value = None) -> Value:
        """A JAX array: the numpy array in it. `aval` says whether its type is weak."""
        # the keys of an object would be called
        return NotImplemented if isinstance(aval, UnbuiltObject) else whole_array(function, args, state)

    def _keep(self, span: ByteSpan) -> str:
        key = str(len(self.spans))
        self.spans[key] = span
        return key

    def tensor(self, stub: NumpyStub) -> TensorStub | None:
        """The array as a tensor, the same one each time; None if a tensor cannot have such elements."""
        known = self.tensors.get(id(stub))
        if known is not None:
            return known[1]
        parts = stub.parts
        if parts is None or parts.dtype.element is None:
            return None
        result = self.array(
            _span(parts), parts.dtype.element, parts.shape, fortran=parts.fortran,
            swapped=parts.dtype.order == ">" and width(parts.dtype) > 1,
        )  # fmt: skip
        if stub.name is not None:
            result.attributes["paddle_name"] = stub.name
        self.tensors[id(stub)] = stub, result
        return result

    def array(
        self, span: ByteSpan, element: DType, shape: tuple[int, ...], *, fortran: bool, swapped: bool
    ) -> TensorStub:
        """A tensor whose elements fill a span, in C or Fortran order, big-endian where `swapped`."""
        key = self._keep(span)
        if swapped:
            self.swapped.add(key)
        strides = contiguous_strides(shape[::-1])[::-1] if fortran else contiguous_strides(shape)
        storage = self.storages[key] = StorageStub(key, element, "cpu", prod(shape))
        return TensorStub(storage, element, 0, shape, strides)

    def place(self, name: str, stub: TensorStub) -> LazyTensor:
        """As `Placer.place`."""
        if self._placers is None:
            storages = legacy.Spans(id(self), self.spans)
            self._placers = Placer(storages), Placer(storages, swapped=True)
        return self._placers[stub.storage.key in self.swapped].place(name, stub)


def _paddle_tensor(values: Value = ()) -> Value:
    """A PaddlePaddle tensor inside another object: a pair of name and array, built by calling ``tuple``, which pickles
    of ordinary tuples do not do.
    """
    match values:
        case (str() as name, NumpyStub() as array):
            array.name = name
            return array
        case list() | tuple() | set() | frozenset():
            return tuple(values)
        case _:
            return NotImplemented


def _span(parts: ArrayParts) -> ByteSpan:
    if isinstance(parts.data, Elided):
        return parts.data.span
    data = whole_bytes(parts.data)
    return ByteSpan(Held(data), 0, len(data))


def with_tensors(value: Value, constructors: BareConstructors, known: dict[int, Value], depth: int) -> Value:
    """The value with tensors in place of arrays. Containers are changed in place, tuples are rebuilt; what is nested
    too deeply for metadata stays as it is.
    """
    if isinstance(value, NumpyStub) and (value.parts is not None or depth > MAX_DEPTH):
        return constructors.tensor(value) or value
    if not isinstance(value, (dict, list, tuple, UnbuiltObject, NumpyStub)) or depth > MAX_DEPTH + 1:
        return value
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = value

    def again(child: Value) -> Value:
        return with_tensors(child, constructors, known, depth + 1)

    match value:
        case dict():
            for key, child in value.items():
                value[key] = again(child)
            if isinstance(value, StateOrderedDict):
                value.state = again(value.state)
        case NumpyStub():  # an array of objects
            value.state = again(value.state)
        case list():
            value[:] = [again(child) for child in value]
        case UnbuiltObject():
            value.args = tuple(again(child) for child in value.args)
            value.kwargs = {key: again(child) for key, child in value.kwargs.items()}
            value.state = again(value.state)
            value.items = [again(child) for child in value.items]
            value.pairs = [(key, again(child)) for key, child in value.pairs]
        case tuple() if type(value) is tuple:
            result = tuple(again(child) for child in value)
            known[id(value)] = result if any(a is not b for a, b in zip(result, value, strict=True)) else value
    return known[id(value)]
