"""torch's names for element types: dtypes, storage classes, and which of them are refused.

Sources: torch/storage.py (`_dtype_to_storage_type_map`, `_new_dtypes`), c10/core/ScalarType.h.
"""

from __future__ import annotations

from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.core.dtypes import DType

DTYPE_BY_NAME = {name: dtype for dtype, name in TORCH_NAMES.items()}

STORAGE_CLASSES: dict[str, DType] = {
    "DoubleStorage": DType.F64,
    "FloatStorage": DType.F32,
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "LongStorage": DType.I64,
    "IntStorage": DType.I32,
    "ShortStorage": DType.I16,
    "CharStorage": DType.I8,
    "ByteStorage": DType.U8,
    "BoolStorage": DType.BOOL,
    "ComplexDoubleStorage": DType.C128,
    "ComplexFloatStorage": DType.C64,
}
"""Storage classes that imply an element type; all other types use UntypedStorage."""

STORAGE_CLASS_BY_DTYPE = {dtype: name for name, dtype in STORAGE_CLASSES.items()}

QUANTIZED_STORAGES: dict[str, DType] = {
    "QInt8Storage": DType.QI8,
    "QUInt8Storage": DType.QU8,
    "QInt32Storage": DType.QI32,
    "QUInt4x2Storage": DType.QU4,
    "QUInt2x4Storage": DType.QU2,
}
"""Storage classes of quantized tensors. If several elements share a byte, torch counts bytes as elements."""

QUANTIZED_STORAGE_BY_DTYPE = {dtype: name for name, dtype in QUANTIZED_STORAGES.items()}

UNTYPED = "UntypedStorage"

PACKED: dict[DType, int] = {DType.F4: 2}
"""Logical elements in one torch element; torch's shape has the last dimension halved."""

ALL_DTYPE_NAMES = frozenset(
    [
        *DTYPE_BY_NAME,
        "qint8",
        "quint8",
        "qint32",
        "quint4x2",
        "quint2x4",
        "bits8",
        "bits16",
        "bits1x8",
        "bits2x4",
        "bits4x2",
    ]
    + [f"{sign}int{n}" for sign in ("", "u") for n in range(1, 8)]
)
"""Every ``torch.<name>`` that is a dtype: one may be metadata even if no tensor of it can be read."""

QSCHEMES = frozenset(
    f"per_{what}"
    for what in (
        "tensor_affine",
        "tensor_symmetric",
        "channel_affine",
        "channel_symmetric",
        "channel_affine_float_qparams",
    )
)
MEMORY_FORMATS = frozenset(["contiguous_format", "preserve_format", "channels_last", "channels_last_3d"])
LAYOUTS = frozenset(
    f"torch.{n}"
    for n in ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "_mkldnn", "jagged")
)
