"""Quantized and sparse tensors, which are made of several plain ones.

A checkpoint holds their parts as tensors of their own, and a `Composite` that says how the parts belong together:

    quantized   values       the integers, as I8, U8, I32; two or four to a byte as U8, one dimension
                scale        F64 [] for the whole tensor; or F64 or F32 [C], one for each index of the axis
                zero_point   I64 [];                      or I64, I32, F32 or F64 [C]
    sparse_coo  indices      I64 [sparse dimensions, N]
                values       [N, dense dimensions…]
    sparse_csr  crow_indices, sparse_csc ccol_indices     I64 or I32 [batch…, rows or columns + 1]
                col_indices,             row_indices      of the same type, [batch…, N]
                values                                    [batch…, N, dense dimensions…]
    sparse_bsr, sparse_bsc    the same of blocks          values [batch…, N, height, width, dense dimensions…]

`problem` compares the parts' headers, and reads nothing. `ckptconv.core.indices` checks the values of indices before
anything relies on them.

Sources: torch/_tensor.py (`_reduce_ex_internal`), c10/core/ScalarType.h, ATen/native/sparse/ValidateCompressed*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.core.strict_json import as_size, as_text
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

VALUES = "values"
"""The part that every composite has. Notes about the whole are kept under this part's name."""

CARRIERS: dict[DType, DType] = {
    DType.QI8: DType.I8, DType.QU8: DType.U8, DType.QI32: DType.I32, DType.QU4: DType.U8, DType.QU2: DType.U8,
}  # fmt: skip
"""The type in which the integers of a quantized type are held."""

PER_TENSOR, PER_CHANNEL = "per_tensor_affine", "per_channel_affine"
FLOAT_QPARAMS = "per_channel_affine_float_qparams"

_SCALES = (DType.F64, DType.F32)
_ZERO_POINTS = {PER_CHANNEL: (DType.I64, DType.I32), FLOAT_QPARAMS: _SCALES}

INDICES: dict[str, tuple[str, ...]] = {
    "sparse_coo": ("indices",),
    "sparse_csr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"),
    "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_bsc": ("ccol_indices", "row_indices"),
}
"""The parts of each layout besides its values, by torch's names and in torch's order."""

_MAX_NUMEL = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized tensor: each value is ``(integer - zero point) * scale``.

    parts: the names of the tensors "values", "scale" and "zero_point".
    dtype: QI8, QU8, QI32, QU4 or QU2.
    axis:  the dimension along which each index has its own scale; None if there is one scale for the whole tensor.
    """

    parts: Mapping[str, str]
    shape: tuple[int, ...]
    dtype: DType
    scheme: str
    axis: int | None = None

    @property
    def summary(self) -> str:
        """What it is, in a few words."""
        return f"{self.dtype} {list(self.shape)}, {self.scheme}" + ("" if self.axis is None else f", axis {self.axis}")

    def to_dict(self) -> dict[str, Any]:
        """As the record, the digest and `inspect --json` spell it."""
        axis = {} if self.axis is None else {"axis": self.axis}
        return {
            "kind": "quantized", "dtype": self.dtype.name, "scheme": self.scheme, **axis, "shape": list(self.shape),
            "parts": dict(self.parts),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sparse:
    """A sparse tensor: values at the indices, zero elsewhere.

    parts:     the names of the tensor "values" and of the layout's `INDICES`.
    dtype:     the type of the values.
    coalesced: whether a sparse_coo states that its indices are sorted and unique; False for other layouts.
    """

    parts: Mapping[str, str]
    shape: tuple[int, ...]
    dtype: DType
    layout: str
    coalesced: bool = False

    @property
    def summary(self) -> str:
        """What it is, in a few words."""
        return f"{self.layout} {self.dtype} {list(self.shape)}" + (", coalesced" if self.coalesced else "")

    def to_dict(self) -> dict[str, Any]:
        """As the record, the digest and `inspect --json` spell it."""
        flag = {"coalesced": True} if self.coalesced else {}
        return {
            "kind": "sparse", "dtype": self.dtype.name, "layout": self.layout, **flag, "shape": list(self.shape),
            "parts": dict(self.parts),
        }  # fmt: skip


Composite = Quantized | Sparse


def roles(composite: Composite) -> tuple[str, ...]:
    """The roles of the parts that such a tensor has, in torch's order."""
    if isinstance(composite, Quantized):
        return VALUES, "scale", "zero_point"
    return (*INDICES[composite.layout], VALUES)


