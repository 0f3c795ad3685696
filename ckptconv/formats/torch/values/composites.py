"""Quantized and sparse tensors in a torch pickle: our versions of torch's functions that rebuild them.

    _rebuild_qtensor(storage, offset, size, stride, PARAMS, requires_grad, hooks)
        PARAMS   (per_tensor_affine, scale, zero point)
                 (per_channel_affine, scales, zero points, axis)     tensors, or lists in old files; with float zero
                                                                     points it is ..._float_qparams
    _rebuild_sparse_tensor(layout, PARTS)
        PARTS    sparse_coo: (indices, values, size, is_coalesced), without the last in old files
                 the others: (compressed indices, plain indices, values, size)

The result is a stub for the values, which also has the other parts (`CompositeStub`). Once its place in the tree is
known, each part becomes a tensor of its own, and together they are a `Composite` (`tree.composites`).

Sources: torch/_utils.py, torch/_tensor.py (`_reduce_ex_internal`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from struct import error as StructError  # noqa: N812
from struct import pack
from typing import TYPE_CHECKING

from ckptconv.core.composite import (
    FLOAT_QPARAMS,
    INDICES,
    PER_CHANNEL,
    PER_TENSOR,
    VALUES,
    Composite,
    Quantized,
    Sparse,
    packed_bytes,
)
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import TorchValue
from ckptconv.core.strided import contiguous_strides, is_contiguous
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.errors import UnsupportedError
from ckptconv.formats.torch import dtypes
from ckptconv.formats.torch.calls.new_objects import holds_objects
from ckptconv.formats.torch.values.numpy_values import NumpyStub, whole_bytes
from ckptconv.formats.torch.values.stubs import (
    QuantizedStorageStub,
    RefusedTensor,
    StorageStub,
    TensorStub,
    exact_flag,
    exact_sizes,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.pickle import Value


@dataclass(slots=True, eq=False)
class ValueStub(TensorStub):
    """A tensor whose elements are in the pickle itself. `beside` is the offset, shape and strides of the integers in
    `storage` that it belongs to.
    """

    data: bytes = b""
    beside: tuple[int, tuple[int, ...], tuple[int, ...]] = (0, (), ())

    def tensor(self, archive: Hashable) -> LazyTensor:
        """The tensor. Its alias is equal for equal elements that belong to the same integers."""
        alias = (archive, self.storage.key, self.beside, self.dtype, self.data)
        return in_memory(TensorInfo.of(self.dtype, self.shape), self.data, alias)


@dataclass(slots=True, eq=False)
class CompositeStub(TensorStub):
    """The values of a quantized or sparse tensor.

    others: the other parts by role, in torch's order.
    make:   makes the `Composite` from the parts' names.
    named:  whether the values have the name of the whole.
    """

    others: dict[str, TensorStub] = field(default_factory=dict)
    make: Callable[[dict[str, str]], Composite] | None = None
    named: bool = False


def rebuild_from_numpy(data: Value, dtype: Value, device: Value, requires_grad: Value) -> Value:
    """``torch._utils._rebuild_device_tensor_from_numpy``: tensors on devices without storages (XLA)."""
    if holds_objects((data, dtype, device)):
        return NotImplemented
    parts = data.parts if isinstance(data, NumpyStub) else None
    wanted = dtypes.DTYPE_BY_NAME.get(dtype.name) if isinstance(dtype, TorchValue) else None
    if parts is None or parts.dtype.element is not wanted or parts.fortran or parts.dtype.order == ">" or not wanted:
        return refused("cast where it is loaded", data, dtype, device)
    storage = StorageStub(f"numpy {next(_ARRAYS)}", wanted, str(getattr(device, "name", "cpu")), 0)
    strides = contiguous_strides(parts.shape)
    result = ValueStub(storage, wanted, 0, parts.shape, strides, exact_flag(requires_grad))
    result.data = whole_bytes(parts.data)
    return result


_ARRAYS = count()


def rebuild_qtensor(
    storage: Value, offset: Value, size: Value, stride: Value, params: Value, requires_grad: Value, hooks: Value
) -> CompositeStub | RefusedTensor:
    """``torch._utils._rebuild_qtensor``. Raises TypeError, ValueError on arguments that torch never writes."""
    if not isinstance(storage, QuantizedStorageStub) or type(offset) is not int:
        raise TypeError("a quantized tensor has no storage of quantized integers, or no offset")
    exact_flag(requires_grad)  # torch gives no quantized tensor a gradient
    shape, strides, dtype = exact_sizes(size), exact_sizes(stride), storage.quantized
    held, steps = shape, strides
    if dtype.bits < 8:
        if offset or len(shape) != len(strides) or min(shape, default=0) < 0 or not is_contiguous(shape, strides):
            raise UnsupportedError("a view of packed quantized integers is not read", hint="clone() it first")
        held = (packed_bytes(dtype, shape),)
        steps = (1,)
    assert storage.dtype is not None
    plain = CompositeStub(storage, storage.dtype, offset, held, steps, named=True)
    match params:
        case (TorchValue(name="per_tensor_affine"), float() as scale, int() as point):
            parts: dict[str, TensorStub] = {
                "scale": _values(plain, "d", (), scale), "zero_point": _values(plain, "q", (), point)
            }  # fmt: skip
            scheme, along = PER_TENSOR, None
        case (
            TorchValue(name="per_channel_affine" | "per_channel_affine_float_qparams" as scheme),
            scales,
            points,
            axis,
        ):
            if type(axis) is not int:
                raise TypeError("the axis of a quantized tensor is not an int")
            codes = ("f", "f") if scheme == FLOAT_QPARAMS else ("d", "q")
            one, other = (_channel(plain, values, code) for values, code in zip((scales, points), codes, strict=True))
            if isinstance(one, RefusedTensor) or isinstance(other, RefusedTensor):
                return refused("quantized by scales of a kind that is not known,", one, other)
            parts = {"scale": one, "zero_point": other}
            scheme, along = FLOAT_QPARAMS if other.dtype.kind == "float" else PER_CHANNEL, axis
        case _:
            raise TypeError("a quantized tensor has no scale and zero point of a known scheme")
    return replace(plain, others=parts, make=lambda names: Quantized(names, shape, dtype, scheme, along))


_TYPES = {"d": DType.F64, "q": DType.I64, "f": DType.F32}
"""`struct`'s codes."""


