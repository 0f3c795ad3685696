"""Integers of any shape minus zero points, times scales: a single scale, one for each index of a dimension, or in
blocks.

    values        of 1 to 32 bits. Types that do not exist here (`codes`) are bytes of the shape `size`, with elements
                  from the lowest bits on
    codebook?     the values of codes of up to 8 bits; then there may be no scale. A codebook for each block, of equal
                  blocks along each dimension, has two more dimensions: the codes, and 1
    scale?        one; or one for each index of `axis`; or with as many dimensions as the values, one for each block: of
                  `block` indices along `axis` if that is given, else of equal size; reshaped to `counts` if given
    zero_point?   one, or as many as scales, of any type; bytes have the `codes` of the values
    inverse?      whether the inverse of each scale is stored
    factor?       one number for all scales; the product is rounded to the type `computed`, if that is F16
    shape?        the shape of the result

Several dimensions are treated as one row or column of a matrix if they share scales like one. Scales in blocks along
three dimensions are refused.

Sources: torch, ATen/native/quantized/AffineQuantizerBase.cpp (`dequantize_val`); onnx, docs/Operators.md
(DequantizeLinear); openvino, docs/ops/IR; coremltools, mil/ops/defs/iOS18/compression.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from math import prod
from struct import pack, unpack
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.edits.quantized.elements import E2M1, NF4, Folded, Packed, Plain
from ckptconv.edits.quantized.lookups import Looked
from ckptconv.edits.quantized.matrix import Constant, Grid, Inverse, Matrix, Product, Scaled
from ckptconv.edits.quantized.parts import FLOATS, MOST_NUMBERS, Parts, check_dtype, scalar, sizes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json

    Shape = tuple[int, ...]

INTEGERS = (
    DType.I8, DType.U8, DType.I16, DType.U16, DType.I32, DType.I4, DType.U4, DType.I2, DType.U2,
)  # fmt: skip
SMALL_FLOATS = (DType.F8_E4M3, DType.F8_E5M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ, DType.F4)
SCALES = (DType.F64, DType.F32, DType.F16, DType.BF16, DType.F8_E8M0, DType.F8_E4M3)
CODES: dict[str, tuple[float, ...]] = {"nf4": NF4, "nf4-f16": unpack("<16e", pack("<16e", *NF4))} | {
    f"uint{bits}": tuple(float(code) for code in range(1 << bits)) for bits in (1, 2, 3, 4, 6, 8)
}
"""The values of elements that are stored as bytes."""


def affine(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, Shape]:
    """The weight, and its shape. Raises ValueError, saying what does not fit."""
    values, codes = parts["values"], details.get("codes")
    shape = sizes_of(details, "size") if codes is not None else values.info.shape
    book = parts.get("codebook")
    if book is not None and len(book.info.shape) > 1 and book.info.shape[-1] != 1:
        raise ValueError(f"a codebook of vectors of {book.info.shape[-1]} numbers is not read")
    if book is not None and prod(book.info.shape[:-2]) > 1:
        return _with_block_codebooks(values, book, shape, codes), shape
    table = _code_values(values, book, codes)
    if table is None:
        check_dtype(values, "values", (*INTEGERS, *SMALL_FLOATS))
    result = sizes_of(details, "shape") if "shape" in details else shape
    if prod(result) != prod(shape):
        raise ValueError(f"values of the shape {list(shape)} do not make one of {list(result)}")
    if "scale" not in parts:
        if table is None or "zero_point" in parts:
            raise ValueError("affine needs the part 'scale'")
        return elements(values, (1, prod(shape)), table), result
    counts, blocks = scaled_along(shape, parts["scale"].info.shape, details)
    size, grid, by = layout(shape, blocks)
    zeros = _zeros(parts["zero_point"], prod(counts), by, codes) if "zero_point" in parts else None
    return Product(elements(values, size, table), _scales(parts, by, details), grid, zeros), result


def _with_block_codebooks(values: LazyTensor, book: LazyTensor, shape: Shape, codes: Json) -> Matrix:
    """Codes with a codebook for each block: [blocks along each dimension.., codes, 1]."""
    *counts, many, _ = book.info.shape
    plain = _code_values(values, None, codes)
    bits = len(plain).bit_length() - 1 if plain else values.info.dtype.bits
    check_dtype(book, "codebook", (*FLOATS, DType.I8, DType.U8))
    if values.info.dtype.kind != "uint" or many != 1 << bits or bits > 8:
        raise ValueError(f"a codebook of the shape {list(book.info.shape)} is not for elements of {bits} bits")
    if book.info.numel > MOST_NUMBERS:
        raise ValueError(f"codebooks have {book.info.numel:,} numbers, more than {MOST_NUMBERS:,}")
    size, grid, by = layout(shape, scaled_along(shape, tuple(counts), {})[1])
    tables = book.numpy().reshape(-1, many).astype("<f4")
    return Looked(elements(values, size, plain), tables, grid, by)


def _scales(parts: Parts, by: tuple[int, int], details: Mapping[str, Json]) -> Matrix:
    check_dtype(parts["scale"], "scale", SCALES)
    inverse = details.get("inverse") is True
    scales: Matrix = Plain(parts["scale"], by, wide="axis" in details and not inverse)  # torch multiplies by F64 there
    if inverse:
        scales = Inverse(scales)
    if "factor" not in parts:
        return scales
    rounded = DType.F16 if details.get("computed") == DType.F16.name else None
    return Scaled(scales, scalar(parts["factor"], "factor"), divides=False, rounded=rounded)


def _zeros(zero: LazyTensor, count: int, by: tuple[int, int], codes: Json) -> Matrix:
    check_dtype(zero, "zero_point", (*INTEGERS, *SMALL_FLOATS, DType.I64, *SCALES))
    packed = codes is not None and zero.info.dtype is DType.U8
    table = _code_values(zero, None, codes if packed else None)
    if zero.info.numel == 1 and count > 1:
        return Constant(float(elements(zero, (1, 1), table).rectangle(range(1), range(1))[0, 0]), by)
    if zero.info.numel != count and not packed:
        raise ValueError(f"zero_point has the shape {list(zero.info.shape)}, and there are {count} scales")
    return elements(zero, by, table)


def _code_values(tensor: LazyTensor, codebook: LazyTensor | None, codes: Json) -> tuple[float, ...] | None:
    """The values of the codes; None if the tensor's elements are the values themselves."""
    dtype = tensor.info.dtype
    if codes is not None and (codes not in CODES or dtype is not DType.U8):
        raise ValueError(f"elements of {dtype} are no {codes!r}")
    table = CODES[str(codes)] if codes is not None else None
    if codebook is not None:
        bits = len(table).bit_length() - 1 if table else dtype.bits
        check_dtype(codebook, "codebook", (*SCALES, *SMALL_FLOATS, *INTEGERS))
        if bits > 8 or codebook.info.numel > 1 << bits or (table is None and dtype.kind != "uint"):
            raise ValueError(f"{codebook.info.numel} values are not told apart by elements of {dtype}")
        found = elements(codebook, (1, codebook.info.numel), None).rectangle(range(1), range(codebook.info.numel))
        nothing = ((1 << bits) - codebook.info.numel) * (math.nan,)
        return (*map(float, found[0]), *nothing)
    if table is None and dtype.bits < 8:
        half = 1 << (dtype.bits - 1) if dtype.kind == "int" else 0
        plain = tuple(float((code ^ half) - half) for code in range(1 << dtype.bits))
        return E2M1 if dtype is DType.F4 else plain
    return table


