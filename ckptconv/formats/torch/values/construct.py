"""What a torch pickle may build: an exact list of names, each with our own constructor.

No function of torch or numpy runs. A tensor becomes a `TensorStub`: its storage's key, offset, shape and strides.

Source: torch/_weights_only_unpickler.py (the names that torch itself allows).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.composite import CARRIERS
from ckptconv.core.metadata import FACTORIES, TorchSize, TorchValue
from ckptconv.errors import CorruptFileError, UnsupportedError
from ckptconv.formats.torch import dtypes
from ckptconv.formats.torch.calls.capable import could_run
from ckptconv.formats.torch.calls.harmless import is_harmless, runs_when_named
from ckptconv.formats.torch.calls.new_objects import only_hashes, only_keeps, only_makes, only_reconstructs
from ckptconv.formats.torch.pickle import Global, StateOrderedDict, UnbuiltObject, Value
from ckptconv.formats.torch.values.composites import rebuild_from_numpy, rebuild_qtensor, rebuild_sparse
from ckptconv.formats.torch.values.dill import dill_array, dill_type
from ckptconv.formats.torch.values.dtensor import whole_of
from ckptconv.formats.torch.values.numpy_values import (
    MEMMAP,
    MEMMAPS,
    RECONSTRUCT,
    NumpyDType,
    NumpyStub,
    is_memmap,
    numpy_dtype,
    numpy_frombuffer,
    numpy_reconstruct,
    numpy_scalar,
)
from ckptconv.formats.torch.values.stubs import (
    QuantizedStorageStub,
    RefusedTensor,
    StorageStub,
    TensorStub,
    WrappedTensor,
    attributes_of,
    exact_flag,
    exact_sizes,
    rebuild_jagged,
    rebuild_on_device,
    rebuild_parameter,
    rebuild_tensor,
    rebuild_tensor_v3,
    rebuild_wrapper,
    refused_kind,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

Args = tuple[Value, ...]


def _container(kind: Callable[[Value], Value]) -> Callable[..., Value]:
    """A constructor of a container from another container. From anything else it would be a call: consuming an iterator
    (map, filter) runs code.
    """

    def result(values: Value = ()) -> Value:
        return kind(values) if isinstance(values, (list, tuple, set, frozenset)) else NotImplemented

    return result


def _encode(text: Value, encoding: Value = "latin1") -> bytes:
    """``_codecs.encode``: with protocol 2, Python 3 pickles bytes as Latin-1 text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("bytes are spelled in another encoding than Latin-1")
    return text.encode("latin-1")


def _bytearray(data: Value = b"", encoding: Value = "latin-1") -> bytearray:
    if isinstance(data, str):
        return bytearray(_encode(data, encoding))
    if not isinstance(data, (bytes, bytearray)):  # bytearray(n) would allocate n bytes
        raise TypeError("a bytearray is made of something that is not bytes")
    return bytearray(data)


def _defaultdict(*args: Value) -> Value:
    factory = args[0] if args else None
    if isinstance(factory, Global):
        factory = FACTORIES.get(str(factory), NotImplemented)
    elif factory is not None:  # partial(defaultdict, int)
        factory = NotImplemented
    if factory is NotImplemented or len(args) > 1:
        return NotImplemented
    return defaultdict(factory)


def _ordered(items: Value = ()) -> Value:
    if items == ():
        return StateOrderedDict()  # the hooks of every tensor
    if not isinstance(items, (dict, list, tuple)):
        return NotImplemented
    return StateOrderedDict(items if isinstance(items, dict) else [(key, value) for key, value in items])


def _counter(items: Value = ()) -> Counter[Value]:
    if not isinstance(items, dict):
        raise TypeError("a Counter is made of something that is not a dict")
    return Counter(items)


def _device(kind: Value, index: Value = None) -> TorchValue:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise TypeError("a torch.device is made of something else than a name and a number")
    return TorchValue("device", kind if index is None else f"{kind}:{index}")


def _layout(name: Value) -> TorchValue:
    if type(name) is not str or name not in dtypes.LAYOUTS:
        raise ValueError("unknown layout")
    return TorchValue("layout", name.removeprefix("torch."))