def _values(beside: TensorStub, code: str, shape: tuple[int, ...], *values: float) -> ValueStub:
    """A part with its elements in the pickle. It keeps the place of the integers, so that ties are recognised."""
    try:
        data = pack(f"<{len(values)}{code}", *values)
    except StructError as error:
        raise ValueError("a zero point is not an int of 64 bits") from error
    place = (beside.offset, beside.shape, beside.strides)
    return ValueStub(beside.storage, _TYPES[code], 0, shape, contiguous_strides(shape), data=data, beside=place)


def _channel(beside: TensorStub, values: Value, code: str) -> TensorStub | RefusedTensor:
    """Scales or zero points: a tensor, or a list."""
    if isinstance(values, list) and all(type(value) in (int, float) for value in values):
        return _values(beside, code, (len(values),), *values)
    return _part(values)


def _part(value: Value) -> TensorStub | RefusedTensor:
    if isinstance(value, CompositeStub) or not isinstance(value, (TensorStub, RefusedTensor)):
        raise TypeError("a part of a quantized or sparse tensor is not a plain tensor")
    return value


def rebuild_sparse(layout: Value, data: Value) -> CompositeStub | RefusedTensor:
    """``torch._utils._rebuild_sparse_tensor``. Raises TypeError on arguments that torch never writes."""
    if not isinstance(layout, TorchValue) or layout.name not in INDICES or not isinstance(data, tuple):
        raise TypeError("a sparse tensor has no sparse layout")
    roles, name = (*INDICES[layout.name], VALUES), layout.name
    count = len(roles)
    flag = data[count + 1] if name == "sparse_coo" and len(data) == count + 2 else None
    if len(data) != count + 1 + (flag is not None):
        raise TypeError("a sparse tensor has another number of parts")
    parts: dict[str, TensorStub] = {}
    for role, value in zip(roles, data, strict=False):
        part = _part(value)
        if isinstance(part, RefusedTensor):
            return refused(f"sparse, its {role} {part.kind},", part)
        parts[role] = part
    shape, coalesced = exact_sizes(data[count]), flag is not None and exact_flag(flag)
    values = parts.pop(VALUES)
    return CompositeStub(
        values.storage, values.dtype, values.offset, values.shape, values.strides, values.requires_grad,
        conj=values.conj, neg=values.neg, others=parts,
        make=lambda names: Sparse(names, shape, values.dtype, name, coalesced),
    )  # fmt: skip
