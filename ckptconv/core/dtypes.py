"""Element types: one table of everything that torch, safetensors and ONNX can store.

Names follow safetensors where it has one (``F32``, ``BF16``, ``F8_E4M3``); the others are spelled in its manner
(``C128``, ``I4``, ``QI8``). Bytes are little-endian; elements under 8 bits are packed, the first in the lowest bits.
Complex numbers are two floats, real part first.

Sources: the safetensors crate's ``Dtype``; torch's ``c10/core/ScalarType.h``; ONNX's ``TensorProto.DataType``;
the OCP 8-bit and microscaling float specifications for what ``E4M3``, ``E8M0``, ``E2M1`` mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Kind = Literal["float", "int", "uint", "bool", "complex", "quantized", "block"]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: its name, its width in bits and what kind of number it is.

    A plug-in may make further ones of kind ``"block"``, whose bytes are no plain row of elements.
    """

    name: str
    bits: int
    kind: Kind

    F64: ClassVar[DType]
    F32: ClassVar[DType]
    F16: ClassVar[DType]
    BF16: ClassVar[DType]
    F8_E5M2: ClassVar[DType]
    F8_E4M3: ClassVar[DType]
    F8_E5M2FNUZ: ClassVar[DType]
    F8_E4M3FNUZ: ClassVar[DType]
    F8_E8M0: ClassVar[DType]
    F6_E2M3: ClassVar[DType]
    F6_E3M2: ClassVar[DType]
    F4: ClassVar[DType]
    I64: ClassVar[DType]
    I32: ClassVar[DType]
    I16: ClassVar[DType]
    I8: ClassVar[DType]
    I4: ClassVar[DType]
    I2: ClassVar[DType]
    U64: ClassVar[DType]
    U32: ClassVar[DType]
    U16: ClassVar[DType]
    U8: ClassVar[DType]
    U4: ClassVar[DType]
    U2: ClassVar[DType]
    BOOL: ClassVar[DType]
    C128: ClassVar[DType]
    C64: ClassVar[DType]
    C32: ClassVar[DType]
    QI32: ClassVar[DType]
    QI8: ClassVar[DType]
    QU8: ClassVar[DType]
    QU4: ClassVar[DType]
    QU2: ClassVar[DType]

    def nbytes(self, elements: int) -> int:
        """Bytes that `elements` of this type take, the last byte padded."""
        return (elements * self.bits + 7) // 8

    def __str__(self) -> str:
        return self.name


_ROWS: dict[Kind, str] = {
    "float": "F64:64 F32:32 F16:16 BF16:16 F8_E5M2:8 F8_E4M3:8 F8_E5M2FNUZ:8 F8_E4M3FNUZ:8 F8_E8M0:8 "
    "F6_E2M3:6 F6_E3M2:6 F4:4",
    "int": "I64:64 I32:32 I16:16 I8:8 I4:4 I2:2",
    "uint": "U64:64 U32:32 U16:16 U8:8 U4:4 U2:2",
    "bool": "BOOL:8",
    "complex": "C128:128 C64:64 C32:32",
    "quantized": "QI32:32 QI8:8 QU8:8 QU4:4 QU2:2",
}

DTYPES: dict[str, DType] = {
    name: DType(name, int(bits), kind)
    for kind, row in _ROWS.items()
    for name, bits in (cell.split(":") for cell in row.split())
}
"""Every built-in element type by name."""

for _dtype in DTYPES.values():
    setattr(DType, _dtype.name, _dtype)

COMPONENT: dict[DType, DType] = {DType.C128: DType.F64, DType.C64: DType.F32, DType.C32: DType.F16}
"""The float type of a complex type's real and imaginary part."""
