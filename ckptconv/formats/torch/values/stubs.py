"""Pickled tensors whose bytes are not located yet, and our versions of torch's ``_rebuild_*`` functions.

Sources: torch/_utils.py, torch/_tensor.py (`_reduce_ex_internal`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import TorchValue
from ckptconv.formats.torch import dtypes
from ckptconv.formats.torch.calls.new_objects import holds_objects
from ckptconv.formats.torch.pickle import Global, UnbuiltObject, attributes_among, has_implicit_calls

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.formats.torch.pickle import Value


@dataclass(slots=True)
class StorageStub:
    """A storage, from a persistent id: `key` is the record that holds its elements. `dtype` is None for an
    UntypedStorage, where the tensor has the type.
    """

    key: str
    dtype: DType | None
    device: str
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes of the record. Without an element type, `numel` counts bytes."""
        return self.numel if self.dtype is None else self.numel * max(1, self.dtype.bits // 8)


@dataclass(slots=True)
class QuantizedStorageStub(StorageStub):
    """A storage of quantized integers: `quantized` is their type, `dtype` the type that carries them."""

    quantized: DType


@dataclass(slots=True, eq=False)
class TensorStub:
    """A pickled tensor. `offset` and `strides` count elements of `dtype` in the storage."""

    storage: StorageStub
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool = False
    parameter: bool = False
    conj: bool = False
    neg: bool = False
    attributes: dict[str, Value] = field(default_factory=dict)


def as_tensor(storage: StorageStub) -> tuple[str, TensorStub]:
    """The class of a storage that no tensor views, and its elements as a tensor: bytes, if it has no type."""
    if storage.dtype is None:
        name = f"torch.storage.{dtypes.UNTYPED}"
    elif isinstance(storage, QuantizedStorageStub):
        name = f"torch.{dtypes.QUANTIZED_STORAGE_BY_DTYPE[storage.quantized]}"
    else:
        name = f"torch.{dtypes.STORAGE_CLASS_BY_DTYPE[storage.dtype]}"
    return name, TensorStub(storage, storage.dtype or DType.U8, 0, (storage.numel,), (1,))


@dataclass(slots=True, eq=False)
class WrappedTensor(UnbuiltObject):
    """A tensor of a class that wraps other tensors (torchao's, DTensor), which are in its state."""


@dataclass(slots=True, eq=False)
class RefusedTensor(UnbuiltObject):
    """A tensor of a kind that is not read. `kind` describes it in messages."""

    kind: str = ""


def refused(kind: str, *args: Value) -> RefusedTensor:
    """A tensor of a kind that is not read, with the arguments that it was made from."""
    return RefusedTensor("torch.Tensor", "unread", args, kind=kind)


def exact_sizes(values: Value) -> tuple[int, ...]:
    """Sizes or strides as a tuple of ints. Raises TypeError."""
    if not isinstance(values, (tuple, list)):
        raise TypeError("sizes and strides are tuples")
    for n in values:
        if type(n) is not int:
            raise TypeError("sizes and strides are ints")
    return tuple(values)


def exact_flag(value: Value) -> bool:
    """A bool. Raises TypeError."""
    if type(value) is not bool:
        raise TypeError("a flag is not a bool")
    return value


def _storage(value: Value) -> StorageStub:
    if not isinstance(value, StorageStub) or isinstance(value, QuantizedStorageStub):
        raise TypeError("a plain tensor has no storage of plain elements")
    return value


def rebuild_tensor(
    storage: Value, offset: int, size: Value, stride: Value, requires_grad: bool = False, hooks: Value = None,
    metadata: Value = None, *, dtype: DType | None = None,
) -> TensorStub:  # fmt: skip
    """``torch._utils._rebuild_tensor`` and ``_v2``; `dtype` is ``_v3``'s. Raises TypeError on other arguments."""
    stub = _storage(storage)
    element = dtype or stub.dtype
    if element is None or type(offset) is not int:
        raise TypeError("a tensor names no element type, or its offset is not an int")
    plain = TensorStub(stub, element, offset, exact_sizes(size), exact_sizes(stride), exact_flag(requires_grad))
    if not metadata:
        return plain
    if not isinstance(metadata, dict) or metadata.keys() - {"conj", "neg"}:
        raise TypeError("unknown tensor metadata")
    return replace(plain, conj=exact_flag(metadata.get("conj", False)), neg=exact_flag(metadata.get("neg", False)))


def rebuild_tensor_v3(
    storage: Value, offset: int, size: Value, stride: Value, requires_grad: bool, hooks: Value, dtype: Value,
    metadata: Value = None,
) -> TensorStub | RefusedTensor:  # fmt: skip
    """``torch._utils._rebuild_tensor_v3``: the element type is an argument of its own."""
    if not isinstance(dtype, TorchValue) or dtype.kind != "dtype":
        raise TypeError("a tensor's dtype is none")
    element = dtypes.DTYPE_BY_NAME.get(dtype.name)
    if element is None:
        return refused(f"of element type torch.{dtype.name}", size, dtype)
    return rebuild_tensor(storage, offset, size, stride, requires_grad, hooks, metadata, dtype=element)


_CALLED = frozenset(["__setstate__", "as_subclass", "detach", "requires_grad_", "to"])
"""Methods of a tensor that torch's functions, and BUILD, call during loading: no honest attribute has such a name."""


def attributes_of(state: Value) -> dict[str, Value] | None:
    """The attributes that torch sets on a tensor (``torch._utils._set_obj_state``); None if that would call something
    that the pickle chose: an object's ``items``, or later one of the attributes.
    """
    attributes: dict[str, Value] = {}
    for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
        if isinstance(part, UnbuiltObject) or attributes_among(_CALLED, part) or has_implicit_calls(part):
            return None
        attributes |= part if isinstance(part, dict) else {}
    return attributes


def rebuild_parameter(data: Value, requires_grad: bool, hooks: Value, state: Value = None) -> Value:
    """``torch._utils._rebuild_parameter``, with and without state."""
    attributes = attributes_of(state)
    if attributes is not None and isinstance(data, (RefusedTensor, WrappedTensor)):
        return data
    if attributes is None or isinstance(data, UnbuiltObject):
        return NotImplemented
    if not isinstance(data, TensorStub):
        raise TypeError("a Parameter holds no tensor")
    return replace(
        data, parameter=True, requires_grad=exact_flag(requires_grad), attributes={**data.attributes, **attributes}
    )


def refused_kind(kind: str) -> Callable[..., Value]:
    """A constructor for tensors that are not read, and refused once their name is known. With objects among its
    arguments it would be a call: torch looks up ``__torch_function__`` in them.
    """
    return lambda *args: NotImplemented if holds_objects(args) else refused(kind, *args)


def _is_object(value: Value) -> bool:
    return isinstance(value, UnbuiltObject) and not isinstance(value, (RefusedTensor, WrappedTensor))


def rebuild_wrapper(cls: Value, *args: Value) -> Value:
    """``torch._utils._rebuild_wrapper_subclass(cls, dtype, size, stride, offset, layout, device, requires_grad)``."""
    if not isinstance(cls, Global):
        raise TypeError("a tensor's class is none")
    if holds_objects(args):  # torch calls methods of a size that is an object (SymInt)
        return NotImplemented
    return WrappedTensor(str(cls), "object", args)


def rebuild_jagged(kwargs: Value) -> Value:
    """``torch.nested._internal.nested_tensor._rebuild_njt``: a nested tensor of the jagged layout, by its parts,
    without the values that it caches.
    """
    if holds_objects((kwargs,)):
        return NotImplemented
    if not isinstance(kwargs, dict) or not isinstance(kwargs.get("values"), TensorStub):
        raise TypeError("a nested tensor has no values")
    parts = {key: kwargs.get(key) for key in ("values", "offsets", "lengths", "_ragged_idx", "requires_grad")}
    result = WrappedTensor("torch.nested._internal.nested_tensor.NestedTensor", "object")
    result.set_state(parts)
    return result


def rebuild_on_device(data: Value, dtype: Value, device: Value, requires_grad: Value) -> Value:
    """``torch._utils._rebuild_device_tensor_from_cpu_tensor``: a tensor that is loaded onto another device."""
    if any(map(_is_object, (data, dtype, device))):  # torch calls its method ``to``
        return NotImplemented
    if not isinstance(data, TensorStub):
        return refused("of another device", data, dtype, device)
    if not isinstance(dtype, TorchValue) or dtypes.DTYPE_BY_NAME.get(dtype.name) is not data.dtype:
        return refused("cast where it is loaded", data, dtype, device)
    return replace(data, requires_grad=exact_flag(requires_grad))