def _from_type(function: Value, cls: Value, args: Value, state: Value) -> Value:
    """``torch._tensor._rebuild_from_type_v2``: a tensor subclass, or a tensor with Python attributes. It wraps the call
    that rebuilds the plain tensor.
    """
    constructor = CONSTRUCTORS.get(function) if isinstance(function, Global) else None
    attributes = attributes_of(state)
    if constructor is None or attributes is None or not isinstance(cls, Global):
        return NotImplemented
    result = constructor(*args)
    if isinstance(result, WrappedTensor):
        if (whole := whole_of(result, attributes)) is not None:
            return whole
        if not result.given:
            result.set_state(state)
    if isinstance(result, (RefusedTensor, WrappedTensor)):
        return result
    if not isinstance(result, TensorStub):  # torch would set the attributes on anything, such as an OrderedDict
        return NotImplemented
    if str(cls) not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        attributes["__class__"] = cls
    parameter = result.parameter or cls == Global("torch.nn.parameter", "Parameter")
    return replace(result, parameter=parameter, attributes={**result.attributes, **attributes})


def _complex(real: Value, imag: Value = 0.0) -> complex:
    if not isinstance(real, (int, float)) or not isinstance(imag, (int, float)):
        raise TypeError("a complex number's parts are not numbers")
    return complex(real, imag)


_U = "torch._utils."
_BY_PATH: dict[str, Callable[..., Value]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _defaultdict,
    "collections.Counter": _counter,
    "builtins.set": _container(set),
    "builtins.frozenset": _container(frozenset),
    "builtins.list": _container(list),
    "builtins.tuple": _container(tuple),
    "builtins.bytearray": _bytearray,
    "builtins.bytes": lambda data=b"", encoding="latin-1": bytes(_bytearray(data, encoding)),
    "builtins.complex": _complex,
    "_codecs.encode": _encode,
    "torch.Size": lambda sizes=(): TorchSize(exact_sizes(sizes)),
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
    _U + "_rebuild_tensor": lambda storage, offset, size, stride: rebuild_tensor(storage, offset, size, stride),
    _U + "_rebuild_tensor_v2": rebuild_tensor,
    _U + "_rebuild_tensor_v3": rebuild_tensor_v3,
    _U + "_rebuild_parameter": rebuild_parameter,
    _U + "_rebuild_parameter_with_state": rebuild_parameter,
    _U + "_rebuild_qtensor": rebuild_qtensor,
    _U + "_rebuild_sparse_tensor": rebuild_sparse,
    "torch.nn.parameter.Parameter": lambda data, requires_grad=True: rebuild_parameter(data, requires_grad, None),
    "torch.autograd.variable.Variable": lambda data: data if isinstance(data, TensorStub) else NotImplemented,
    _U + "_rebuild_nested_tensor": refused_kind("nested"),
    _U + "_rebuild_wrapper_subclass": rebuild_wrapper,
    _U + "_rebuild_meta_tensor_no_storage": refused_kind("on the meta device, without values,"),
    _U + "_rebuild_device_tensor_from_numpy": rebuild_from_numpy,
    _U + "_rebuild_xla_tensor": rebuild_from_numpy,
    _U + "_rebuild_device_tensor_from_cpu_tensor": rebuild_on_device,
    "torch.nested._internal.nested_tensor._rebuild_njt": rebuild_jagged,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "numpy.dtype": numpy_dtype,
    "numpy.core.multiarray.scalar": numpy_scalar,
    "numpy._core.multiarray.scalar": numpy_scalar,
    **dict.fromkeys(RECONSTRUCT, numpy_reconstruct),
    "numpy.core.numeric._frombuffer": numpy_frombuffer,
    "numpy._core.numeric._frombuffer": numpy_frombuffer,
    "dill._dill._create_array": dill_array,
    "dill._dill._load_type": dill_type,
}
CONSTRUCTORS = {Global(*path.rpartition(".")[::2]): constructor for path, constructor in _BY_PATH.items()}
"""Everything that is built, by exact module and name."""


