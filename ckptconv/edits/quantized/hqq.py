"""HQQ: integers of 1 to 8 bits, with zero points that are not integers (`schemes`).

W_q is the weight [O, I] in another shape: [G, I·O/G] for groups of G along the first dimension (axis 0), [I·O/G, G]
along the second (axis 1), or its own shape if there are no groups. Its rows are packed in slabs: `many` slabs of rows
are stored in the same words, the first one in the highest bits.

    8bit_u8   1 in U8            2bit_u8   4 in U8            3bit_32   10 in I32, the last slab padded with rows
    4bit_u8   2 in U8            1bit_u8   8 in U8

scale and zero have one element for each row (axis 1), for each column (axis 0), or for everything. hqq's other settings
are tensors too, as `encode_safetensor_type` makes them: numbers, flags as U8, texts as U8 characters. With
view_as_float, the bytes of W_q are those of elements of compute_dtype. hqq computes in compute_dtype, and rounds the
difference from the zero point, and the product.

Sources: hqq 0.2.8, core/quantize.py (`Quantizer.dequantize`, `HQQLinear.state_dict`), core/bitpack.py, core/utils.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.quantized.elements import Plain, cut, read
from ckptconv.edits.quantized.matrix import Grid, Matrix, Product
from ckptconv.edits.quantized.parts import FLOATS, Parts, check_dtype, numbers
from ckptconv.io.limits import MAX_DIM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

PACKINGS = {
    "8bit_u8": (8, 1, 1), "4bit_u8": (4, 2, 1), "2bit_u8": (2, 4, 1), "1bit_u8": (1, 8, 1), "3bit_32": (3, 10, 4),
}  # fmt: skip
"""Name → bits of an element, slabs in a word, bytes of a word."""

TYPES = {"torch.float16": DType.F16, "torch.bfloat16": DType.BF16, "torch.float32": DType.F32}

MOST_CHARACTERS = 64
"""The most characters of a text."""


@dataclass(frozen=True, slots=True)
class Slabs:
    """Elements of `bits` bits in words; each word has one element of every slab of `step` rows.

    width: words in a row. many: slabs. unit: bytes of a word.
    """

    words: LazyTensor
    rows: int
    width: int
    step: int
    bits: int
    many: int
    unit: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, without the rows that pad the last slab."""
        return self.rows, self.width

    @property
    def light(self) -> bool:
        """Whether the words lie in their file as one run."""
        return self.words.span is not None

    def rectangle(self, rows: range, columns: range) -> Array:
        """Unpacked."""
        import numpy as np

        result = np.empty((len(rows), len(columns)), np.float32)
        at = rows.start
        while at < rows.stop:
            slab, first = divmod(at, self.step)
            end = min(rows.stop, (slab + 1) * self.step)
            lines = range(first, first + end - at)
            data, shape = read(self.words, (self.step, self.width), lines, columns, self.unit)
            codes = cut(np.frombuffer(data, f"<u{self.unit}").reshape(shape), columns)
            shift = self.bits * (self.many - 1 - slab)
            result[at - rows.start : end - rows.start] = (codes >> shift) & ((1 << self.bits) - 1)
            at = end
        return result


def weight(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """The weight, and its shape. Raises ValueError, saying what does not fit."""
    for flag in ("quant_scale", "quant_zero"):
        if flag in parts and _flag(parts[flag], flag):
            raise ValueError(f"{flag} says that scales or zero points are quantized, too, which is not unpacked")
    shape = _shape(parts["shape"])
    dtype = _dtype(parts)
    values = _slabs(parts, prod(shape))
    scales, zeros = parts["scale"], parts["zero"]
    for part, tensor in (("scale", scales), ("zero", zeros)):
        check_dtype(tensor, part, FLOATS)
        if tensor.info.dtype is not dtype:
            raise ValueError(f"{part} is {tensor.info.dtype}, and compute_dtype {dtype}")
    rows, columns = values.shape
    axis = _number(parts["axis"], "axis")
    if axis not in (0, 1):
        raise ValueError(f"axis is {axis:g}, and neither 0 nor 1")
    size = (rows, 1) if axis else (1, columns)
    if scales.info.numel == zeros.info.numel == 1:
        size = (1, 1)
    for part, tensor in (("scale", scales), ("zero", zeros)):
        if tensor.info.numel != prod(size):
            raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, and not {list(size)}")
    each_row, each_column = size[0] == rows, size[1] == columns
    grid = Grid(max(rows, 1), 1 if each_row else max(rows, 1), 1 if each_column else max(columns, 1), size[0])
    rounded = None if dtype is DType.F32 else dtype
    return Product(values, Plain(scales, size), grid, Plain(zeros, size), rounded=rounded), shape


def _slabs(parts: Parts, count: int) -> Slabs:
    words, name = parts["W_q"], _text(parts["packing"], "packing")
    if name not in PACKINGS:
        raise ValueError(f"packing is {name!r}, and none of {', '.join(PACKINGS)}")
    bits, many, unit = PACKINGS[name]
    nbits = _number(parts["nbits"], "nbits")
    if nbits > bits or (nbits == 3) is not (bits == 3):  # 5 and 6 bits are packed as 8, 1.58 as 2
        raise ValueError(f"nbits is {nbits:g}, and the packing {name}")
    viewed = "view_as_float" in parts and _flag(parts["view_as_float"], "view_as_float")
    check_dtype(words, "W_q", FLOATS if viewed else (DType.U8 if unit == 1 else DType.I32,))
    if len(words.info.shape) != 2 or not words.info.numel:
        raise ValueError(f"W_q has the shape {list(words.info.shape)}, and is not a matrix")
    step = words.info.shape[0]
    width, left = divmod(words.info.nbytes, step * unit)
    rows, over = divmod(count, width) if width else (0, 1)
    if left or over or -(-rows // many) != step or (rows != step * many and bits != 3):
        raise ValueError(
            f"W_q of shape {list(words.info.shape)}, packed as {name}, is not a weight of {count:,} elements"
        )
    return Slabs(words, rows, width, step, bits, many, unit)


def _dtype(parts: Parts) -> DType:
    if "compute_dtype" not in parts:
        return DType.F16
    name = _text(parts["compute_dtype"], "compute_dtype")
    if name not in TYPES:
        raise ValueError(f"compute_dtype is {name!r}, and none of {', '.join(TYPES)}")
    return TYPES[name]


def _shape(tensor: LazyTensor) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in numbers(tensor, "shape", most=2))
    if len(sizes) != 2 or min(sizes) < 0 or prod(sizes) > MAX_DIM:
        raise ValueError(f"shape is {list(sizes)}, and no matrix's")
    return sizes


def _number(tensor: LazyTensor, part: str) -> float:
    """The only element; nbits may be 1.58."""
    check_dtype(tensor, part, (DType.I32, DType.I64, DType.F32))
    if tensor.info.numel != 1:
        raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, and not one element")
    return float(tensor.numpy().reshape(-1)[0])


def _flag(tensor: LazyTensor, part: str) -> bool:
    check_dtype(tensor, part, (DType.U8, DType.BOOL))
    if tensor.info.numel != 1:
        raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, and not one element")
    return bytes(tensor.read()) != b"\0"


def _text(tensor: LazyTensor, part: str) -> str:
    check_dtype(tensor, part, (DType.U8,))
    if tensor.info.numel > MOST_CHARACTERS:
        raise ValueError(f"{part} has {tensor.info.numel:,} characters")
    return bytes(tensor.read()).decode("latin-1")
