"""Computes a weight from its parts (`classes`). The `form` in its details says how:

    plain              values, scale, zero_point?; `counts` of blocks along each dimension, `middle`?
    shards             the same, but values (shard_2, shard_3) of `bits` bits in slabs; `shape`
    int4               values, scale, zero_point; `counts`
    tiles              values, pairs of scales and zero points; `shape`, `block`, `each`: whether each step is rounded
    blocks of FLOATS   values, scale, factor?; `block`, `swizzled`
    nf4                values, scale, factor, zero_point, codebook; `shape`, `block`, `columns` that share a factor

`middle`: what is subtracted from the values; zero points are then added. `computed`: the type that steps round to.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.quantized.blocks import elements, layout
from ckptconv.edits.quantized.elements import E2M1, Packed, Plain
from ckptconv.edits.quantized.matrix import Constant, Grid, Matrix, Product, Scaled
from ckptconv.edits.quantized.parts import FLOATS, Parts, check_dtype, folded, scalar, sizes_of, swap_last_axes
from ckptconv.edits.quantized.torchao import layouts
from ckptconv.edits.quantized.torchao.classes import SHARD_PARTS, SHARDS
from ckptconv.edits.rearrange import transposed
from ckptconv.io.limits import MAX_DIM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

    Shape = tuple[int, ...]

_COMPUTED = {"F32": None, "BF16": DType.BF16, "F16": DType.F16}
_VALUES = (DType.I8, DType.U8, DType.F8_E4M3, DType.F8_E5M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ)
_ZEROS = (*FLOATS, DType.I8, DType.U8, DType.I32, DType.I64)
_SHARD_BITS = {bits: tuple(int(name[3]) for name in names) for bits, names in SHARDS.items()}
_INT4 = (*map(float, range(8)), *map(float, range(-8, 0)))


def _six_bits(exponent: int, mantissa: int) -> tuple[float, ...]:
    """The values of 6-bit floats (OCP Microscaling Formats 1.0, 5.3.2), by byte; the two highest bits are ignored."""
    bias, steps = (1 << (exponent - 1)) - 1, 1 << mantissa
    values = []
    for code in range(32):
        high, low = divmod(code, steps)
        values.append((low / steps) * 2.0 ** (1 - bias) if not high else (1 + low / steps) * 2.0 ** (high - bias))
    return (*values, *(-value for value in values)) * 4


_SIX_BITS = {"fp6_e2m3": _six_bits(2, 3), "fp6_e3m2": _six_bits(3, 2)}


def weight(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, Shape]:
    """The weight, and its shape. Raises ValueError, which says what does not fit."""
    form, computed = details.get("form"), details.get("computed")
    if computed not in _COMPUTED or not isinstance(computed, str):
        raise ValueError(f"computed is {', '.join(_COMPUTED)}, not {computed!r}")
    rounded = _COMPUTED[computed]
    match form:
        case "plain":
            return _plain(parts, details, rounded)
        case "shards":
            return _shards(parts, details, rounded)
        case "int4":
            return _int4(parts, details)
        case "tiles":
            return _tiles(parts, details, rounded if details.get("each") is True else None)
        case "nf4":
            return _nf4(parts, details, rounded)
        case str() if form.startswith("blocks of "):
            return _blocks(parts, details, form.removeprefix("blocks of "), rounded)
    raise ValueError(f"torchao has no form {form!r}")


def _part(parts: Parts, name: str) -> LazyTensor:
    if name not in parts:
        raise ValueError(f"torchao needs the part {name!r}")
    return parts[name]


def _blocks_of(shape: Shape, details: Mapping[str, Json], scale: LazyTensor) -> tuple[Shape, Shape]:
    """How many blocks there are along each dimension, and how large one is."""
    counts = sizes_of(details, "counts")
    if len(counts) != len(shape) or any(not count or size % count for size, count in zip(shape, counts, strict=True)):
        raise ValueError(f"{list(counts)} blocks do not go with values of {list(shape)}")
    if prod(counts) != scale.info.numel:
        raise ValueError(f"a scale of shape {list(scale.info.shape)} is none of {list(counts)} blocks")
    return counts, tuple(size // count for size, count in zip(shape, counts, strict=True))


def _product(
    values: Matrix, parts: Parts, details: Mapping[str, Json], rounded: DType | None, grid: Grid, by: tuple[int, int]
) -> Matrix:
    scale, zero = _part(parts, "scale"), parts.get("zero_point")
    check_dtype(scale, "scale", FLOATS)
    points: Matrix | None = None
    if zero is not None:
        check_dtype(zero, "zero_point", _ZEROS)
        if zero.info.numel != scale.info.numel:
            raise ValueError(f"zero_point has the shape {list(zero.info.shape)}, and scale {list(scale.info.shape)}")
        points = Plain(zero, by)
    scales = Plain(scale, by)
    if "middle" not in details:
        return Product(values, scales, grid, points, rounded=rounded)
    middle = details["middle"]
    if type(middle) is not int or not 0 <= middle < 256:
        raise ValueError(f"middle is a value of 8 bits, not {middle!r}")
    return Product(values, scales, grid, Constant(float(middle), by), biases=points, rounded=rounded)


def _plain(parts: Parts, details: Mapping[str, Json], rounded: DType | None) -> tuple[Matrix, Shape]:
    values = _part(parts, "values")
    check_dtype(values, "values", _VALUES)
    shape = values.info.shape
    _, block = _blocks_of(shape, details, _part(parts, "scale"))
    size, grid, by = layout(shape, block)
    return _product(elements(values, size, None), parts, details, rounded, grid, by), shape


def _shards(parts: Parts, details: Mapping[str, Json], rounded: DType | None) -> tuple[Matrix, Shape]:
    shape, bits = sizes_of(details, "shape"), details.get("bits")
    if type(bits) is not int or bits not in _SHARD_BITS or len(shape) != 2 or shape[1] % 8:
        raise ValueError(f"shards are of 1 to 7 bits and matrices of columns by 8, not {bits!r} and {list(shape)}")
    found = []
    for name, each in zip(SHARD_PARTS, _SHARD_BITS[bits], strict=False):
        shard = _part(parts, name)
        check_dtype(shard, name, (DType.U8,))
        if shard.info.numel != prod(shape) * each // 8:
            raise ValueError(f"{name} of shape {list(shard.info.shape)} is not of {each} bits of {list(shape)}")
        found.append((shard, each))
    counts, block = _blocks_of(shape, details, _part(parts, "scale"))
    rows, columns = shape
    grid = Grid(max(rows, 1), max(block[0], 1), max(block[1], 1), counts[0])
    values = layouts.Shards(tuple(found), (rows, columns))
    return _product(values, parts, details, rounded, grid, (counts[0], counts[1])), shape


def _int4(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, Shape]:
    values, scale, zero = (_part(parts, name) for name in ("values", "scale", "zero_point"))
    check_dtype(values, "values", (DType.I8, DType.U8))
    *lead, half = values.info.shape or (0,)
    shape = (*lead, 2 * half)
    counts, block = _blocks_of(shape, details, scale)
    if len(shape) < 2 or counts[:-1] != shape[:-1]:
        raise ValueError(f"{list(counts)} blocks are not groups along rows of {list(shape)}")
    stored = (*lead[:-1], counts[-1], lead[-1])
    for part, tensor in (("scale", scale), ("zero_point", zero)):
        check_dtype(tensor, part, FLOATS)
        if tensor.info.shape != stored:
            raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, and not {list(stored)}")
    rows = max(prod(lead), 1)
    scales, zeros = (Plain(swap_last_axes(tensor, stored), (prod(lead), counts[-1])) for tensor in (scale, zero))
    codes = Packed(values, folded(shape), 4, 1, _INT4)
    return Product(codes, scales, Grid(rows, 1, max(block[-1], 1), rows), biases=zeros), shape


def _tiles(parts: Parts, details: Mapping[str, Json], rounded: DType | None) -> tuple[Matrix, Shape]:
    words, pairs, block = _part(parts, "values"), _part(parts, "pairs"), _size(details, "block")
    check_dtype(words, "values", (DType.I32,))
    check_dtype(pairs, "pairs", FLOATS)
    shape, stored = sizes_of(details, "shape"), words.info.shape
    if len(stored) != 4 or stored[2] != layouts.LANES or stored[3] not in (1, 2, 4) or len(shape) != 2:
        raise ValueError(f"values of shape {list(stored)} are not the tiles of a matrix")
    rows, columns = stored[0] * layouts.TILE_ROWS, stored[1] * stored[3] * 2 * layouts.TILE_COLUMNS
    groups = columns // block
    if shape[0] > rows or shape[1] > columns or pairs.info.shape != (groups, rows, 2) or columns % block:
        raise ValueError(
            f"tiles of {rows} rows and {columns} columns, and scales of {list(pairs.info.shape)} for groups of "
            f"{block}, do not make {list(shape)}"
        )
    separated = transposed(pairs, (2, 1, 0))
    if separated is None:
        raise ValueError(f"{pairs.info.dtype} is not turned")
    both = Plain(separated, (2 * rows, groups))
    height = max(shape[0], 1)
    values = layouts.Tiles(words, (shape[0], shape[1]))
    grid = Grid(height, 1, block, height)
    return Product(values, both, grid, biases=layouts.Below(both, rows), rounded=rounded), shape


def _blocks(parts: Parts, details: Mapping[str, Json], kind: str, rounded: DType | None) -> tuple[Matrix, Shape]:
    """MX and NVFP4, which have a scale for each `block` columns."""
    values, block = _part(parts, "values"), _size(details, "block")
    codes, shape = _floats(values, kind)
    if len(shape) < 2 or shape[-1] % block:
        raise ValueError(f"rows of {list(shape)} are not in blocks of {block}")
    rows, columns = folded(shape)
    size = (rows, columns // block)
    scales = _scales(_part(parts, "scale"), size, (*shape[:-1], size[1]), swizzled=details.get("swizzled") is True)
    if (factor := parts.get("factor")) is not None:
        scales = _times(scales, factor, shape)
    elif rounded is DType.F16:  # F16 lacks some powers of two
        scales = Scaled(scales, 1.0, divides=False, rounded=rounded)
    return Product(codes, scales, Grid(max(rows, 1), 1, block, max(rows, 1)), rounded=rounded), shape


def _floats(values: LazyTensor, kind: str) -> tuple[Matrix, Shape]:
    shape = values.info.shape or (0,)
    if kind == "plain":
        check_dtype(values, "values", (DType.F8_E4M3, DType.F8_E5M2))
        return Plain(values, folded(shape)), shape
    if kind == "fp4" and values.info.dtype is DType.F4:
        values, shape = _as_bytes(values), (*shape[:-1], shape[-1] // 2)
    check_dtype(values, "values", (DType.U8,))
    if kind == "fp4":
        shape = (*shape[:-1], 2 * shape[-1])
        return Packed(values, folded(shape), 4, 1, E2M1), shape
    if kind not in _SIX_BITS:
        raise ValueError(f"there are no blocks of {kind!r}")
    return Packed(values, folded(shape), 8, 1, _SIX_BITS[kind]), shape


def _as_bytes(values: LazyTensor) -> LazyTensor:
    *lead, last = values.info.shape
    return replace(values, info=TensorInfo.of(DType.U8, (*lead, last // 2)), placement=None, alias=None)


def _scales(scale: LazyTensor, size: tuple[int, int], shape: Shape, *, swizzled: bool) -> Matrix:
    check_dtype(scale, "scale", (DType.F8_E8M0, DType.F8_E4M3))
    if not swizzled:
        if scale.info.shape != shape:
            raise ValueError(f"scale has the shape {list(scale.info.shape)}, and not {list(shape)}")
        return Plain(scale, size)
    rows, columns = -(-size[0] // layouts.SWIZZLED_ROWS), -(-size[1] // layouts.SWIZZLED_COLUMNS)
    if scale.info.numel != rows * columns * layouts.SWIZZLED_BYTES:
        raise ValueError(f"scale has the shape {list(scale.info.shape)}, and is not of {list(size)} in tiles")
    return layouts.Unswizzled(scale, scale.info.dtype, size)


def _times(scales: Matrix, factor: LazyTensor, shape: Shape) -> Matrix:
    """Scales multiplied by one number, or by one for each expert."""
    check_dtype(factor, "factor", (DType.F32,))
    if factor.info.numel == 1:
        return Scaled(scales, scalar(factor, "factor"), divides=False)
    if len(shape) != 3 or factor.info.numel != shape[0]:
        raise ValueError(f"factor has the shape {list(factor.info.shape)}, and the weight {list(shape)}")
    height, across = max(shape[1], 1), max(scales.shape[1], 1)
    return Product(scales, Plain(factor, (shape[0], 1)), Grid(height, height, across, 1))


def _nf4(parts: Parts, details: Mapping[str, Json], rounded: DType | None) -> tuple[Matrix, Shape]:
    values, scale, factor, mean, book = (
        _part(parts, name) for name in ("values", "scale", "factor", "zero_point", "codebook")
    )
    shape, block, each = sizes_of(details, "shape"), _size(details, "block"), _size(details, "columns")
    count = prod(shape)
    check_dtype(values, "values", (DType.U8,))
    check_dtype(scale, "scale", (DType.I8,))
    check_dtype(factor, "factor", FLOATS)
    check_dtype(book, "codebook", FLOATS)
    blocks = count // block
    if values.info.numel * 2 != count or count % block or count > MAX_DIM or book.info.numel != 16:
        raise ValueError(f"values of shape {list(values.info.shape)} are not {list(shape)} in blocks of {block}")
    if scale.info.numel != blocks or factor.info.numel * each != blocks:
        raise ValueError(f"{scale.info.numel} scales and {factor.info.numel} factors are not of {blocks} blocks")
    table = tuple(float(value) for value in book.elements(0, 16))
    codes = Packed(values, (1, count), 4, 1, table, order=(1, 0))
    by = Plain(factor, (1, factor.info.numel))
    scales = layouts.Quotients(Plain(scale, (1, blocks)), by, each, scalar(mean, "zero_point"), rounded)
    return Product(codes, scales, Grid(1, 1, block, 1), rounded=rounded), shape


def _size(details: Mapping[str, Json], key: str) -> int:
    size = details.get(key)
    if type(size) is not int or size < 1:
        raise ValueError(f"{key} is a number of at least 1, not {size!r}")
    return size