def from_dict(entry: Any) -> Composite:
    """The composite that `to_dict` spelled. Raises ValueError, TypeError, KeyError or AttributeError for other data."""
    parts = {as_text(role): as_text(name) for role, name in entry["parts"].items()}
    shape = tuple(as_size(n) for n in entry["shape"])
    dtype = DTYPES[as_text(entry["dtype"])]
    composite: Composite
    if entry["kind"] == "quantized":
        axis = entry.get("axis")
        composite = Quantized(parts, shape, dtype, as_text(entry["scheme"]), None if axis is None else as_size(axis))
    elif entry["kind"] == "sparse" and entry["layout"] in INDICES:
        composite = Sparse(parts, shape, dtype, entry["layout"], entry.get("coalesced", False) is True)
    else:
        raise ValueError("a tensor is made of parts in no way that is known")
    if set(parts) != set(roles(composite)) or len(set(parts.values())) != len(parts):
        raise ValueError("a tensor is made of parts that it does not have")
    return composite


def renamed(composite: Composite, names: Mapping[str, str]) -> Composite:
    """The composite with its parts under new names; a part without a new name keeps its own."""
    return replace(composite, parts={role: names.get(name, name) for role, name in composite.parts.items()})


def header_only(composite: Composite, alias: Hashable) -> LazyTensor:
    """The whole tensor as a header. It has no bytes of its own: reading it raises UnsupportedError."""

    def reader(start: int, stop: int) -> memoryview:
        raise UnsupportedError(f"{composite.summary} has no plain bytes", hint="read its parts, or to_torch()")

    return LazyTensor(TensorInfo.of(composite.dtype, composite.shape), reader, alias=alias)