@dataclass(slots=True)
class TorchConstructors:
    """The `Constructors` of torch files.

    storages: by key.
    retyped:  storages that are named a second time with another type, or without one, which torch.save does for views
              as another element type; by key and class.
    memmap:   the stand-in for numpy's memmap class, which creates a file if it is called, and so cannot be called here.
    """

    storages: dict[str, StorageStub] = field(default_factory=dict)
    retyped: dict[tuple[str, str], StorageStub] = field(default_factory=dict)
    memmap: UnbuiltObject = field(default_factory=lambda: UnbuiltObject(MEMMAP, "object", given=True))

    def value(self, name: Global) -> Value:
        """Dtypes, quantization schemes and memory formats are values; any other name stays a Global."""
        if str(name) in MEMMAPS:
            return self.memmap
        if name.module == "torch":
            if name.name in dtypes.ALL_DTYPE_NAMES:
                return TorchValue("dtype", name.name)
            if name.name in dtypes.QSCHEMES:
                return TorchValue("qscheme", name.name)
            if name.name in dtypes.MEMORY_FORMATS:
                return TorchValue("memory_format", name.name)
        return name

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        return CONSTRUCTORS.get(name)

    def is_harmless(self, name: Global, args: Args) -> bool:
        return is_harmless(name, args)

    def only_makes(self, cls: Global, args: Args, kwargs: dict[str, Value]) -> bool:
        return only_makes(cls, args, kwargs)

    def only_reconstructs(self, args: Args) -> bool:
        return only_reconstructs(args)

    def only_keeps(self, cls: str, state: Value) -> bool:
        return only_keeps(cls, state)

    def only_hashes(self, key: Value) -> bool:
        return only_hashes(key)

    def counts_when_named(self, name: Global) -> bool:
        if str(name) in MEMMAPS:
            return False  # see `handed`
        return runs_when_named(name) or (self.constructor(name) is None and could_run(name))

    def handed(self, names: Collection[Global], values: Iterable[Value]) -> str | None:
        """The memmap class, which arrays legitimately name, if it is also in one of the values, or was changed."""
        if all(str(name) not in MEMMAPS for name in names):
            return None
        return MEMMAP if not is_memmap(self.memmap) or self._is_held(self.memmap, values) else None

    def _is_held(self, value: Value, values: Iterable[Value]) -> bool:
        waiting, seen = list(values), set[int]()
        while waiting:
            other = waiting.pop()
            if other is value:
                return True
            if id(other) not in seen:
                seen.add(id(other))
                waiting += self.inside(other)
        return False

    def inside(self, value: Value) -> Iterable[Value]:
        """The values inside a value."""
        match value:
            case StateOrderedDict():
                return [*value, *value.values(), value.state]
            case dict():
                return [*value, *value.values()]
            case list() | tuple() | set() | frozenset():
                return value
            case UnbuiltObject():
                return value.args, value.kwargs, value.state, value.items, value.pairs
            case NumpyStub():
                return (value.state,)
        return ()

    def build(self, instance: Value, state: Value) -> bool:
        match instance:
            case NumpyDType() if isinstance(state, tuple) and len(state) >= 5:
                instance.order = state[1] if state[1] in ("<", ">", "|", "=") else "|"
                instance.plain = state[2] is None and state[3] is None and state[4] is None
                if instance.code[:1] in "mM" and instance.element is None:
                    instance.plain = False  # a datetime64 has its unit in a ninth field
            case NumpyStub():
                instance.set_state(state)
            # torch before 0.4: grad, volatile, hooks
            case TensorStub() if isinstance(state, tuple) and len(state) == 3:
                instance.requires_grad = exact_flag(state[0])
            case TensorStub() if isinstance(state, dict) and (attributes := attributes_of(state)) is not None:
                instance.attributes.update(attributes)
            case _:
                return False
        return True

    def persistent(self, identifier: Value) -> StorageStub:
        if type(identifier) is tuple and len(identifier) == 5:
            kind, cls, key, device, numel = identifier
            if (
                kind == "storage" and type(cls) is Global and type(key) is str and type(device) is str
                and type(numel) is int and numel >= 0
            ):  # fmt: skip
                return self._storage(cls, key, device, numel)
        raise CorruptFileError("a persistent id in the pickle names no storage")

    def _storage(self, cls: Global, key: str, device: str, numel: int) -> StorageStub:
        dtype = dtypes.STORAGE_CLASSES.get(cls.name)
        stub = StorageStub(key, dtype, device, numel)
        if dtype is None and cls.name != dtypes.UNTYPED:
            quantized = dtypes.QUANTIZED_STORAGES.get(cls.name)
            if quantized is None:
                raise UnsupportedError(f"storages of class {cls} are not supported", hint="save plain tensors")
            stub = QuantizedStorageStub(key, CARRIERS[quantized], device, numel, quantized)
        known = self.storages.setdefault(key, stub)
        if known is stub or known == stub:
            return known
        if not _is_retyped(known, stub):
            raise CorruptFileError(f"the pickle describes storage {key!r} in two ways")
        return self.retyped.setdefault((key, cls.name), stub)


def _is_retyped(one: StorageStub, other: StorageStub) -> bool:
    """Whether two descriptions of a storage are compatible: the same bytes, with an element type in one of them only,
    or no bytes at all.
    """
    quantized = isinstance(one, QuantizedStorageStub) or isinstance(other, QuantizedStorageStub)
    untyped = one.dtype is None or other.dtype is None or not one.nbytes
    return untyped and not quantized and one.device == other.device and one.nbytes == other.nbytes