def scaled_along(shape: Shape, scale: Shape, details: Mapping[str, Json]) -> tuple[Shape, Shape]:
    """How many scales there are along each dimension, and how many indices share one."""
    axis, block = details.get("axis"), details.get("block")
    if "counts" in details:
        counts = sizes_of(details, "counts")
        if prod(counts) != prod(scale):
            raise ValueError(f"a scale of shape {list(scale)} is none of {list(counts)}")
        scale = counts
    if axis is not None and (type(axis) is not int or not 0 <= axis < len(shape)):
        raise ValueError(f"axis {axis!r} is none of {len(shape)} dimensions")
    if block is None and prod(scale) == 1:
        return (1,) * len(shape), shape
    if block is None and len(scale) == 1 and isinstance(axis, int):
        counts = tuple(scale[0] if place == axis else 1 for place in range(len(shape)))
    else:
        counts = (1,) * (len(shape) - len(scale)) + scale
    whole = tuple(size // max(many, 1) for size, many in zip(shape, counts, strict=False))
    if isinstance(axis, int) and block is not None:
        if type(block) is not int or block < 1:
            raise ValueError(f"block is a number of indices, not {block!r}")
        whole = tuple(block if place == axis else one for place, one in enumerate(whole))
    if len(counts) != len(shape) or any(
        many != -(-size // max(one, 1)) or (one * many != size and place != axis)
        for place, (size, many, one) in enumerate(zip(shape, counts, whole, strict=False))
    ):
        along = "" if axis is None else f", axis {axis}" + ("" if block is None else f" in blocks of {block}")
        raise ValueError(f"a scale of shape {list(scale)} does not go with values of {list(shape)}{along}")
    return counts, whole


def layout(shape: Shape, blocks: Shape) -> tuple[tuple[int, int], Grid, tuple[int, int]]:
    """The values' rows and columns as a matrix, which scale is for which values, and the scales' rows and columns."""
    merged: list[tuple[int, int]] = []
    for size, block in zip(shape, blocks, strict=True):
        whole, shared = merged[-1] if merged else (1, 1)
        if size == 1:
            continue
        if merged and block == size:  # one scale for all of it
            merged[-1] = whole * size, shared * size
        elif merged and shared == 1 and block and size % block == 0:
            merged[-1] = whole * size, block
        else:
            merged.append((size, block))
    if len(merged) > 3 or (len(merged) == 3 and merged[0][1] != 1):
        raise ValueError(f"scales in blocks of {list(blocks)} along several dimensions of {list(shape)} are not read")
    (above, _), (rows, high), (columns, wide) = [(1, 1)] * (3 - len(merged)) + merged
    high, wide = max(high, 1), max(wide, 1)
    lines, across = -(-rows // high), -(-columns // wide)
    return (above * rows, columns), Grid(max(rows, 1), high, wide, lines), (above * lines, across)


def elements(tensor: LazyTensor, size: tuple[int, int], table: tuple[float, ...] | None) -> Matrix:
    """The elements of a tensor, in order, as a matrix of that size.

    With a table, they have as few bits as its length needs, one after another across rows.
    """
    if table is None:
        if tensor.info.dtype.bits < 8:
            table = _code_values(tensor, None, None)
        else:
            return Plain(tensor, size)
    assert table is not None
    bits, many = len(table).bit_length() - 1, size[0] * size[1]
    if tensor.info.nbytes != -(-many * bits // 8):
        raise ValueError(f"{tensor.info.nbytes} bytes do not hold {many} elements of {bits} bits")
    return Folded(Packed(in_words(tensor, bits), (1, many), bits, 1, table), size)


def in_words(tensor: LazyTensor, bits: int) -> LazyTensor:
    """The tensor's bytes, padded with zeros so that elements fill them."""
    nbytes, unit = tensor.info.nbytes, 1 if 8 % bits == 0 else bits
    whole = -(-nbytes // unit) * unit
    info = TensorInfo.of(DType.U8, (whole,))
    if whole == nbytes:
        return replace(tensor, info=info, placement=None, alias=None)

    def reader(start: int, stop: int) -> memoryview:
        there = tensor.read(min(start, nbytes), min(stop, nbytes))
        return memoryview(bytes(there).ljust(stop - start, b"\0"))

    return LazyTensor(info, reader, depends=tensor.depends)