def packed_bytes(dtype: DType, shape: tuple[int, ...]) -> int:
    """The size of torch's storage for a type with several integers to a byte: each row of the last dimension is rounded
    up to whole bytes.

    The integers themselves are packed without regard to rows; see `get_sub_byte_tensor_size` in
    ATen/quantized/Quantizer.cpp.
    """
    per_byte = 8 // dtype.bits
    return prod(shape[:-1]) * -(-shape[-1] // per_byte) if shape else 1


def problem(composite: Composite, infos: Mapping[str, TensorInfo]) -> str | None:
    """Why parts with these headers cannot make this tensor; None if they can."""
    missing = [name for name in composite.parts.values() if name not in infos]
    if missing:
        return f"its part {missing[0]!r} is missing"
    if len(composite.shape) > 64 or min(composite.shape, default=0) < 0 or prod(composite.shape) > _MAX_NUMEL:
        return f"no tensor has the shape {list(composite.shape)}"
    parts = {role: infos[name] for role, name in composite.parts.items()}
    if isinstance(composite, Quantized):
        return _quantized_problem(composite, parts)
    if parts[VALUES].dtype is not composite.dtype:
        return f"its values are {parts[VALUES].dtype}, not {composite.dtype}"
    return _coo_problem(composite, parts) if composite.layout == "sparse_coo" else _compressed_problem(composite, parts)


def _quantized_problem(composite: Quantized, parts: Mapping[str, TensorInfo]) -> str | None:
    carrier = CARRIERS.get(composite.dtype)
    if carrier is None:
        return f"{composite.dtype} is not a quantized type"
    values, scale, zero_point = parts[VALUES], parts["scale"], parts["zero_point"]
    held = composite.shape if composite.dtype.bits >= 8 else (packed_bytes(composite.dtype, composite.shape),)
    if (values.dtype, values.shape) != (carrier, held):
        return f"its integers are {values.dtype} {list(values.shape)}, not {carrier} {list(held)}"
    if composite.scheme == PER_TENSOR:
        sizes: tuple[int, ...] = ()
        fits = composite.axis is None and scale.dtype is DType.F64 and zero_point.dtype is DType.I64
    elif composite.scheme in _ZERO_POINTS:
        if composite.axis is None or not 0 <= composite.axis < len(composite.shape):
            return f"it has no dimension {composite.axis}, along which it is declared as quantized"
        sizes = (composite.shape[composite.axis],)
        fits = scale.dtype in _SCALES and zero_point.dtype in _ZERO_POINTS[composite.scheme]
    else:
        return f"there is no quantization scheme {composite.scheme!r}"
    if not fits:
        return (
            f"its scale is {scale.dtype} and its zero point {zero_point.dtype}, which {composite.scheme} does not have"
        )
    if scale.shape != sizes or zero_point.shape != sizes:
        return f"it has {list(scale.shape)} scales and {list(zero_point.shape)} zero points, and needs {list(sizes)}"
    return None


def _coo_problem(composite: Sparse, parts: Mapping[str, TensorInfo]) -> str | None:
    indices, values = parts["indices"], parts[VALUES]
    if indices.dtype is not DType.I64 or len(indices.shape) != 2:
        return f"its indices are {indices.dtype} {list(indices.shape)}, not I64 in rows"
    sparse, count = indices.shape
    if values.shape[:1] != (count,):
        return f"it has {count} indices and values of the shape {list(values.shape)}"
    if sparse > len(composite.shape) or values.shape[1:] != composite.shape[sparse:]:
        return f"{sparse} rows of indices and values {list(values.shape)} make no tensor {list(composite.shape)}"
    return None


@dataclass(frozen=True, slots=True)
class Compressed:
    """The sizes of a compressed layout.

    batches: the product of the batch dimensions.
    groups:  the rows in a batch (or columns, or rows or columns of blocks, depending on the layout).
    bound:   the most entries in a group.
    count:   the entries in a batch.
    """

    batches: int
    groups: int
    bound: int
    count: int


def compressed(composite: Sparse, infos: Mapping[str, TensorInfo]) -> Compressed | str:
    """The sizes of a layout other than sparse_coo, or what is wrong with the shapes of its parts."""
    outer, inner = (infos[composite.parts[role]] for role in INDICES[composite.layout])
    values = infos[composite.parts[VALUES]]
    if outer.dtype is not inner.dtype or outer.dtype not in (DType.I64, DType.I32):
        return f"its indices are {outer.dtype} and {inner.dtype}, not both I64 or I32"
    batch = outer.shape[:-1]
    at, has_blocks = len(batch), composite.layout in ("sparse_bsr", "sparse_bsc")
    count = inner.shape[-1] if inner.shape else 0
    block = values.shape[at + 1 : at + 3] if has_blocks else (1, 1)
    dense = values.shape[at + 3 if has_blocks else at + 1 :]
    shapes = f"indices {list(outer.shape)} and {list(inner.shape)} and values {list(values.shape)}"
    mismatch = f"{shapes} make no {composite.layout} tensor {list(composite.shape)}"
    if not outer.shape or inner.shape != (*batch, count) or values.shape[: at + 1] != (*batch, count):
        return mismatch
    if len(composite.shape) < at + 2 or composite.shape[:at] != batch or composite.shape[at + 2 :] != dense:
        return mismatch
    if (
        len(block) != 2
        or 0 in block
        or any(n % size for n, size in zip(composite.shape[at : at + 2], block, strict=True))
    ):
        return mismatch
    rows, columns = (n // size for n, size in zip(composite.shape[at : at + 2], block, strict=True))
    groups, bound = (rows, columns) if composite.layout in ("sparse_csr", "sparse_bsr") else (columns, rows)
    return mismatch if outer.shape[-1] != groups + 1 else Compressed(prod(batch), groups, bound, count)


def _compressed_problem(composite: Sparse, parts: Mapping[str, TensorInfo]) -> str | None:
    result = compressed(composite, {composite.parts[role]: info for role, info in parts.items()})
    return result if isinstance(result, str) else None
