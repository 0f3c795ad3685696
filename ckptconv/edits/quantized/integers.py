"""Packed integers of few bits: compressed-tensors' pack-quantized, GPTQ, AWQ, and onnxruntime's MatMulNBits
(`schemes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.quantized.elements import Packed, Plain
from ckptconv.edits.quantized.matrix import Grid, Matrix, Product
from ckptconv.edits.quantized.parts import FLOATS, Parts, check_dtype, numbers, swap_last_axes
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

WORD = 32

PACKED = (1, 2, 4, 8)
"""The bits that divide a word. For others, compressed-tensors has had two layouts."""

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where the elements of a word lie in AWQ's "gemm" layout."""


def packed(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """compressed-tensors: rows of `bits` bits, signed by subtracting half of their range."""
    words, scale, zero = parts["packed"], parts["scale"], parts.get("zero_point")
    check_dtype(words, "packed", (DType.I32,))
    check_dtype(scale, "scale", FLOATS)
    rows, width = _matrix(words, "packed")
    columns = _columns(parts.get("shape"), rows, width)
    bits = _bits(details, PACKED, _only_fitting_bits(columns, width))
    many = WORD // bits
    columns = width * many if columns is None else columns
    if -(-columns // many) != width:
        raise ValueError(f"rows of {columns} elements of {bits} bits are not packed into {width} words")
    lines, groups = _matrix(scale, "scale")
    if lines != rows or not groups:
        raise ValueError(f"scale has the shape {[lines, groups]}, and the weight {rows} rows")
    grid = _grid(parts.get("g_idx"), columns, groups, rows)
    half = 1 << (bits - 1)
    table = tuple(float(code - half) for code in range(1 << bits))
    zeros = None
    if zero is not None:
        check_dtype(zero, "zero_point", (DType.I32,))
        if zero.info.shape != (-(-rows // many), groups):
            raise ValueError(f"zero_point has the shape {list(zero.info.shape)}, not {[-(-rows // many), groups]}")
        zeros = Packed(zero, (rows, groups), bits, 0, table)
    values = Packed(words, (rows, columns), bits, 1, table)
    return Product(values, Plain(scale, (rows, groups)), grid, zeros), (rows, columns)


def gptq(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """GPTQ: inputs first and packed along inputs; zero points packed along outputs."""
    words, scales, zeros, order = parts["qweight"], parts["scales"], parts["qzeros"], parts.get("g_idx")
    bits = _bits(details, (2, 3, 4, 8))
    if details.get("zeros") not in ("v1", "v2"):
        raise ValueError('zeros is "v1" (stored less one: checkpoint_format gptq) or "v2"')
    tall, outputs = _matrix(words, "qweight")
    groups = _check_groups(parts, outputs, -(-outputs * bits // WORD))
    inputs = tall * WORD // bits if order is None else order.info.numel
    if -(-inputs * bits // WORD) != tall or (bits == 3 and (inputs % WORD or outputs % WORD)):
        raise ValueError(
            f"{inputs} inputs and {outputs} outputs of {bits} bits are not packed into {tall} rows of words"
        )
    table = tuple(float(code) for code in range(1 << bits))
    values = Packed(swap_last_axes(words, words.info.shape), (outputs, inputs), bits, 1, table)
    zero_points = _zero_points(
        swap_last_axes(zeros, zeros.info.shape), (outputs, groups), bits, table, first=details["zeros"] == "v1"
    )
    by = Plain(swap_last_axes(scales, scales.info.shape), (outputs, groups))
    return Product(values, by, _grid(order, inputs, groups, outputs), zero_points), (outputs, inputs)


def nbits(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """onnxruntime: rows in blocks of bytes, the last block of a row padded; zero points packed, or floats."""
    words, scale, zero = parts["values"], parts["scale"], parts.get("zero_point")
    check_dtype(words, "values", (DType.U8,))
    check_dtype(scale, "scale", FLOATS)
    bits = _bits(details, (2, 4, 8))
    rows, columns, block = (_size(details, key) for key in ("rows", "columns", "block"))
    groups, each = -(-columns // block), block * bits // 8
    if block * bits % 8:
        raise ValueError(f"blocks of {block} elements of {bits} bits do not end with a byte")
    if words.info.numel != rows * groups * each or scale.info.numel != rows * groups:
        raise ValueError(
            f"{rows} rows of {columns} columns in blocks of {block} are not values of {list(words.info.shape)} with "
            f"scales of {list(scale.info.shape)}"
        )
    half, across = 1 << (bits - 1), -(-groups * bits // 8)
    table = tuple(float(code - half) for code in range(1 << bits))  # without zero points, half is the zero point
    zeros: Matrix | None = None
    if zero is not None and zero.info.dtype is DType.U8:
        if zero.info.numel != rows * across:
            raise ValueError(f"zero_point has the shape {list(zero.info.shape)}, not {[rows, across]}")
        zeros = Packed(reshaped(zero, (rows, across)), (rows, groups), bits, 1, table)
    elif zero is not None:
        check_dtype(zero, "zero_point", FLOATS)
        if zero.info.numel != rows * groups:
            raise ValueError(f"zero_point has the shape {list(zero.info.shape)}, not {[rows, groups]}")
        zeros, table = Plain(zero, (rows, groups)), tuple(map(float, range(1 << bits)))
    values = Packed(reshaped(words, (rows, groups * each)), (rows, columns), bits, 1, table)
    return Product(values, Plain(scale, (rows, groups)), Grid(max(rows, 1), 1, block, rows), zeros), (rows, columns)


def _size(details: Mapping[str, Json], key: str) -> int:
    size = details.get(key)
    if type(size) is not int or size < 1:
        raise ValueError(f"{key} is a number of at least 1, not {size!r}")
    return size


def _zero_points(
    zeros: LazyTensor, shape: tuple[int, int], bits: int, table: tuple[float, ...], *, first: bool
) -> Packed:
    """Zero points. Those of the first format get the one back that was subtracted.

    GPTQModel adds it to a whole word at a time, so that a carry goes into the next element; with 3 bits, to each by
    itself.
    """
    if first and bits == 3:
        return Packed(zeros, shape, bits, 0, (*table[1:], table[0]))
    return Packed(zeros, shape, bits, 0, table, add=0xFFFFFFFF // ((1 << bits) - 1) if first else 0)


def awq(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, tuple[int, ...]]:
    """AWQ: inputs first; weights and zero points packed along outputs."""
    words, scales, zeros = parts["qweight"], parts["scales"], parts["qzeros"]
    bits = _bits(details, (4,), 4)
    many = WORD // bits
    inputs, wide = _matrix(words, "qweight")
    outputs = wide * many
    groups = _check_groups(parts, outputs, wide)
    table = tuple(float(code) for code in range(1 << bits))
    values = Packed(swap_last_axes(words, words.info.shape), (outputs, inputs), bits, 0, table, AWQ_ORDER)
    zero_points = Packed(swap_last_axes(zeros, zeros.info.shape), (outputs, groups), bits, 0, table, AWQ_ORDER)
    by = Plain(swap_last_axes(scales, scales.info.shape), (outputs, groups))
    return Product(values, by, _grid(None, inputs, groups, outputs), zero_points), (outputs, inputs)


def _check_groups(parts: Parts, outputs: int, wide: int) -> int:
    """The number of groups of the inputs. Raises ValueError where types or shapes do not fit."""
    check_dtype(parts["qweight"], "qweight", (DType.I32,))
    check_dtype(parts["qzeros"], "qzeros", (DType.I32,))
    check_dtype(parts["scales"], "scales", FLOATS)
    groups, across = _matrix(parts["scales"], "scales")
    if across != outputs or not groups or parts["qzeros"].info.shape != (groups, wide):
        raise ValueError(
            f"qweight of {outputs} outputs, scales of shape {[groups, across]} and qzeros of "
            f"{list(parts['qzeros'].info.shape)} do not go together"
        )
    return groups


def _grid(order: LazyTensor | None, columns: int, groups: int, rows: int) -> Grid:
    """Which group each column is in: by `order`, else groups of equal size one after another."""
    height = max(rows, 1)
    if order is None:
        if columns % groups:
            raise ValueError(f"{columns} columns are not {groups} groups of equal size")
        return Grid(height, 1, max(columns // groups, 1), height)
    found = numbers(order, "g_idx")
    if len(found) != columns:
        raise ValueError(f"g_idx has {len(found)} elements, and the weight {columns} columns")
    if columns and (found == -1).all():  # compressed-tensors' way to say that columns are in order
        return _grid(None, columns, groups, rows)
    if columns and not 0 <= found.min() <= found.max() < groups:
        raise ValueError(f"g_idx names groups from {found.min()} to {found.max()}, of {groups}")
    return Grid(height, 1, 1, height, found)


def _columns(shape: LazyTensor | None, rows: int, width: int) -> int | None:
    """The number of columns in the shape's tensor, if there is one."""
    if shape is None:
        return None
    found = [int(size) for size in numbers(shape, "shape", most=8)]
    if len(found) != 2 or found[0] != rows or not 0 <= found[1] <= width * WORD:
        raise ValueError(f"shape says {found}, and packed has {rows} rows of {width} words")
    return found[1]


def _only_fitting_bits(columns: int | None, width: int) -> int | None:
    """The number of bits with which so many columns fill so many words, if there is exactly one."""
    fits = [bits for bits in PACKED if columns is not None and -(-columns * bits // WORD) == width]
    return fits[0] if len(fits) == 1 else None


def _bits(details: Mapping[str, Json], known: tuple[int, ...], default: int | None = None) -> int:
    bits = details.get("bits", default)
    if type(bits) is not int or bits not in known:
        what = "bits is missing" if bits is None else f"weights of {bits} bits are not known here"
        raise ValueError(f"{what}: {', '.join(map(str, known))}")
    return bits


def _matrix(tensor: LazyTensor, part: str) -> tuple[int, int]:
    if len(tensor.info.shape) != 2:
        raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, and is not a matrix")
    rows, columns = tensor.info.shape
    return rows, columns
