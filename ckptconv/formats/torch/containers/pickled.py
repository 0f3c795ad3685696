"""What a bare pickle builds (`bare` reads it): torch's values, and storages and arrays that stand in its opcodes.

Sources: torch/storage.py (`_load_from_bytes`); jax/_src/array.py (`_reconstruct_array`); paddle/framework/io.py
(`_pickle_save`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.strided import contiguous_strides
from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CorruptFileError, UnsafeError
from ckptconv.formats.torch.containers import legacy
from ckptconv.formats.torch.pickle import Elided, Global, Machine, PickleStream, StateOrderedDict, Thing, Value
from ckptconv.formats.torch.tree.names import is_known
from ckptconv.formats.torch.tree.placing import Placer
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.formats.torch.values.numpy_values import ArrayParts, NumpyStub, whole_bytes, width
from ckptconv.formats.torch.values.stubs import QuantizedStorageStub, StorageStub, TensorStub
from ckptconv.io.held import Held
from ckptconv.io.limits import MAX_DEPTH
from ckptconv.io.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.tensor import LazyTensor

_STORAGE = Global("torch.storage", "_load_from_bytes")
_JAX = (Global("jax._src.array", "_reconstruct_array"), Global("jax._src.device_array", "reconstruct_device_array"))
_TUPLE = Global("builtins", "tuple")
_NUMPY = ("_reconstruct", "_frombuffer")
"""The constructors that take bytes that were left in the file."""


def follow(data: bytes, elided: Sequence[Elided] = ()) -> tuple[Value, Machine, BareConstructors]:
    """What a pickle says, with tensors in the places of arrays; the machine and the makers that met it."""
    makers = BareConstructors()
    machine = Machine(data, makers, elided)
    return settled(machine.run(), makers, {}, 0), machine, makers


@dataclass(slots=True)
class BareConstructors(TorchConstructors):
    """What a bare pickle may build: what torch's files may, and storages and arrays that stand in the pickle itself.

    spans:   where the elements of each lie, by the keys that they are given here.
    swapped: the keys of those that are big-endian.
    answered: names that are called here alone, and that made a storage or an array each time, so that they are no news.
    tensors: the arrays as tensors, by the `id` of each array, which is kept so that it stays its own.
    """

    spans: dict[str, ByteSpan] = field(default_factory=dict)
    swapped: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    tensors: dict[int, tuple[NumpyStub, TensorStub]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    _placers: tuple[Placer, Placer] | None = None

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        """Ours; those that know nothing of bytes that were left in the file get them whole."""
        if name == _STORAGE:
            return self._noting(name, self._load_from_bytes)
        if name in _JAX:
            return self._noting(name, self._jax_array)
        if name == _TUPLE:
            return _paddle_tensor
        made = TorchConstructors.constructor(self, name)
        if made is None or name.name in _NUMPY:
            return made
        return lambda *args: made(*(arg.whole() if isinstance(arg, Elided) else arg for arg in args))

    def counts_when_named(self, name: Global) -> bool:
        """As everywhere, and the function that loads a storage, unless it is called here."""
        return name == _STORAGE or TorchConstructors.counts_when_named(self, name)

    def _noting(self, name: Global, make: Callable[..., Value]) -> Callable[..., Value]:
        """The constructor, which keeps `answered` as it is called."""

        def made(*args: Value) -> Value:
            value = make(*args)
            if value is NotImplemented:
                self._refused.add(str(name))
                self.answered.discard(str(name))
            elif str(name) not in self._refused:
                self.answered.add(str(name))
            return value

        return made

    def persistent(self, identifier: Value) -> StorageStub:
        raise CorruptFileError("it needs objects that are not in the file (a persistent id)")

    def _load_from_bytes(self, data: Value) -> Value:
        """``torch.storage._load_from_bytes``: a storage, as torch.save wrote it into a file of its own."""
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
            made: StorageStub = QuantizedStorageStub(key, stub.dtype, stub.device, stub.numel, stub.quantized)
        else:
            made = StorageStub(key, stub.dtype, stub.device, stub.numel)
        self.storages[key] = made
        return made

    def _jax_array(self, function: Value, args: Value, state: Value, aval: Value = None) -> Value:
        """An array of JAX's: numpy's, and whether its type is weak."""
        if not isinstance(function, Global) or function.name != "_reconstruct" or type(args) is not tuple:
            return NotImplemented
        if isinstance(aval, Thing):  # its ``keys`` are called
            return NotImplemented
        made = TorchConstructors.constructor(self, function)
        stub = made(*args) if made else None
        if not isinstance(stub, NumpyStub):
            return NotImplemented
        stub.set_state(state)
        return stub

    def _keep(self, span: ByteSpan) -> str:
        key = str(len(self.spans))
        self.spans[key] = span
        return key

    def tensor(self, stub: NumpyStub) -> TensorStub | None:
        """The array as a tensor, the same one each time; None where its elements are none of a tensor's."""
        known = self.tensors.get(id(stub))
        if known is not None:
            return known[1]
        parts = stub.parts
        if parts is None or parts.dtype.element is None:
            return None
        element, shape = parts.dtype.element, parts.shape
        key = self._keep(_span(parts))
        if parts.dtype.order == ">" and width(parts.dtype) > 1:
            self.swapped.add(key)
        strides = contiguous_strides(shape[::-1])[::-1] if parts.fortran else contiguous_strides(shape)
        storage = self.storages[key] = StorageStub(key, element, "cpu", parts.nbytes // width(parts.dtype))
        attributes = {} if stub.name is None else {"paddle_name": stub.name}
        made = TensorStub(storage, element, 0, shape, strides, attributes=attributes)
        self.tensors[id(stub)] = stub, made
        return made

    def place(self, name: str, stub: TensorStub) -> LazyTensor:
        """As `Placer.place`."""
        if self._placers is None:
            storages = legacy.Spans(id(self), self.spans)
            self._placers = Placer(storages), Placer(storages, swapped=True)
        return self._placers[stub.storage.key in self.swapped].place(name, stub)


def _paddle_tensor(values: Value = ()) -> Value:
    """PaddlePaddle's tensor within other objects: a pair of its name and its array, made by a call, as no tuple is."""
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


def settled(value: Value, makers: BareConstructors, known: dict[int, Value], depth: int) -> Value:
    """The value with tensors in the places of arrays. Containers are changed in place, tuples made anew; what lies
    too deep for metadata stays as it is.
    """
    if isinstance(value, NumpyStub) and (value.parts is not None or depth > MAX_DEPTH):
        return makers.tensor(value) or value
    if not isinstance(value, (dict, list, tuple, Thing, NumpyStub)) or depth > MAX_DEPTH + 1:
        return value
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = value

    def again(child: Value) -> Value:
        return settled(child, makers, known, depth + 1)

    match value:
        case dict():
            for key, child in value.items():
                value[key] = again(child)
            if isinstance(value, StateOrderedDict):
                value.state = again(value.state)
        case NumpyStub():  # of objects
            value.state = again(value.state)
        case list():
            value[:] = [again(child) for child in value]
        case Thing():
            value.args = tuple(again(child) for child in value.args)
            value.kwargs = {key: again(child) for key, child in value.kwargs.items()}
            value.state = again(value.state)
            value.items = [again(child) for child in value.items]
            value.pairs = [(key, again(child)) for key, child in value.pairs]
        case tuple() if type(value) is tuple:
            made = tuple(again(child) for child in value)
            known[id(value)] = made if any(a is not b for a, b in zip(made, value, strict=True)) else value
    return known[id(value)]
