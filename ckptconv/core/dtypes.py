"""Element types: one table of everything that torch, safetensors, ONNX and ggml can store.

Names are those of safetensors if it has one (``F32``, ``BF16``, ``F8_E4M3``); the others are spelled in the same way
(``C128``, ``I4``, ``QI8``). Bytes are little-endian; elements under 8 bits are packed, the first in the lowest bits.
Complex numbers are two floats, real part first. Block types, named as in ggml (``Q4_K``), store a fixed number of
elements of a row together with data that these share: their bytes are copied, never interpreted.

Sources: the safetensors crate's ``Dtype``; torch's ``c10/core/ScalarType.h``; ONNX's ``TensorProto.DataType``;
the OCP 8-bit and microscaling float specifications for what ``E4M3``, ``E8M0``, ``E2M1`` mean; ``ggml-common.h`` for
the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Kind = Literal["float", "int", "uint", "bool", "complex", "quantized", "block"]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: its name, its width in bits and what kind of number it is.

    block: the number of elements stored together; `bits` is the width of all of them. 1 except for types of kind
           ``"block"``, of which a plug-in may add more.
    """

    name: str
    bits: int
    kind: Kind
    block: int = 1

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
    BC32: ClassVar[DType]
    QI32: ClassVar[DType]
    QI8: ClassVar[DType]
    QU8: ClassVar[DType]
    QU4: ClassVar[DType]
    QU2: ClassVar[DType]

    def nbytes(self, elements: int) -> int:
        """Bytes that `elements` of this type take, with the last byte or block padded."""
        if self.block != 1:
            return -(-elements // self.block) * self.bits // 8
        return (elements * self.bits + 7) // 8

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)  # needed several times for each tensor; Python caches the hash of a string


_ROWS: dict[Kind, str] = {
    "float": "F64:64 F32:32 F16:16 BF16:16 F8_E5M2:8 F8_E4M3:8 F8_E5M2FNUZ:8 F8_E4M3FNUZ:8 F8_E8M0:8 "
    "F6_E2M3:6 F6_E3M2:6 F4:4",
    "int": "I64:64 I32:32 I16:16 I8:8 I4:4 I2:2",
    "uint": "U64:64 U32:32 U16:16 U8:8 U4:4 U2:2",
    "bool": "BOOL:8",
    "complex": "C128:128 C64:64 C32:32 BC32:32",
    "quantized": "QI32:32 QI8:8 QU8:8 QU4:4 QU2:2",
}

PLAIN: dict[str, DType] = {
    name: DType(name, int(bits), kind)
    for kind, row in _ROWS.items()
    for name, bits in (cell.split(":") for cell in row.split())
}
"""Every built-in element type whose tensors are plain rows of elements, by name."""

for _dtype in PLAIN.values():
    setattr(DType, _dtype.name, _dtype)

_BLOCKS: dict[int, str] = {
    32: "Q4_0:18 Q4_1:20 Q5_0:22 Q5_1:24 Q8_0:34 Q8_1:40 IQ4_NL:18 MXFP4:17",
    64: "NVFP4:36",
    128: "Q1_0:18",
    256: "Q2_K:84 Q3_K:110 Q4_K:144 Q5_K:176 Q6_K:210 Q8_K:292 IQ1_S:50 IQ1_M:56 IQ2_XXS:66 IQ2_XS:74 IQ2_S:82 "
    "IQ3_XXS:98 IQ3_S:110 IQ4_XS:136 TQ1_0:54 TQ2_0:66",
}
"""By elements per block: names of types, and bytes per block."""

BLOCKS: dict[str, DType] = {
    name: DType(name, 8 * int(nbytes), "block", block)
    for block, row in _BLOCKS.items()
    for name, nbytes in (cell.split(":") for cell in row.split())
}
"""ggml's quantized types by name. A row of such a tensor is a whole number of blocks."""

DTYPES: dict[str, DType] = {**PLAIN, **BLOCKS}
"""Every built-in element type by name."""

COMPONENT: dict[DType, DType] = {
    DType.C128: DType.F64, DType.C64: DType.F32, DType.C32: DType.F16, DType.BC32: DType.BF16,
}  # fmt: skip
"""The float type of a complex type's real and imaginary parts."""
