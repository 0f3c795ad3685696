"""PaddlePaddle's TensorDesc: the element type and shape of a tensor in the file, or of a variable of the program.

    1 data_type  2* dims, packed or in a field each; in a program, -1 if open

In a JSON program, types have names, after the number of a dialect: ``0.t_f32``.

Sources: paddle/phi/core/framework/framework.proto; paddle/fluid/pir/serialize_deserialize/include/schema.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptconv.core.dtypes import DType
from ckptconv.errors import CorruptFileError
from ckptconv.io.limits import MAX_RANK
from ckptconv.io.protobuf import signed
from ckptconv.io.varint import varint

DTYPES = {
    0: DType.BOOL, 1: DType.I16, 2: DType.I32, 3: DType.I64, 4: DType.F16, 5: DType.F32, 6: DType.F64, 20: DType.U8,
    21: DType.I8, 22: DType.BF16, 23: DType.C64, 24: DType.C128, 32: DType.F8_E4M3, 33: DType.F8_E5M2,
}  # fmt: skip
"""``VarType.Type``."""

NAMED_DTYPES = {
    "t_bool": DType.BOOL, "t_i16": DType.I16, "t_i32": DType.I32, "t_i64": DType.I64, "t_f16": DType.F16,
    "t_f32": DType.F32, "t_f64": DType.F64, "t_ui8": DType.U8, "t_i8": DType.I8, "t_bf16": DType.BF16,
    "t_c64": DType.C64, "t_c128": DType.C128, "t_f8e4m3fn": DType.F8_E4M3, "t_f8e5m2": DType.F8_E5M2,
}  # fmt: skip

OPEN = -1
"""A dimension of a variable that may have any size."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A parameter of a program. `dtype` is None if the type is unknown."""

    name: str
    dtype: DType | None
    shape: tuple[int, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be this parameter."""
        return len(shape) == len(self.shape) and all(
            stated in (OPEN, size) for stated, size in zip(self.shape, shape, strict=True)
        )


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the PaddlePaddle model is invalid: {what}")


def parse_description(data: bytes, whose: str) -> tuple[int, tuple[int, ...]]:
    """The number of the element type, and the shape, in a TensorDesc. Sizes may be negative; `whose` is for errors."""
    code, sizes, at = -1, list[int](), 0
    try:
        while at < len(data):
            tag, at = varint(data, at)
            value, at = varint(data, at)
            if tag == 0x08:
                code = value
            elif tag == 0x10:
                sizes.append(signed(value))
            elif tag == 0x12 and value <= len(data) - at:
                end = at + value
                while at < end:
                    size, at = varint(data, at)
                    sizes.append(signed(size))
            else:
                raise bad(f"the description of {whose} has another field")
    except (IndexError, OverflowError):
        raise bad(f"the description of {whose} is cut short") from None
    if len(sizes) > MAX_RANK:
        raise bad(f"{whose} has the shape {sizes[:8]} …")
    return code, tuple(sizes)
